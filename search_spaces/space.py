"""A search space: which primitives and inputs, how many nodes, and the genotypes over them.

A genotype is ``3 * nodes`` bytes: per intermediate node the code of a concrete operation (primitive and index
set) and the ids of its two arguments (255 where there is none). Ids count the inputs first. The last node is the
output; nodes that it does not depend on stay in the genotype (neutral drift) and have no effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from evonas.search_spaces.causality import CAUSAL_INDEX_SETS, causal_violation, refuse_state, usable
from evonas.search_spaces.mutation import mutate
from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.sampler import NO_ARGUMENT, operation_table, random_genotype

from evonas import primitives
from evonas.errors import FormulaError, UsageError
from evonas.graph.assembly import Assembly
from evonas.graph.canonical import Interner
from evonas.graph.graph import NAMED_LEAVES, SCALAR_LEAVES, Graph, Node
from evonas.graph.layout import IndexSet, get_layout
from evonas.rng import Draws


class Operation(NamedTuple):
    """A concrete operation: a primitive with, for a moment, its index set."""

    op: str
    index: IndexSet | None  # type: ignore[assignment]  # hides tuple.index
    arity: int

    def __str__(self) -> str:
        return f"{self.op}[{','.join(self.index)}]" if self.index else self.op


class Space:
    """Primitives, inputs and rules of one space, ready to draw from.

    Args:
        name: how the command line calls it.
        layout: "nchw" or "btc".
        rows: names of primitives, in the order of the sampler's table.
        options: see ``SpaceOptions``.
    """

    def __init__(self, name: str, layout: str, rows: Iterable[str], options: SpaceOptions) -> None:
        self.name = name
        self.layout = get_layout(layout)
        self.options = options
        self.inputs: tuple[str, ...] = NAMED_LEAVES[:4] + (("1",) if options.constant_one else ())
        self.inputs += SCALAR_LEAVES if options.scalar_inputs else ()
        more = primitives.CAUSAL_MOMENTS if options.causal_moments else ()
        self.rows = tuple(dict.fromkeys((*rows, *options.extra_primitives, *more)))
        sets = (*options.index_sets, *(("b,t",) if options.batch_statistics else ()))
        self.index_sets = tuple(dict.fromkeys(self.layout.check(s.split(",")) for s in sets))
        usable(name, self.layout, options, self.index_sets)
        table: list[tuple[Operation, ...]] = []
        for row in self.rows:
            primitive = primitives.get(row)
            if primitive.arity == 0:
                raise UsageError(
                    f"{row!r} cannot be a row of a space", hint="set constant_one=true for an input 1"
                )
            if primitive.kind == "moment":
                indices = CAUSAL_INDEX_SETS if primitive.causal else self.index_sets
                if indices:
                    table.append(tuple(Operation(row, index, 1) for index in indices))
            else:
                table.append((Operation(row, None, primitive.arity),))
        if not table:
            raise UsageError(f"space {name!r} has no primitive")
        self.operations: tuple[Operation, ...] = tuple(op for row in table for op in row)
        if len(self.operations) > 255 or len(self.inputs) + options.nodes > 255:
            raise UsageError("a space has at most 255 concrete operations and 255 inputs and nodes together")
        code = {op: i for i, op in enumerate(self.operations)}
        groups = table if options.op_draw == "row" else [(op,) for op in self.operations]
        #: codes of operations, as often as their share of the draws asks for
        self.draw_table = operation_table([[code[op] for op in group] for group in groups])
        self.arities = bytes(op.arity for op in self.operations)
        self._code = code
        self._interner = Interner()
        self._leaf_ids: list[int] = []
        self._memo: dict[tuple[int, int, int], int] = {}

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of slots with a graph of their own: one, for all places."""
        return self.options.slots

    @property
    def causal(self) -> bool:
        """Whether a token must not see later ones."""
        return self.options.causal

    @property
    def nodes(self) -> int:
        """Intermediate nodes of a genotype."""
        return self.options.nodes

    # -- drawing ------------------------------------------------------------------------------------

    def random(self, draws: Draws) -> bytes:
        """A random genotype: per node an operation, then its arguments among all earlier ids."""
        return random_genotype(self, draws)

    def mutate(self, genotype: bytes, draws: Draws) -> tuple[bytes, str]:
        """A mutated copy and the kind of mutation, drawn by ``mutation_weights``."""
        return mutate(self, genotype, draws)

    # -- genotype to graph --------------------------------------------------------------------------

    def _active(self, genotype: bytes) -> list[int]:
        """Ids of the output and the nodes (inputs left out) that it depends on, ascending."""
        first = len(self.inputs)
        base = 3 * first
        found = [first + self.options.nodes - 1]
        for i in found:  # grows while it is walked
            at = 3 * i - base
            for a in genotype[at + 1 : at + 3]:
                if first <= a != NO_ARGUMENT and a not in found:
                    found.append(a)
        found.sort()
        return found

    def active_nodes(self, genotype: bytes) -> list[int]:
        """Positions of the intermediate nodes that the output depends on, its own included, ascending."""
        first = len(self.inputs)
        return [i - first for i in self._active(genotype)]

    def _express(self, genotype: bytes) -> int:
        interner = self._interner
        if interner.full() or not self._leaf_ids:
            interner.clear()
            self._memo = {}
            self._leaf_ids = [interner.leaf(leaf) for leaf in self.inputs]
        memo = self._memo
        base = 3 * len(self.inputs)
        ids: dict[int, int] = dict(enumerate(self._leaf_ids))
        ids[NO_ARGUMENT] = -1
        for i in self._active(genotype):
            at = 3 * i - base
            code, a, b = genotype[at], ids[genotype[at + 1]], ids[genotype[at + 2]]
            key = (code, a, b)
            known = memo.get(key)
            if known is None:
                op = self.operations[code]
                known = memo[key] = interner.cons(op.op, (a,) if b < 0 else (a, b), op.index)
            ids[i] = known
        return ids[i]

    def digest(self, genotype: bytes) -> bytes | None:
        """Digest of the simplified active graph; None if the output does not depend on x."""
        i = self._express(genotype)
        return self._interner.digests[i] if self._interner.depends_on_x(i) else None

    def graph(self, genotype: bytes) -> Graph:
        """The canonical graph: active, simplified, commutative arguments ordered."""
        return self._interner.graph(self._express(genotype))

    def decode(self, genotype: bytes) -> Graph:
        """The graph as drawn, inactive nodes included, not simplified.

        Raises:
            UsageError: bytes that are not a genotype of this space.
        """
        first, nodes = len(self.inputs), []
        if len(genotype) != 3 * self.nodes:
            raise UsageError(
                f"a genotype of {self.name!r} has {3 * self.nodes} bytes, this one has {len(genotype)}"
            )
        for i in range(self.nodes):
            code, a, b = genotype[3 * i : 3 * i + 3]
            if code >= len(self.operations):
                raise UsageError(f"operation code {code} does not exist in space {self.name!r}")
            op = self.operations[code]
            args = (a, b)[: op.arity]
            if any(arg >= first + i for arg in args) or (op.arity == 1 and b != NO_ARGUMENT):
                raise UsageError(f"node {i} of the genotype has arguments {(a, b)} that do not fit")
            nodes.append(Node(op.op, args, op.index))
        return Graph(self.inputs, tuple(nodes), first + self.nodes - 1)

    def encode(self, graph: Graph | Assembly, draws: Draws) -> bytes:
        """A genotype of that graph (or of the one of an assembly with one for all places); unused nodes are drawn at
        random and come first.

        ``a - b`` becomes ``a + -b`` in a space without sub.

        Raises:
            FormulaError: the graph uses what the space does not have, or more nodes than it has.
        """
        if isinstance(graph, Assembly):
            graph = self._single(graph)
        nodes = self._in_space(graph)
        first, spare = len(self.inputs), self.nodes - len(nodes)
        if spare < 0 or not nodes:
            raise FormulaError(
                f"{graph} needs {len(nodes)} operations, a genotype of {self.name!r} has {self.nodes}",
                hint="at least one and at most that many; set the space option nodes",
            )
        genotype = bytearray(self.random(draws)[: 3 * spare])
        for code, args in nodes:
            shifted = [a if a < first else a + spare for a in args]
            genotype += bytes((code, shifted[0], shifted[1] if len(shifted) > 1 else NO_ARGUMENT))
        return bytes(genotype)

    def _single(self, assembly: Assembly) -> Graph:
        refuse_state(assembly, self.causal)
        graph = assembly.single
        if graph is None:
            raise FormulaError(
                f"{assembly} has layers of its own for some places, a genotype of {self.name!r} has one for all",
                hint="give one formula, or set the space option slots",
            )
        return graph

    def _in_space(self, graph: Graph) -> list[tuple[int, tuple[int, ...]]]:
        graph = graph.active()
        first = len(self.inputs)
        for leaf in graph.leaves:
            if leaf not in self.inputs:
                raise FormulaError(
                    f"input {leaf!r} of {graph} is not part of space {self.name!r}",
                    hint=f"its inputs are {', '.join(self.inputs)}",
                )
        place = [self.inputs.index(leaf) for leaf in graph.leaves]
        nodes: list[tuple[int, tuple[int, ...]]] = []

        def put(op: str, args: tuple[int, ...], index: IndexSet | None) -> int:
            known = Operation(op, index, len(args))
            if known not in self._code:
                raise FormulaError(
                    f"{known} of {graph} is not part of space {self.name!r}",
                    hint=f"its operations are {', '.join(map(str, self.operations))}",
                )
            nodes.append((self._code[known], args))
            return first + len(nodes) - 1

        for _, (op, args, index) in graph.operations():
            mapped = tuple(place[a] for a in args)
            if op == "sub" and Operation("sub", None, 2) not in self._code:
                place.append(put("add", (mapped[0], put("neg", (mapped[1],), None)), None))
            else:
                place.append(put(op, mapped, index))
        return nodes

    # -- rules --------------------------------------------------------------------------------------

    def reject(self, genotype: bytes) -> str | None:
        """Why the structural stage rejects a genotype, or None."""
        if self.digest(genotype) is None:
            return "the output does not depend on x"
        if self.options.batch_independent and self.graph(genotype).uses_batch:
            return "uses batch statistics"
        return None

    def check(self, graph: Graph | Assembly) -> None:
        """``FormulaError`` if the active graph is not expressible in this space."""
        if isinstance(graph, Assembly):
            graph = self._single(graph)
        if self.causal:
            causal_violation(graph, self.options)
        self.encode(graph, Draws("check"))
        if self.options.batch_independent and graph.uses_batch:
            raise FormulaError(f"{graph} uses batch statistics, which space {self.name!r} excludes")

    # -- identity -----------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything that decides what a genotype means, JSON-able; ``space.json`` of a run."""
        return {
            "name": self.name,
            "layout": self.layout.name,
            "inputs": list(self.inputs),
            "operations": [str(op) for op in self.operations],
            "options": json.loads(json.dumps(self.options.describe())),
            "primitives": {row: {"origin": p.origin, "source": p.source, "arity": p.arity, "kind": p.kind}
                           for row in self.rows for p in [primitives.get(row)]},
        }  # fmt: skip

    def identity(self) -> str:
        """A digest of ``describe()``: two spaces with the same one draw the same genotypes."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return (
            f"<Space {self.name}: {len(self.operations)} operations, {self.nodes} nodes, {self.layout.name}>"
        )
