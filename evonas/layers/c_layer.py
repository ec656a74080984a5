"""A layer that runs its generated C where it can, and the eager reference elsewhere."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph.graph import SCALAR_LEAVES, Graph
from evonas.kernels.axes import MEMORY_ORDERS, dim_sizes
from evonas.kernels.c_operator import CKernels, c_layer, kernels, why_not
from evonas.kernels.programs import LayerSpec
from evonas.layers.module import GraphLayer
from evonas.layers.statistics import BatchStatistic

_WARNED: set[str] = set()
#: Shape, strides and offset of a statistic in the split view of a layout.
_View = tuple[tuple[int, ...], tuple[int, ...], int]


class CGraphLayer(GraphLayer):
    """The same layer with the same parameters, buffers and state as ``GraphLayer``, on generated C.

    The C takes float32 tensors on the CPU, runs on one thread, has no second derivative, and writes channels_last
    output for channels_last input. It is compiled when the first tensor comes, once per layer, memory order and mode.
    Other tensors, tracing, ``torch.compile`` and ``torch.func`` go to the eager reference, with ``strict`` they are an
    error. Without ``strict`` a graph that cannot be lowered, or a machine without a compiler, goes there with one
    warning.

    Args:
        strict: never use the eager reference.
        options: of ``GraphLayer``.

    Raises:
        UsageError: strict, and the graph cannot be lowered or there is no C for the input.
        EnvironmentUnusable: strict, and there is no C compiler that works.
    """

    def __init__(self, graph: Graph, channels: int, *, strict: bool = False, **options: Any) -> None:
        super().__init__(graph, channels, **options)
        self.strict = strict
        self._spec = LayerSpec(
            str(self.graph), self.layout.name, affine=self.weight is not None, eps=self.eps
        )
        self._names = self._spec.vectors
        self._scalars = any(name in SCALAR_LEAVES for name in self._names)
        self._made: dict[tuple[str, bool], CKernels | None] = {}
        self._views: dict[tuple[torch.Size, str], list[_View]] = {}

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"_made": {}}

    def _run(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        total = None if residual is None else x + residual
        y = self._c(x if total is None else total)
        return super()._run(x, residual) if y is None else (y, total)

    def _c(self, x: Tensor) -> Tensor | None:
        """The output by way of C, or None if it is the reference's turn."""
        parameters = self._parameters
        vectors = [parameters[name] for name in self._names]
        reason = _refusal(x, vectors)
        if reason:
            if self.strict:
                raise UsageError(f"no C kernel for {reason}", hint="use the eager reference, backend='eager'")
            return None
        given = [self.per_channel(name) for name in self._names] if self._scalars else vectors
        memory = "contiguous"
        if not x.is_contiguous():
            if self.layout.name == "nchw" and x.is_contiguous(memory_format=torch.channels_last):
                memory = "channels_last"
            else:
                x = x.contiguous()
        kept = [s for s in self.statistics if isinstance(s, BatchStatistic)] if self.statistics else []
        training = self.training or not kept
        if not training and any(s.source_weight != 1.0 for s in kept):
            if self.strict:
                raise UsageError("no C kernel for statistics of training and of the batch in one")
            return None
        key = (memory, training)
        made = self._made[key] if key in self._made else self._make(key)
        if made is None:
            return None
        if not kept:
            return c_layer(made, self.groups, x, given)  # type: ignore[arg-type]
        if not training:
            averages = [s.average(torch.float32).contiguous() for s in kept]
            return c_layer(made, self.groups, x, [*given, *averages])
        buffers: list[Tensor] = []
        y = c_layer(made, self.groups, x, given, buffers)  # type: ignore[arg-type]
        views = self._views.get((x.shape, memory)) or self._split_views(made, x.shape, memory, kept)
        for statistic, view in zip(kept, views, strict=True):
            statistic.update(buffers[0].as_strided(*view))
        return y

    def _make(self, key: tuple[str, bool]) -> CKernels | None:
        memory, training = key
        made = None
        try:
            made = kernels(replace(self._spec, memory=memory, training=training))
        except (UsageError, EnvironmentUnusable) as error:
            if self.strict:
                raise
            if error.message not in _WARNED:
                _WARNED.add(error.message)
                warnings.warn(f"{error.message}; the eager reference is used", stacklevel=4)
        self._made[key] = made
        return made

    def _split_views(
        self, made: CKernels, shape: torch.Size, memory: str, kept: list[BatchStatistic]
    ) -> list[_View]:
        """Where the batch's statistics lie in the buffer that C leaves, with the dims of the layout."""
        sizes = dim_sizes(self.layout.name, tuple(shape), self.groups)
        views: list[_View] = []
        found = made.sizes(shape, self.groups).statistics
        for statistic, name in zip(kept, made.passes.batch, strict=True):
            reduced = self.layout.covered(statistic.index)
            strides, step = {}, 1
            for dim in reversed(MEMORY_ORDERS[self.layout.name, memory]):
                strides[dim] = step
                step *= 1 if dim in reduced else sizes[dim]
            dims = self.layout.dims
            split = tuple(1 if d in reduced else sizes[d] for d in dims)
            views.append((split, tuple(strides[d] for d in dims), found[name][0]))
        self._views[shape, memory] = views
        return views


def _refusal(x: Tensor, vectors: list[nn.Parameter | None]) -> str | None:
    """Why the C cannot run, or None."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a layer that is being traced"
    if torch._C._are_functorch_transforms_active():  # what autograd.Function itself asks
        return "a layer under a transform of torch.func"
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return f"a {type(x).__name__} (C kernels take plain tensors)"
    reason = why_not(x)
    if reason:
        return reason
    for v in vectors:
        if v is None or v.dtype is not torch.float32 or not v.is_cpu or not v.is_contiguous():
            return "parameters that are not float32 on the CPU"
    return None
