"""Linear attention as PyTorch operators: ``torch.ops.evonas.decayed_attention`` and ``decayed_attention_pair``.

    LA(a, b, c)_t = sum over s <= t of exp(-rate (t - s)) (a_t . b_s) c_s, or over s >= t with ``reverse``

The gradients of such a sum are such sums, so the operator is its own derivative, any number of times. Opaque to
``torch.compile``; autocast leaves it alone; launches are on the current stream. Sums run in a fixed order: equal inputs
on one device give equal bits. Imports triton with the first launch.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from evonas.kernels.linear_attention_plan import Call, Planner
from evonas.kernels.linear_attention_tiles import Device, why_no_kernel
from evonas.kernels.runtime import interpreted, limits_for
from torch import Tensor

from evonas.errors import UsageError

_TRITON = importlib.util.find_spec("triton") is not None


def why_not(q: Tensor, v: Tensor) -> str | None:
    """Why kernels cannot run on q (B, H, T, D) and v (B, H, T, E); None if they can."""
    reason = why_no_kernel(q.shape[-1], v.shape[-1], str(q.dtype).rpartition(".")[2])
    if reason is not None:
        return reason
    if q.device.type != "cuda" and not interpreted():
        return (
            f"a tensor on {q.device} (kernels need CUDA, or TRITON_INTERPRET=1 set before triton is imported)"
        )
    if not _TRITON:
        return "a machine without triton"
    return _why_not_there(q.device) if q.device.type == "cuda" and not torch.compiler.is_compiling() else None


def _why_not_there(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "ROCm (kernels are for NVIDIA GPUs)"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"a GPU of compute capability {major}.{minor} (kernels need 8.0)"


def _laid(x: Tensor) -> Tensor:
    """The tensor itself if kernels can read it: the last axis contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(calls: Sequence[Call], device: torch.device) -> None:
    from evonas.kernels import linear_attention_triton as kernels

    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for call in calls:
            getattr(kernels, call.function)[call.grid](**call.arguments, **call.options)


def _device(x: Tensor) -> Device:
    """What launches on the tensor's device are planned for."""
    processors = limits_for(x.device).processors
    if x.device.type != "cuda":
        return Device(processors, interpreted=interpreted())
    return Device(processors, torch.cuda.get_device_capability(x.device)[0] in (9, 10))


def _planner(x: Tensor, rates: Tensor, reverse: bool) -> Planner:
    def allocate(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    return Planner(rates.contiguous(), allocate, reverse, _device(x))


def _check(tensors: Sequence[Tensor], rates: Tensor) -> None:
    """Raise for what the kernels would read wrongly: first tensors (B, H, T, N), the others (B, H, T, M)."""
    first = tensors[0]
    narrow, wide = tensors[:2], tensors[2:]
    reason = why_not(first, wide[0]) if first.ndim == 4 and wide[0].ndim == 4 else "these shapes"
    if reason is None and first.numel() == 0:
        reason = "empty tensors"
    same = all(t.shape == first.shape for t in narrow) and all(t.shape == wide[0].shape for t in wide)
    if reason is None and not (
        same and wide[0].shape[:3] == first.shape[:3] and rates.shape == first.shape[1:2]
    ):
        reason = f"shapes {[tuple(t.shape) for t in tensors]} with rates {tuple(rates.shape)}"
    if reason is None and not all(t.dtype == first.dtype and t.device == first.device for t in tensors):
        reason = f"tensors in {[str(t.dtype) for t in tensors]} on {[str(t.device) for t in tensors]}"
    if reason is None and (rates.dtype != torch.float32 or rates.device != first.device):
        reason = f"rates in {rates.dtype} on {rates.device}"
    if reason is not None:
        raise UsageError(f"no kernel for {reason}", hint="use form='auto' or form='chunked'")


@torch.library.custom_op("evonas::decayed_attention", mutates_args=())
def decayed_attention(a: Tensor, b: Tensor, c: Tensor, rates: Tensor, reverse: bool) -> Tensor:
    """LA(a, b, c).

    Args:
        a, b: (B, H, T, N). c: (B, H, T, M). N and M multiples of 8 from 16 to 128; one dtype of bfloat16, float16,
            float32; any strides (copied if the last axis is not contiguous); not empty.
        rates: (H,) float32, at least 0, without a gradient.
        reverse: sum over later tokens.

    Returns:
        (B, H, T, M), in the memory order of c.

    Raises:
        UsageError: tensors that there is no kernel for.
    """
    _check((a, b, c), rates)
    a, b, c = _laid(a), _laid(b), _laid(c)
    out = torch.empty_like(c)
    _launch(_planner(a, rates, reverse).attention(a, b, c, out), a.device)
    return out


@decayed_attention.register_fake
def _(a: Tensor, b: Tensor, c: Tensor, rates: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(_laid(c))


@torch.library.custom_op("evonas::decayed_attention_pair", mutates_args=())
def decayed_attention_pair(
    a: Tensor, b: Tensor, c: Tensor, g: Tensor, rates: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """LA(c, g, a) and LA(b, a, g), in one sweep where the state fits into registers.

    Args:
        a, b: (B, H, T, N). c, g: (B, H, T, M). The others as in ``decayed_attention``.

    Returns:
        (B, H, T, N) in the memory order of b and (B, H, T, M) in that of c.

    Raises:
        UsageError: tensors that there is no kernel for.
    """
    _check((a, b, c, g), rates)
    a, b, c, g = _laid(a), _laid(b), _laid(c), _laid(g)
    db, dc = torch.empty_like(b), torch.empty_like(c)
    _launch(_planner(a, rates, reverse).pair(a, b, c, g, db, dc), a.device)
    return db, dc


@decayed_attention_pair.register_fake
def _(a: Tensor, b: Tensor, c: Tensor, g: Tensor, rates: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_laid(b)), torch.empty_like(_laid(c))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    a, b, c, rates = ctx.saved_tensors
    need_a, need_b, need_c = ctx.needs_input_grad[:3]
    one, other = ctx.reverse, not ctx.reverse
    da = decayed_attention(g, c, b, rates, one) if need_a else None
    db = dc = None
    if need_b and need_c:
        db, dc = decayed_attention_pair(a, b, c, g, rates, other)
    else:
        db = decayed_attention(c, g, a, rates, other) if need_b else None
        dc = decayed_attention(b, a, g, rates, other) if need_c else None
    return da, db, dc, None, None


def _backward_pair(ctx: Any, u: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
    a, b, c, g, rates = ctx.saved_tensors
    need_a, need_b, need_c, need_g = ctx.needs_input_grad[:4]
    one, other = ctx.reverse, not ctx.reverse
    da = db = dc = dg = None
    if need_a:
        da = decayed_attention(g, c, u, rates, other) + decayed_attention(g, w, b, rates, other)
    if need_b:
        db = decayed_attention(w, g, a, rates, one)
    if need_c:
        dc = decayed_attention(u, a, g, rates, one)
    if need_g:
        dg = decayed_attention(a, u, c, rates, other) + decayed_attention(a, b, w, rates, other)
    return da, db, dc, dg, None, None


decayed_attention.register_autograd(_backward, setup_context=_setup)
decayed_attention_pair.register_autograd(_backward_pair, setup_context=_setup)
