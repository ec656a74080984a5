"""TransNormerLLM (Qin et al. 2023, arXiv 2307.14995): linear attention with decay, no softmax anywhere.

A block is ``x + GLA(norm(x))``, then ``x + SGLU(norm(x))``. Slots: pre_attention, post_attention (over all heads at
once), pre_ffn and final, SimpleRMSNorm where no layer is given; ffn, on the gate of SGLU, the identity where none is
given, as published.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evonas.kernels.linear_attention import (
    decay_rates,
    final_state,
    lightning_attention,
    lrpe,
    lrpe_angles,
    recurrent_step,
)
from evonas.proxies.language_spec import LanguageSpec
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.networks.decoding import Session, generate
from evonas.proxies.networks.tokens import GatedFFN, SimpleRMSNorm, filled, heads_of, joined


class LinearizedPositions(nn.Module):
    """LRPE with angles that are learned: (B, H, T, D) -> (B, H, T, 2 D)."""

    #: angles are no weights of a linear map
    undecayed = True

    def __init__(self, heads: int, features: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(lrpe_angles(heads, features))

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        return lrpe(x, self.theta, offset)


class GatedLinearAttention(nn.Module):
    """``out(norm(o) * u)``, o the linear attention of silu(q), silu(k) and v with a fixed decay per head."""

    decay: Tensor

    def __init__(self, spec: LanguageSpec, layer: int, make_layer: MakeLayer) -> None:
        super().__init__()
        width = spec.width
        self.heads = spec.heads
        self.head_dim = width // spec.heads
        #: factor on q . k; 1, or what a parametrization puts here.
        self.logit_scale = 1.0
        #: of ``lightning_attention``
        self.form = "auto"
        self.qkvu = nn.Linear(width, 4 * width, bias=False)
        placed = spec.lrpe == "all" or (spec.lrpe == "first" and layer == 0)
        self.positions = LinearizedPositions(spec.heads, self.head_dim) if placed else None
        self.register_buffer(
            "decay", decay_rates(spec.heads, layer, spec.depth, spec.decay), persistent=False
        )
        self.norm = filled(make_layer, width, "post_attention", SimpleRMSNorm)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, session: Session | None = None) -> Tensor:
        """x: (B, T, C), the tokens after those of the session."""
        q, k, v, u = self.qkvu(x).chunk(4, -1)
        q, k, v = (heads_of(part, self.heads) for part in (F.silu(q), F.silu(k), v))
        if self.positions is not None:
            at = 0 if session is None else session.position
            q, k = self.positions(q, at), self.positions(k, at)
        if self.logit_scale != 1.0:
            q = q * self.logit_scale
        if session is None:
            mixed = joined(lightning_attention(q, k, v, self.decay, form=self.form))
            normed = self.norm(mixed)
        else:
            normed = session.layer(self.norm, joined(self._continued(q, k, v, session)))
        out: Tensor = self.out(normed * u)
        return out

    def _continued(self, q: Tensor, k: Tensor, v: Tensor, session: Session) -> Tensor:
        """A whole prompt at once, then token by token from a state of constant size."""
        state = session.recall(self)
        if state is None:
            session.remember(self, final_state(k, v, self.decay))
            return lightning_attention(q, k, v, self.decay, form=self.form)
        rows = []
        for t in range(q.shape[-2]):
            row, state = recurrent_step(state, q[:, :, t], k[:, :, t], v[:, :, t], self.decay)
            rows.append(row)
        session.remember(self, state)
        return torch.stack(rows, 2)


class Block(nn.Module):
    """Attention and feed-forward network, each on a norm of the sum so far and added to it."""

    def __init__(self, spec: LanguageSpec, layer: int, make_layer: MakeLayer) -> None:
        super().__init__()
        width, hidden = spec.width, spec.features
        self.pre_attention = filled(make_layer, width, "pre_attention", SimpleRMSNorm)
        self.attention = GatedLinearAttention(spec, layer, make_layer)
        self.pre_ffn = filled(make_layer, width, "pre_ffn", SimpleRMSNorm)
        self.ffn = GatedFFN(width, hidden, filled(make_layer, hidden, "ffn", nn.Identity))

    def forward(self, x: Tensor, session: Session | None = None) -> Tensor:
        if session is None:
            x = x + self.attention(self.pre_attention(x))
            return x + self.ffn(self.pre_ffn(x))
        x = x + self.attention(session.layer(self.pre_attention, x), session)
        normed = session.layer(self.pre_ffn, x)
        return x + self.ffn(normed, lambda y: session.layer(self.ffn.act, y))


class TransNormer(nn.Module):
    """Token numbers (B, T) -> logits (B, T, vocabulary)."""

    def __init__(self, spec: LanguageSpec, make_layer: MakeLayer, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        #: factor on embeddings: sqrt(width) as released; muP keeps that of the base width
        self.input_scale = float(spec.width) ** 0.5
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(Block(spec, layer, make_layer) for layer in range(spec.depth))
        self.final = filled(make_layer, spec.width, "final", SimpleRMSNorm)
        self.readout = nn.Linear(spec.width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each: int64 (B, T) -> (B, T, vocabulary)."""
        x = self.embedding(tokens) * self.input_scale
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.final(x))
        return logits

    def read(self, tokens: Tensor, session: Session) -> Tensor:
        """The same for tokens that follow those of a session, at a cost per token that does not grow."""
        x = self.embedding(tokens) * self.input_scale
        for block in self.blocks:
            x = block(x, session)
        x = session.layer(self.final, x)
        session.position += tokens.shape[1]
        logits: Tensor = self.readout(x)
        return logits

    def generate(self, prompt: Any, tokens: int, *, temperature: float = 0.0, seed: int = 0) -> Tensor:
        """New tokens after a prompt, at a constant cost and memory per token; see ``decoding.generate``."""
        return generate(self, prompt, tokens, temperature=temperature, seed=seed)


def transnormer(spec: LanguageSpec, make_layer: MakeLayer, vocabulary: int, outputs: int) -> nn.Module:
    """int64 (B, T) -> logits (B, T, vocabulary); ``outputs`` is the vocabulary too."""
    return TransNormer(spec, make_layer, vocabulary)
