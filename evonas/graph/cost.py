"""What a layer costs: floating-point operations and bytes, from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evonas import primitives
from evonas.graph.graph import SCALAR_LEAVES, VECTOR_LEAVES, Graph
from evonas.graph.layout import Layout, get_layout


@dataclass(frozen=True, slots=True)
class Cost:
    """flops: operations of one forward pass. bytes_fused: x read once and y written once (the floor of a fused
    kernel, parameters included). bytes_eager: every operation reads its arguments and writes its result.
    parameters: trainable values, the affine's two vectors included. All for one call on ``shape``."""

    shape: tuple[int, ...]
    flops: int
    bytes_fused: int
    bytes_eager: int
    parameters: int


def cost(
    graph: Graph,
    shape: tuple[int, ...] = (1, 64, 56, 56),
    *,
    layout: str = "nchw",
    groups: int = 32,
    itemsize: int = 4,
) -> Cost:
    """Cost of one forward pass of the active graph plus its affine.

    Element-wise work on statistics counts at their size, not at the size of x. A moment counts its
    declared operations per element that it reads.
    """
    where = get_layout(layout)
    sizes = split_sizes(where, shape, groups)
    graph = graph.active()
    varies: list[frozenset[str]] = []
    for leaf in graph.leaves:
        varies.append(frozenset(where.dims if leaf == "x" else ("g", "k") if leaf in VECTOR_LEAVES else ()))
    full = math.prod(shape)
    flops, eager = 2 * full, 2 * full  # the affine: one product, one sum; one read, one write
    for _, (op, args, index) in graph.operations():
        primitive = primitives.get(op)
        read = [_count(varies[a], sizes) for a in args]
        dims: frozenset[str] = frozenset().union(*(varies[a] for a in args))
        work = _count(dims, sizes)
        if index is not None:
            dims -= where.covered(index) - ({"t"} if primitive.causal else set())
        written = _count(dims, sizes)
        varies.append(dims)
        flops += primitive.flops * (work if index is not None else written)
        eager += sum(read) + written
    channels = sizes["g"] * sizes["k"]
    vectors = sum(leaf in VECTOR_LEAVES for leaf in graph.leaves)
    parameters = (2 + vectors) * channels + sum(leaf in SCALAR_LEAVES for leaf in graph.leaves)
    return Cost(shape, flops, (2 * full + parameters) * itemsize, eager * itemsize, parameters)


def split_sizes(layout: Layout, shape: tuple[int, ...], groups: int) -> dict[str, int]:
    """Sizes of the dims of the split view for a tensor of that shape, in the layout's public axis order."""
    if layout.name == "nchw":
        b, c, h, w = shape
        sizes = {"b": b, "h": h, "w": w}
    else:
        b, t, c = shape
        sizes = {"b": b, "t": t}
    g = resolve_groups(c, groups)
    return {**sizes, "g": g, "k": c // g}


def resolve_groups(channels: int, groups: int) -> int:
    """The largest count up to ``groups`` that divides ``channels``: the rule of the released EvoNorm code."""
    g = max(1, min(groups, channels))
    while channels % g:
        g -= 1
    return g


def _count(dims: frozenset[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[d] for d in dims)
