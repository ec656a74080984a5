"""Running a graph on arrays, forward and backward, from the primitives' own definitions.

All arrays are in the split view of a layout (``evonas.graph.layout``); statistics keep their reduced axes with
size one and broadcast. This is the reference: numpy in the search core, torch in tests and layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from evonas import primitives
from evonas.graph.graph import INITIAL, SCALAR_LEAVES, Graph, literal
from evonas.graph.layout import IndexSet, Layout
from evonas.primitives import EPS

Array = Any


class ArrayOps:
    """``ops.<primitive>(...)`` on arrays: what a gradient definition is run with.

    ``offset`` shifts the axes when arrays carry extra leading axes (a batch of settings, say).
    """

    def __init__(self, xp: Any, layout: Layout, *, eps: float = EPS, offset: int = 0) -> None:
        self.xp = xp
        self.eps = eps
        self.layout = layout
        self.offset = offset
        self._axes: dict[IndexSet, tuple[int, ...]] = {}
        self._bound: dict[tuple[str, IndexSet | None], Callable[..., Array]] = {}

    def axes(self, index: IndexSet) -> tuple[int, ...]:
        """Positions that an index set reduces."""
        axes = self._axes.get(index)
        if axes is None:
            checked = self.layout.positions(self.layout.check(index))
            axes = self._axes[index] = tuple(p + self.offset for p in checked)
        return axes

    def const(self, value: float) -> Array:
        """A scalar that broadcasts."""
        return value if self.xp is primitives.numpy_namespace else self._scalar(value)

    def _scalar(self, value: float) -> Array:
        import torch

        return torch.tensor(value, dtype=torch.float64)

    def function(self, op: str, index: IndexSet | None = None) -> Callable[..., Array]:
        """The eager function of one operation with everything but its array arguments bound."""
        key = (op, index)
        made = self._bound.get(key)
        if made is None:
            made = self._bound[key] = self.bind(primitives.get(op), index)
        return made

    def bind(self, primitive: primitives.Primitive, index: IndexSet | None = None) -> Callable[..., Array]:
        """The eager function of a primitive, registered or not, with everything but its arrays bound."""
        xp, eps, eager = self.xp, self.eps, primitive.eager
        if primitive.kind == "moment":
            assert index is not None
            axes = self.axes(index)
            return lambda a: eager(xp, a, axes, eps=eps)
        if primitive.uses_eps:
            return lambda *args: eager(xp, *args, eps=eps)
        return lambda *args: eager(xp, *args)

    def __getattr__(self, name: str) -> Callable[..., Array]:
        if name.startswith("_"):
            raise AttributeError(name)
        primitive = primitives.get(name)
        if primitive.kind == "moment":

            def call(a: Array, index: IndexSet) -> Array:
                return self.function(name, index)(a)

        else:
            call = self.function(name)
        setattr(self, name, call)
        return call


def forward(graph: Graph, leaves: Mapping[str, Array], ops: ArrayOps) -> list[Array]:
    """The value of every leaf and node, in id order; inactive nodes are computed too.

    ``leaves`` maps x and the parameters to arrays in the split view; constants are made as arrays of one element.
    """
    values: list[Array] = []
    for leaf in graph.leaves:
        constant = literal(leaf)
        values.append(leaves[leaf] if constant is None else _constant_like(leaves["x"], constant))
    for op, args, index in graph.nodes:
        values.append(ops.function(op, index)(*[values[a] for a in args]))
    return values


def initial_leaves(x: np.ndarray, layout: Layout) -> dict[str, Array]:
    """x and every parameter as a layer starts with them, in the split view."""
    vector = tuple(n if p in layout.channel_dims else 1 for p, n in enumerate(x.shape))
    scalar = (1,) * x.ndim
    started = {name: np.full(scalar if name in SCALAR_LEAVES else vector, v) for name, v in INITIAL.items()}
    return {"x": x, **started}


def _constant_like(x: Array, value: float) -> Array:
    shape = (1,) * x.ndim
    if isinstance(x, np.ndarray):
        return np.full(shape, value, dtype=x.dtype)
    return x.new_full(shape, value)


def backward(graph: Graph, values: Sequence[Array], g: Array, ops: ArrayOps) -> dict[str, Array]:
    """Adjoints of x and the parameters from the adjoint ``g`` of the output, by the primitives' gradients.

    They are adjoints of the leaf *expanded* to the full shape: sum a vector's over every axis but the
    channels for its gradient (``reduce_to_vector``), a scalar's over all (``reduce_to_scalar``). A leaf that
    the output does not depend on is missing.
    """
    first = len(graph.leaves)
    adjoints: dict[int, Array] = {graph.output: g}
    for i in range(graph.output, first - 1, -1):
        here = adjoints.pop(i, None)
        if here is None:
            continue
        op, args, index = graph.nodes[i - first]
        inputs = [values[a] for a in args]
        extra = (index,) if index is not None else ()
        parts = primitives.get(op).gradient(ops, here, values[i], *inputs, *extra)
        for a, part in zip(args, parts, strict=True):
            if a >= first or literal(graph.leaves[a]) is None:
                known = adjoints.get(a)
                adjoints[a] = part if known is None else known + part
    return {graph.leaves[i]: adjoint for i, adjoint in adjoints.items()}


def reduce_to_vector(adjoint: Array, shape: Sequence[int], layout: Layout | None, offset: int = 0) -> Array:
    """Sum an expanded adjoint over all axes but the channels of the layout, if one is given: the gradient of a
    per-channel vector."""
    axes, reduced = _vector_axes(tuple(shape), layout.channel_dims if layout else (), offset)
    repeats = 1
    for p in axes:
        if adjoint.shape[p] == 1:
            repeats *= shape[p]
    if isinstance(adjoint, np.ndarray):
        total = np.add.reduce(adjoint, axis=axes, keepdims=True) * repeats
        return total if total.shape == reduced else np.broadcast_to(total, reduced)
    return (adjoint.sum(axes, keepdim=True) * repeats).expand(reduced)


def reduce_to_scalar(adjoint: Array, shape: Sequence[int], offset: int = 0) -> Array:
    """Sum an expanded adjoint over all axes but the first ``offset``: the gradient of one value per layer."""
    return reduce_to_vector(adjoint, shape, None, offset)


@lru_cache(maxsize=64)
def _vector_axes(
    shape: tuple[int, ...], channel_dims: tuple[int, ...], offset: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes to sum for a per-channel vector, and the shape that is left."""
    kept = {p + offset for p in channel_dims} | set(range(offset))
    axes = tuple(p for p in range(len(shape)) if p not in kept)
    return axes, tuple(n if p in kept else 1 for p, n in enumerate(shape))
