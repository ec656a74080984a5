"""The kernels as PyTorch operators: ``torch.ops.evonas.layer_forward`` and ``layer_backward``.

They are opaque to ``torch.compile`` and ``torch.export`` (each has a fake kernel that gives shapes alone), autograd
is registered for the forward one, autocast leaves them alone, and they launch on the current stream, so that CUDA
graphs capture them. The layer travels as a string of JSON: a program that was exported finds its kernels in another
process.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from evonas.kernels.axes import dim_sizes
from evonas.kernels.lowering import passes, plans
from evonas.kernels.programs import LayerSpec
from evonas.kernels.runtime import executable, interpreted, limits_for, maths_for
from torch import Tensor

from evonas.errors import UsageError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def encode(spec: LayerSpec) -> str:
    """A spec as the operators take it."""
    return json.dumps(asdict(spec), sort_keys=True)


@lru_cache(maxsize=4096)
def decode(text: str) -> LayerSpec:
    """A spec from its text.

    Raises:
        UsageError: not the text of a spec.
    """
    try:
        return LayerSpec(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{text[:200]!r} does not describe a layer: {error}", hint="use encode()") from None


def why_not(x: Tensor) -> str | None:
    """Why kernels cannot run on a tensor; None if they can."""
    if x.dtype not in DTYPES:
        return f"dtype {x.dtype} (kernels take float32, bfloat16 and float16)"
    if x.numel() == 0:
        return f"an empty tensor of shape {tuple(x.shape)}"
    if not x.is_cuda and not interpreted():
        return (
            f"a tensor on {x.device} (kernels need CUDA, or TRITON_INTERPRET=1 set before triton is imported)"
        )
    return None


def _check(
    spec: LayerSpec,
    x: Tensor,
    alike: Sequence[Tensor | None],
    vectors: Sequence[Tensor],
    others: Sequence[Tensor],
) -> None:
    """Raise for what kernels would read wrongly. alike: tensors like x. others: anything on its device."""
    reason = why_not(x)
    if reason:
        raise UsageError(f"no kernel for {reason}", hint="use backend='auto' or backend='eager'")
    same = [t for t in alike if t is not None]
    for t in same:
        if t.shape != x.shape or t.dtype != x.dtype:
            raise UsageError(
                f"a tensor of shape {tuple(t.shape)} in {t.dtype} beside x of {tuple(x.shape)} in {x.dtype}",
                hint="give tensors of one shape and dtype",
            )
    channels = x.shape[1] if spec.layout == "nchw" else x.shape[-1]
    if len(vectors) != len(spec.vectors) or any(v.shape != (channels,) for v in vectors):
        raise UsageError(
            f"vectors of shapes {[tuple(v.shape) for v in vectors]}, the layer needs {', '.join(spec.vectors)} of "
            f"({channels},) each"
        )
    for other in (*same, *vectors, *others):
        if other.device != x.device:
            raise UsageError(
                f"x is on {x.device} and another tensor on {other.device}", hint="move the module with .to()"
            )


def _device(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@torch.library.custom_op("evonas::layer_forward", mutates_args=())
def layer_forward(
    x: Tensor,
    residual: Tensor | None,
    vectors: Sequence[Tensor],
    statistics: Sequence[Tensor],
    layer: str,
    groups: int,
) -> list[Tensor]:
    """One forward pass.

    Args:
        x: (B, C, H, W) or (B, T, C); float32, bfloat16 or float16; copied if its memory is not in the layer's order.
        residual: like x, if the layer has one: x + residual takes the place of x.
        vectors: ``LayerSpec.vectors``, each (C,), any floating dtype.
        statistics: in evaluation, the values of the nodes over the batch in graph order, float32.
        layer: ``encode(spec)``.
        groups: number of groups of channels, a divisor of C.

    Returns:
        y; with a residual the sum too; then what backward needs (``Passes.saved_on``), then the batch's statistics
        (``Passes.batch``), float32.

    Raises:
        UsageError: a dtype, device or size that there are no kernels for, or tensors on two devices.
    """
    spec = decode(layer)
    if spec.residual != (residual is not None):
        raise UsageError(
            f"residual={spec.residual} in the layer, but {'no' if residual is None else 'a'} residual is given"
        )
    _check(spec, x, [residual], vectors, statistics)
    form = _FORMATS[spec.memory]
    x = x.contiguous(memory_format=form)
    limits = limits_for(x.device)
    run = executable(spec, tuple(x.shape), groups, False, maths_for(spec, x.dtype, x.device), limits)
    tensors = {"x": x, "y": torch.empty_like(x), **_inputs(spec, vectors, statistics)}
    if spec.residual:
        assert residual is not None
        tensors["residual"] = residual.contiguous(memory_format=form)
        tensors["sum"] = torch.empty_like(x)
    with _device(x):
        made = run.run(tensors, x.device)
    both = plans(spec, tuple(x.shape), groups, limits)
    outputs = [tensors["y"], *([tensors["sum"]] if spec.residual else [])]
    # two names may share a buffer's values, never its memory: an operator's outputs must not alias
    return outputs + [made[name] for name in (*both.saved, *both.batch)]


@layer_forward.register_fake
def _(
    x: Tensor,
    residual: Tensor | None,
    vectors: Sequence[Tensor],
    statistics: Sequence[Tensor],
    layer: str,
    groups: int,
) -> list[Tensor]:
    spec = decode(layer)
    both = passes(spec, False)
    y = torch.empty_like(x, memory_format=_FORMATS[spec.memory])
    sizes = both.forward.axes.sizes(dim_sizes(spec.layout, tuple(x.shape), groups))
    made = []
    for name in (*both.saved_on(sizes), *both.batch):
        varies = both.forward.ir[both.forward.statistics[name]].varies
        shape = [n for a, n in sizes.items() if a in varies]
        made.append(x.new_empty(shape, dtype=torch.float32))
    return [y, *([torch.empty_like(y)] if spec.residual else []), *made]


@torch.library.custom_op("evonas::layer_backward", mutates_args=())
def layer_backward(
    x: Tensor,
    dy: Tensor,
    dsum: Tensor | None,
    vectors: Sequence[Tensor],
    statistics: Sequence[Tensor],
    saved: Sequence[Tensor],
    layer: str,
    groups: int,
) -> list[Tensor]:
    """One backward pass.

    Args:
        x: the input, or the sum if the layer has a residual. dy, dsum: gradients of the outputs, like x.
        saved: what forward returned for it. vectors, statistics, layer, groups: as in ``layer_forward``.

    Returns:
        dx (which is the residual's gradient too), then one gradient per vector, each of the vector's shape and
        dtype. Sums run in a fixed order, so equal inputs give equal bits.

    Raises:
        UsageError: as ``layer_forward``.
    """
    spec = decode(layer)
    _check(spec, x, [dy, dsum], vectors, [*statistics, *saved])
    saved = [s.contiguous() for s in saved]
    form = _FORMATS[spec.memory]
    x, dy = x.contiguous(memory_format=form), dy.contiguous(memory_format=form)
    limits = limits_for(x.device)
    both = plans(spec, tuple(x.shape), groups, limits)
    run = executable(spec, tuple(x.shape), groups, True, maths_for(spec, x.dtype, x.device), limits)
    tensors = {"x": x, "dy": dy, "dx": torch.empty_like(x), **_inputs(spec, vectors, statistics)}
    tensors |= dict(zip(both.saved, saved, strict=True))
    if spec.residual:
        tensors["dsum"] = torch.zeros_like(x) if dsum is None else dsum.contiguous(memory_format=form)
    with _device(x):
        made = run.run(tensors, x.device)
        rows = made["rows"].sum(1) if "rows" in made else None
        gradients = []
        for name, vector in zip(spec.vectors, vectors, strict=True):
            place = both.backward.vectors.get(f"d{name}")
            if place is not None and rows is not None:
                found = rows[place[1]]
            else:
                found = made.get(f"d{name}", vector.new_zeros(()))
            gradients.append(found.reshape(-1).expand(vector.shape).to(vector.dtype, copy=True))
    return [tensors["dx"], *gradients]


@layer_backward.register_fake
def _(
    x: Tensor,
    dy: Tensor,
    dsum: Tensor | None,
    vectors: Sequence[Tensor],
    statistics: Sequence[Tensor],
    saved: Sequence[Tensor],
    layer: str,
    groups: int,
) -> list[Tensor]:
    dx = torch.empty_like(x, memory_format=_FORMATS[decode(layer).memory])
    return [dx, *[torch.empty_like(v) for v in vectors]]


def _inputs(spec: LayerSpec, vectors: Sequence[Tensor], statistics: Sequence[Tensor]) -> dict[str, Tensor]:
    named = {name: v.contiguous() for name, v in zip(spec.vectors, vectors, strict=True)}
    return named | {f"statistic{n}": s.contiguous() for n, s in enumerate(statistics)}


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, _, vectors, statistics, layer, groups = inputs
    spec = decode(layer)
    ctx.layer, ctx.groups, ctx.residual = layer, groups, spec.residual
    ctx.counts = (len(vectors), len(statistics), len(output))
    first = 2 if spec.residual else 1
    both = passes(spec, False)
    sizes = both.forward.axes.sizes(dim_sizes(spec.layout, tuple(x.shape), groups))
    saved = output[first : first + len(both.saved_on(sizes))]
    ctx.mark_non_differentiable(*output[first:])
    ctx.save_for_backward(output[1] if spec.residual else x, *vectors, *statistics, *saved)


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    n_vectors, n_statistics, _ = ctx.counts
    x, *rest = ctx.saved_tensors
    vectors, rest = rest[:n_vectors], rest[n_vectors:]
    statistics, saved = rest[:n_statistics], rest[n_statistics:]
    dy = gradients[0]
    dsum = gradients[1] if ctx.residual else None
    if dy is None:
        dy = torch.zeros_like(x)
    dx, *found = layer_backward(x, dy, dsum, vectors, statistics, saved, ctx.layer, ctx.groups)
    return dx, dx if ctx.residual else None, found, [None] * n_statistics, None, None


layer_forward.register_autograd(_backward, setup_context=_setup)
