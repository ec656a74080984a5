"""An immutable computation graph of primitives over named leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from evonas import primitives
from evonas.errors import FormulaError
from evonas.graph.layout import IndexSet, canonical_index

#: Leaves with a name. x: the input. 0 and 1: constants. v0, v1: trainable, one value per channel, starting
#: at 0 and at 1. s0, s1: trainable, one value per layer, starting at 0 and at 1. Any other leaf is a finite literal,
#: written as ``repr(float)`` or as an integer. Gradient graphs have one more: g, the adjoint of the output, with the
#: shape of x.
NAMED_LEAVES = ("x", "0", "v0", "v1", "1")
VECTOR_LEAVES = ("v0", "v1")
SCALAR_LEAVES = ("s0", "s1")
PARAMETER_LEAVES = (*VECTOR_LEAVES, *SCALAR_LEAVES)
#: Where each of them starts.
INITIAL = {"v0": 0.0, "v1": 1.0, "s0": 0.0, "s1": 1.0}


class Node(NamedTuple):
    """One operation: primitive name, ids of its arguments (all smaller than its own), index set or None."""

    op: str
    args: tuple[int, ...]
    index: IndexSet | None = None  # type: ignore[assignment]  # hides tuple.index


@dataclass(frozen=True, slots=True)
class Graph:
    """Leaves have the ids 0..len(leaves)-1, node i has the id len(leaves)+i; ``output`` is one of these ids.

    Equal graphs are equal objects in every way (hashable, ordered nodes); see ``canonical`` for equality up
    to the order of commutative arguments, shared sub-expressions and neutral parts.

    Raises:
        FormulaError: an argument that does not precede its node, a wrong number of arguments, an index set
            on an element-wise primitive or none on a moment, an unknown leaf.
        UsageError: an unknown primitive.
    """

    leaves: tuple[str, ...]
    nodes: tuple[Node, ...]
    output: int

    def __post_init__(self) -> None:
        for leaf in self.leaves:
            literal(leaf)
        for i, (op, args, index) in enumerate(self.nodes):
            primitive = primitives.get(op)
            here = len(self.leaves) + i
            if len(args) != primitive.arity or primitive.arity == 0:
                raise FormulaError(f"{op} takes {primitive.arity} argument(s), node {here} gives {len(args)}")
            if any(not 0 <= a < here for a in args):
                raise FormulaError(f"node {here} ({op}) uses {args}, but may only use ids below {here}")
            if (primitive.kind == "moment") != (index is not None):
                needed = "needs an index set" if index is None else "takes no index set"
                raise FormulaError(f"{op} {needed}", hint=f"write {op}[w,h](x)" if index is None else None)
            if index is not None and canonical_index(index) != index:
                raise FormulaError(f"index set {index} of node {here} is not in canonical order")
            if primitive.causal and index is not None and ("t" not in index or "b" in index):
                raise FormulaError(
                    f"{op}[{','.join(index)}] is not usable: {op} runs over the tokens up to the present one, "
                    f"its index set needs t and cannot have b",
                    hint=f"write {op}[t](x) or {op}[t,c](x)",
                )
        if not 0 <= self.output < len(self.leaves) + len(self.nodes):
            raise FormulaError(f"output id {self.output} does not exist")

    def __len__(self) -> int:
        return len(self.nodes)

    def ancestors(self) -> frozenset[int]:
        """Ids of everything that the output depends on, itself included."""
        seen = {self.output}
        first = len(self.leaves)
        for i in range(self.output, first - 1, -1):
            if i in seen:
                seen.update(self.nodes[i - first].args)
        return frozenset(seen)

    def active(self) -> Graph:
        """The graph without leaves and nodes that the output does not depend on."""
        kept = sorted(self.ancestors())
        new = {old: i for i, old in enumerate(kept)}
        first = len(self.leaves)
        nodes = tuple(
            Node(op, tuple(new[a] for a in args), index)
            for op, args, index in (self.nodes[i - first] for i in kept if i >= first)
        )
        return Graph(tuple(self.leaves[i] for i in kept if i < first), nodes, new[self.output])

    def after(self, first: Graph) -> Graph:
        """This graph on the output of another one: f(g(x)). Leaves of the same name become one."""
        builder = GraphBuilder()

        def put(graph: Graph, x: object | None) -> object:
            handles: list[object] = []
            for leaf in graph.leaves:
                handles.append(x if leaf == "x" and x is not None else builder.leaf(leaf))
            for op, args, index in graph.nodes:
                handles.append(builder.node(op, [handles[a] for a in args], index))
            return handles[graph.output]

        return builder.build(put(self, put(first, None))).active()

    def operations(self) -> Iterator[tuple[int, Node]]:
        """Pairs (id, node) in topological order."""
        return enumerate(self.nodes, start=len(self.leaves))

    @property
    def index_sets(self) -> frozenset[IndexSet]:
        """Index sets of the moments that the output depends on."""
        active = self.ancestors()
        return frozenset(node.index for i, node in self.operations() if node.index and i in active)

    @property
    def uses_batch(self) -> bool:
        """Whether the output depends on a statistic over the batch."""
        return any("b" in index for index in self.index_sets)

    def __str__(self) -> str:
        from evonas.graph.formula import format_formula

        return format_formula(self)

    @classmethod
    def parse(cls, formula: str) -> Graph:
        """The graph of a formula; see ``evonas.graph.formula``."""
        from evonas.graph.formula import parse_formula

        return parse_formula(formula)


@lru_cache(maxsize=4096)
def literal(leaf: str) -> float | None:
    """The value of a constant leaf, None for x, g and parameters; ``FormulaError`` for anything else."""
    if leaf in ("x", "g", *PARAMETER_LEAVES):
        return None
    try:
        value = float(leaf)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or leaf != literal_name(value):
        raise FormulaError(
            f"unknown input {leaf!r}",
            hint=f"inputs are {', '.join(('x', *PARAMETER_LEAVES))} and finite numbers",
        )
    return value


def literal_name(value: float) -> str:
    """How a constant leaf of that value is written: the shortest text that reads back as the same float."""
    value = float(value) + 0.0  # -0.0 becomes 0.0
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


class GraphBuilder:
    """Builds a graph node by node, sharing equal sub-expressions."""

    def __init__(self, leaves: Sequence[str] = ()) -> None:
        self._leaves: list[str] = list(leaves)
        self._nodes: list[tuple[str, tuple[object, ...], IndexSet | None]] = []
        self._memo: dict[object, int] = {}

    def leaf(self, name: str) -> tuple[str, str]:
        if name not in self._leaves:
            self._leaves.append(name)
        return ("leaf", name)

    def node(self, op: str, args: Sequence[object], index: IndexSet | None = None) -> object:
        """A handle of the node; the same arguments give the same handle."""
        key = (op, tuple(args), index)
        if key not in self._memo:
            self._memo[key] = len(self._nodes)
            self._nodes.append(key)
        return ("node", self._memo[key])

    def build(self, output: object) -> Graph:
        """The graph with that handle as its output; everything that was built stays in it."""
        first = len(self._leaves)

        def number(handle: object) -> int:
            assert isinstance(handle, tuple)
            what = handle[1]
            return self._leaves.index(what) if isinstance(what, str) else first + what

        nodes = tuple(Node(op, tuple(number(a) for a in args), index) for op, args, index in self._nodes)
        return Graph(tuple(self._leaves), nodes, number(output))
