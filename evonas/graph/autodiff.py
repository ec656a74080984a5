"""Symbolic reverse mode: the gradient of a graph, again as a graph of primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evonas import primitives
from evonas.graph.canonical import Interner
from evonas.graph.graph import Graph, literal, literal_name
from evonas.graph.layout import IndexSet
from evonas.primitives import EPS

#: Name of the leaf that stands for the adjoint of the output in a gradient graph. It is a vector leaf of
#: nothing: it varies over every axis, like x.
ADJOINT = "g"


class SymbolicOps:
    """``ops.<primitive>(...)`` on ids of an interner: gradients come out simplified and shared."""

    def __init__(self, interner: Interner, eps: float = EPS) -> None:
        self.interner = interner
        self.eps = eps

    def const(self, value: float) -> int:
        return self.interner.leaf(literal_name(value))

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_"):
            raise AttributeError(name)
        primitive = primitives.get(name)

        def call(*args: Any) -> int:
            if primitive.kind == "moment":
                a, index = args
                return self.interner.cons(name, (a,), index)
            return self.interner.cons(name, args)

        return call


class GradientGraph:
    """Gradient of a graph: one shared interner, and per leaf the id of its expanded adjoint.

    The adjoint of a leaf is the one of the leaf expanded to the full shape of x; for v0 and v1 sum it over
    every axis but the channels, for s0 and s1 over all.
    """

    def __init__(self, graph: Graph, eps: float = EPS) -> None:
        interner = Interner(limit=1_000_000)
        ops = SymbolicOps(interner, eps)
        graph = graph.active()
        first = len(graph.leaves)
        ids = [interner.leaf(leaf) for leaf in graph.leaves]
        for _, (op, args, index) in graph.operations():
            # no simplification here: the gradient must use the very nodes that the forward pass computes
            ids.append(interner.raw(op, tuple(ids[a] for a in args), index))
        adjoints: dict[int, int] = {graph.output: interner.leaf(ADJOINT)}
        for i in range(graph.output, first - 1, -1):
            here = adjoints.pop(i, None)
            if here is None:
                continue
            op, args, index = graph.nodes[i - first]
            extra: tuple[IndexSet, ...] = (index,) if index is not None else ()
            parts = primitives.get(op).gradient(ops, here, ids[i], *[ids[a] for a in args], *extra)
            for a, part in zip(args, parts, strict=True):
                if a >= first or literal(graph.leaves[a]) is None:
                    known = adjoints.get(a)
                    adjoints[a] = part if known is None else interner.cons("add", (known, part))
        self.interner = interner
        self.adjoints = {graph.leaves[i]: adjoint for i, adjoint in adjoints.items()}

    def graph(self, leaf: str) -> Graph:
        """The adjoint of ``leaf`` as a graph over x, parameters, constants and ``g``."""
        return self.interner.graph(self.adjoints[leaf])


def differentiate(graph: Graph, eps: float = EPS) -> dict[str, Graph]:
    """Per leaf among x, v0, v1, s0, s1 that the output depends on: its expanded adjoint as a graph."""
    gradient = GradientGraph(graph, eps)
    return {leaf: gradient.graph(leaf) for leaf in gradient.adjoints}
