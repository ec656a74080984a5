"""A Transformer decoder, pre-norm, with RoPE and SwiGLU or an MLP, as Llama has them (arXiv 2302.13971).

Slots: pre_attention and pre_ffn in every block, ffn (the activation), final. Where the spec says ``post_norms``, also
post_attention and post_ffn, on the branches before they are added; they are left out where no layer is given.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evonas.proxies.language_spec import LanguageSpec
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.networks.decoding import Session, generate
from evonas.proxies.networks.tokens import MLP, GatedFFN, RMSNorm, filled, heads_of, in_slot, joined, rotate


class CausalAttention(nn.Module):
    """Softmax attention to the tokens before and the token itself, positions by RoPE."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = features // heads
        #: factor on q . k; 1 / sqrt(head_dim), or what a parametrization puts here.
        self.logit_scale = self.head_dim**-0.5
        self.qkv = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor, session: Session | None = None) -> Tensor:
        """x: (B, T, C), the tokens after those of the session."""
        at = 0 if session is None else session.position
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        q, k = rotate(q, at), rotate(k, at)
        if session is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.logit_scale)
        else:
            mixed = self._cached(q, k, v, session)
        out: Tensor = self.out(joined(mixed))
        return out

    def _cached(self, q: Tensor, k: Tensor, v: Tensor, session: Session) -> Tensor:
        """Attention to everything that the session has seen; keys and values are kept."""
        cache = session.recall(self)
        if cache is None:
            shape = (*k.shape[:2], session.room, k.shape[-1])
            cache = (k.new_zeros(shape), v.new_zeros(shape))
            session.remember(self, cache)
        at, end = session.position, session.position + q.shape[-2]
        for kept, new in zip(cache, (k, v), strict=True):
            kept[:, :, at:end] = new
        if at == 0:  # the whole prompt, without a mask of its square
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.logit_scale)
        places = torch.arange(end, device=q.device)
        mask = places <= torch.arange(at, end, device=q.device)[:, None]
        keys, values = (kept[:, :, :end] for kept in cache)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self.logit_scale)


class Block(nn.Module):
    """``x + post(attention(pre(x)))``, then the same with the feed-forward network."""

    def __init__(self, spec: LanguageSpec, make_layer: MakeLayer) -> None:
        super().__init__()
        width, hidden = spec.width, spec.features

        def post(slot: str) -> nn.Module | None:
            return in_slot(make_layer, width, slot, lambda: None) if spec.post_norms else None

        self.pre_attention = filled(make_layer, width, "pre_attention", lambda: RMSNorm(width))
        self.attention = CausalAttention(width, spec.heads)
        self.post_attention = post("post_attention")
        self.pre_ffn = filled(make_layer, width, "pre_ffn", lambda: RMSNorm(width))
        act = filled(make_layer, hidden, "ffn", nn.SiLU)
        self.ffn: GatedFFN | MLP = (GatedFFN if spec.ffn == "swiglu" else MLP)(width, hidden, act)
        self.post_ffn = post("post_ffn")

    def forward(self, x: Tensor, session: Session | None = None) -> Tensor:
        def layer(part: nn.Module | None, y: Tensor) -> Tensor:
            if part is None:
                return y
            made: Tensor = part(y) if session is None else session.layer(part, y)
            return made

        act = None if session is None else lambda y: layer(self.ffn.act, y)
        x = x + layer(self.post_attention, self.attention(layer(self.pre_attention, x), session))
        return x + layer(self.post_ffn, self.ffn(layer(self.pre_ffn, x), act))


class Transformer(nn.Module):
    """Token numbers (B, T) -> logits (B, T, vocabulary)."""

    def __init__(self, spec: LanguageSpec, make_layer: MakeLayer, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(Block(spec, make_layer) for _ in range(spec.depth))
        self.final = filled(make_layer, spec.width, "final", lambda: RMSNorm(spec.width))
        self.readout = nn.Linear(spec.width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each: int64 (B, T) -> (B, T, vocabulary)."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.final(x))
        return logits

    def read(self, tokens: Tensor, session: Session) -> Tensor:
        """The same for tokens that follow those of a session."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, session)
        x = session.layer(self.final, x)
        session.position += tokens.shape[1]
        logits: Tensor = self.readout(x)
        return logits

    def generate(self, prompt: Any, tokens: int, *, temperature: float = 0.0, seed: int = 0) -> Tensor:
        """New tokens after a prompt, with a cache of keys and values; see ``decoding.generate``."""
        return generate(self, prompt, tokens, temperature=temperature, seed=seed)


def transformer(spec: LanguageSpec, make_layer: MakeLayer, vocabulary: int, outputs: int) -> nn.Module:
    """int64 (B, T) -> logits (B, T, vocabulary); ``outputs`` is the vocabulary too."""
    return Transformer(spec, make_layer, vocabulary)
