"""Causal linear attention with exponential decay in eager PyTorch: one definition, three orders of summation.

out_t = sum over s <= t of exp(-rate (t - s)) (q_t . k_s) v_s, for every batch entry and head. There is no softmax and
no scale: what multiplies q is the caller's. Sums run in float32, in float64 for float64 tensors; autograd works in
all of them. Source: TransNormerLLM (arXiv 2307.14995), equations of its lightning attention and of its robust
inference; Lightning Attention-2 (arXiv 2401.04658) for the chunks.

Nothing is checked here, ``evonas.kernels.linear_attention`` does that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What tensors of a dtype are summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def decay_mask(decay: Tensor, tokens: int) -> Tensor:
    """exp(-decay (i - j)) for i >= j, else 0: (heads, tokens, tokens) from (heads,), in the dtype of decay."""
    at = torch.arange(tokens, device=decay.device)
    gap = at[:, None] - at[None, :]
    # the exponent is clamped first: exp of a large positive number is inf, and inf times the zero above is NaN
    return torch.exp(-decay[:, None, None] * gap.clamp(min=0)) * (gap >= 0)


def masked(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """The definition, with the whole (tokens, tokens) matrix: quadratic in time and memory."""
    wide = accumulator(q.dtype)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2)
    return (scores * decay_mask(decay.to(wide), q.shape[-2]) @ v.to(wide)).to(q.dtype)


def chunked(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, block: int) -> Tensor:
    """Blocks of ``block`` tokens: the definition within a block, a (D, E) state between them.

    Linear in the number of tokens in time and memory, also for the backward pass: (tokens / block) matrices of
    (block, block) and as many states. ``block`` need not divide the number of tokens.
    """
    wide = accumulator(q.dtype)
    tokens = q.shape[-2]
    blocks = -(-tokens // block)
    # zeros at the end add nothing to a state, and their outputs are cut off
    q_, k_, v_ = (_blocks(t.to(wide), blocks, block) for t in (q, k, v))
    rate = decay.to(wide)
    at = torch.arange(block, device=q.device)
    since = torch.exp(-rate[:, None] * (at + 1))[:, None, :, None]  # from the end of the block before
    until = torch.exp(-rate[:, None] * (block - 1 - at))[:, None, :, None]  # to the end of this block
    added = (k_ * until).transpose(-1, -2) @ v_
    keep = torch.exp(-rate * block)[:, None, None]
    state = torch.zeros_like(added[:, :, 0])
    before = []
    for one in added.unbind(2):  # indexing would give each block a gradient of the size of all of them
        before.append(state)
        state = keep * state + one
    scores = (q_ @ k_.transpose(-1, -2)) * decay_mask(rate, block)[:, None]
    out = scores @ v_ + (q_ * since) @ torch.stack(before, dim=2)
    return out.flatten(2, 3)[:, :, :tokens].to(q.dtype)


def _blocks(x: Tensor, blocks: int, block: int) -> Tensor:
    """(B, H, T, D) as (B, H, blocks, block, D), zeros at the end."""
    padded = F.pad(x, (0, 0, 0, blocks * block - x.shape[-2]))
    return padded.unflatten(2, (blocks, block))


def recurrent(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Token after token, as decoding does it. With gradients it keeps one state per token."""
    state, out = None, []
    for tokens in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        one, state = step(state, *tokens, decay)
        out.append(one)
    return torch.stack(out, dim=2)


def step(state: Tensor | None, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """One token: state <- exp(-rate) state + k v^T, out = q state.

    The decay multiplies what was there. The form that divides the new term instead, by exp(-rate t), has the same
    value on paper and overflows after 88 / rate tokens in float32.
    """
    wide = accumulator(q.dtype)
    new = k.to(wide)[..., :, None] * v.to(wide)[..., None, :]
    if state is not None:
        new = torch.exp(-decay.to(wide))[:, None, None] * state + new
    return (q.to(wide)[..., None, :] @ new)[..., 0, :].to(q.dtype), new


def final_state(k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """The state after the last token, as if ``step`` had been called for each: (B, H, D, E)."""
    wide = accumulator(k.dtype)
    left = torch.arange(k.shape[-2] - 1, -1, -1, device=k.device)
    weights = torch.exp(-decay.to(wide)[:, None] * left)[..., None]
    return (k.to(wide) * weights).transpose(-1, -2) @ v.to(wide)
