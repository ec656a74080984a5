"""A layer that runs its generated Triton kernels where it can, and the eager reference elsewhere."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evonas.errors import UsageError
from evonas.graph.graph import Graph
from evonas.kernels.axes import MEMORY_ORDERS, dim_sizes
from evonas.kernels.lowering import passes
from evonas.kernels.operator import encode, layer_forward, why_not
from evonas.kernels.programs import LayerSpec
from evonas.layers.module import GraphLayer
from evonas.layers.statistics import BatchStatistic

_WARNED: set[str] = set()


class KernelLayer(GraphLayer):
    """The same layer with the same parameters, buffers and state as ``GraphLayer``, on fused kernels.

    Kernels take float32, bfloat16 and float16 tensors on CUDA (on the CPU in Triton's interpreter); they compute in
    float32, have no second derivative, and write channels_last output for channels_last input. With ``strict``
    anything else is an error; without, it goes to the eager reference, and a graph that cannot be
    lowered goes there as a whole, with one warning.

    Args:
        strict: backend="triton" rather than "auto".
        options: of ``GraphLayer``.

    Raises:
        UsageError: strict, and the graph cannot be lowered or the input has no kernels.
    """

    def __init__(self, graph: Graph, channels: int, *, strict: bool = False, **options: Any) -> None:
        super().__init__(graph, channels, **options)
        self.strict = strict
        spec = LayerSpec(str(self.graph), self.layout.name, affine=self.weight is not None, eps=self.eps)
        self._vectors = spec.vectors
        #: per (memory order, residual, training): the layer as the operators take it; empty without kernels
        self._specs: dict[tuple[str, bool, bool], str] = {}
        #: per memory order: the dims of the layout that each statistic of the batch varies over
        self._batch_dims: dict[str, list[frozenset[str]]] = {}
        try:
            for layout, memory in MEMORY_ORDERS:
                for residual in (False, True) if layout == self.layout.name else ():
                    for training in (False, True):
                        one = replace(spec, memory=memory, residual=residual, training=training)
                        self._specs[memory, residual, training] = encode(one)
                if layout == self.layout.name:
                    self._batch_dims[memory] = _batch_dims(replace(spec, memory=memory))
        except UsageError as error:
            if strict:
                raise
            self._specs = {}
            if self.formula not in _WARNED:
                _WARNED.add(self.formula)
                warnings.warn(f"{error.message}; the eager reference is used", stacklevel=3)

    @classmethod
    def sharing(cls, layer: GraphLayer, *, strict: bool = False) -> KernelLayer:
        """A layer on kernels with the very parameters, statistics and mode of another one, which an optimiser may
        go on to change.

        Raises:
            UsageError: as the class.
        """
        made = cls(
            layer.graph, layer.channels, strict=strict, layout=layer.layout.name, groups=layer.groups,
            eps=layer.eps, momentum=layer.momentum, affine=layer.weight is not None, device="meta",
        )  # fmt: skip
        for name in made._vectors:
            setattr(made, name, getattr(layer, name))
        made.statistics = layer.statistics
        return made.train(layer.training)

    def _run(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        kept = [s for s in self.statistics if isinstance(s, BatchStatistic)]
        modes = {s.training for s in kept}
        reason = why_not(x) if self._specs else "a graph that cannot be lowered"
        if len(modes) > 1:
            reason = "statistics of which some are frozen and some are not"
        elif modes == {False} and any(s.source_weight != 1.0 for s in kept):
            reason = "statistics of training and of the batch in one"
        elif not self.strict and x.numel() >= 2**31:
            reason = "a tensor of more than 2^31 elements"
        if reason:
            if self.strict:
                raise UsageError(
                    f"no kernel for {reason}", hint="use backend='auto' to fall back to the eager reference"
                )
            return super()._run(x, residual)
        last = self.layout.name == "nchw" and not x.is_contiguous() and x.is_contiguous(
            memory_format=torch.channels_last
        )  # fmt: skip
        memory = "channels_last" if last else "contiguous"
        training = modes != {False}
        vectors = [self.per_channel(name) for name in self._vectors]
        averages = [] if training else [s.average(torch.float32) for s in kept]
        layer = self._specs[memory, residual is not None, training]
        y, *rest = layer_forward(x, residual, vectors, averages, layer, self.groups)
        total = rest.pop(0) if residual is not None else None
        if training and kept:
            dims = self._batch_dims[memory]
            for statistic, value, varies in zip(kept, rest[-len(kept) :], dims, strict=True):
                statistic.update(self._in_split_view(value, x, varies, memory))
        return y, total

    def _in_split_view(self, value: Tensor, x: Tensor, varies: frozenset[str], memory: str) -> Tensor:
        """A statistic that varies over those dims as kernels leave it, in memory order, with the dims of the layout."""
        sizes = dim_sizes(self.layout.name, tuple(x.shape), self.groups)
        order = MEMORY_ORDERS[self.layout.name, memory]
        shaped = value.view([sizes[d] if d in varies else 1 for d in order])
        return shaped.permute([order.index(d) for d in self.layout.dims])


def _batch_dims(spec: LayerSpec) -> list[frozenset[str]]:
    """The dims of the layout that each statistic of the batch varies over."""
    both = passes(spec, False)
    program = both.forward
    parts = dict(zip(program.axes.names, program.axes.parts, strict=True))
    found = []
    for name in both.batch:
        varies = program.ir[program.statistics[name]].varies
        found.append(frozenset(d for axis in varies for d in parts[axis]))
    return found
