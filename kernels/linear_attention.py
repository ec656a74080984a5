"""Lightning attention: causal linear attention with a fixed exponential decay per head.

out_t = sum over s <= t of exp(-decay (t - s)) (q_t . k_s) v_s. The three eager forms are in
``linear_attention_eager``; kernels for CUDA in ``linear_attention_triton``, as an operator in
``linear_attention_operator``; decay schedules and LRPE in ``linear_attention_positions``.
"""

from __future__ import annotations

import torch
from evonas.kernels import linear_attention_eager as eager
from evonas.kernels.casting import uncast
from evonas.kernels.linear_attention_positions import decay_rates, lrpe, lrpe_angles
from torch import Tensor

from evonas.errors import UsageError

__all__ = [
    "FORMS",
    "decay_rates",
    "final_state",
    "lightning_attention",
    "lrpe",
    "lrpe_angles",
    "recurrent_step",
]

FORMS = ("auto", "masked", "chunked", "recurrent", "triton")


def lightning_attention(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, *, form: str = "auto", block: int = 64
) -> Tensor:
    """Causal linear attention with decay, without softmax and without a scale.

    Args:
        q, k: (B, H, T, D).
        v: (B, H, T, E); q, k, v of one floating dtype and device, strided in any way. Any size may be 0.
        decay: (H,), the rate at which the past fades: weight exp(-decay (i - j)) of token j for token i; floating,
            finite, at least 0 (0: no decay). It is fixed: there is no gradient to it.
        form: ``masked`` the whole T x T matrix; ``chunked`` linear in T; ``recurrent`` token by token; ``triton``
            kernels, on CUDA or in Triton's interpreter; ``auto`` kernels where they run, else ``chunked``.
        block: tokens per chunk of ``chunked``; need not divide T.

    Returns:
        (B, H, T, E) in the dtype of q. Sums are in float32, in float64 for float64 tensors, under autocast too.

    Raises:
        UsageError: an unknown form; shapes, dtypes or devices that do not fit; a decay of another length, with a
            gradient, negative or not finite (on CUDA and under torch.compile its values are not looked at, which
            would wait for the device); for ``triton`` tensors that there is no kernel for.
    """
    if form not in FORMS:
        raise UsageError(f"attention in the form {form!r}", hint=f"one of {', '.join(FORMS)}")
    if block < 1:
        raise UsageError(f"chunks of {block} tokens", hint="block=1 or more")
    _check(q, k, v, decay, 4)
    if form == "masked" or 0 in (*q.shape, *v.shape):
        with uncast(q):
            return eager.masked(q, k, v, decay)
    if form == "recurrent":
        with uncast(q):
            return eager.recurrent(q, k, v, decay)
    if form == "triton" or (form == "auto" and q.device.type == "cuda"):
        from evonas.kernels.linear_attention_operator import decayed_attention, why_not

        reason = why_not(q, v)
        if reason is None:
            return decayed_attention(q, k, v, decay.to(torch.float32), False)
        if form == "triton":
            raise UsageError(f"no kernel for {reason}", hint="use form='auto' or form='chunked'")
    with uncast(q):
        return eager.chunked(q, k, v, decay, min(block, q.shape[-2]))


def recurrent_step(
    state: Tensor | None, q: Tensor, k: Tensor, v: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of decoding: the same cost and memory after any number of tokens, and no overflow.

    Args:
        state: (B, H, D, E) from the step before or from ``final_state``; None before the first token.
        q, k: (B, H, D). v: (B, H, E). decay: (H,), as in ``lightning_attention``.

    Returns:
        out (B, H, E) in the dtype of q, and the new state in float32 (float64 for float64 tensors).

    Raises:
        UsageError: as ``lightning_attention``; a state of another shape.
    """
    _check(q, k, v, decay, 3)
    shape = (*q.shape, v.shape[-1])
    if state is not None and state.shape != shape:
        raise UsageError(
            f"a state of {tuple(state.shape)} for q {tuple(q.shape)} and v {tuple(v.shape)}",
            hint=f"{shape}, or None",
        )
    with uncast(q):
        return eager.step(state, q, k, v, decay)


def final_state(k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """The state after a whole prompt, from which ``recurrent_step`` goes on.

    Args:
        k, v, decay: as in ``lightning_attention``.

    Returns:
        (B, H, D, E) in float32 (float64 for float64 tensors).

    Raises:
        UsageError: as ``lightning_attention``.
    """
    _check(k, k, v, decay, 4)
    with uncast(k):
        return eager.final_state(k, v, decay)


def _check(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, axes: int) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, decay {tuple(decay.shape)}"
    wanted = (
        "(B, H, T, D), (B, H, T, D), (B, H, T, E), (H,)"
        if axes == 4
        else "(B, H, D), (B, H, D), (B, H, E), (H,)"
    )
    if q.ndim != axes or q.shape != k.shape or v.shape[:-1] != q.shape[:-1] or decay.shape != q.shape[1:2]:
        raise UsageError(f"linear attention of {shapes}", hint=f"shapes are {wanted}")
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise UsageError(
            f"linear attention of {q.dtype}, {k.dtype} and {v.dtype}", hint="q, k and v of one floating dtype"
        )
    if not q.device == k.device == v.device == decay.device:
        raise UsageError(
            f"q on {q.device}, k on {k.device}, v on {v.device}, decay on {decay.device}",
            hint="move the module with .to(); keep decay as a buffer",
        )
    if not decay.is_floating_point():
        raise UsageError(f"a decay in {decay.dtype}", hint="give rates in float32")
    if decay.requires_grad and torch.is_grad_enabled():
        raise UsageError("a decay that asks for a gradient: it is fixed", hint="give decay.detach()")
    if decay.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_rates(decay)


def _check_rates(decay: Tensor) -> None:
    good = torch.isfinite(decay) & (decay >= 0)
    if not bool(good.all()):
        head = int((~good).nonzero()[0])
        raise UsageError(
            f"decay of head {head} is {float(decay[head])}: the past would grow without bound or be undefined",
            hint="rates are finite and at least 0; 0 is no decay",
        )
