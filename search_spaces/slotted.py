"""Spaces whose candidates are assemblies: a graph per group of slots, each drawn from one and the same space."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from evonas.search_spaces.causality import refuse_state
from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.space import Space

from evonas.errors import FormulaError, UsageError
from evonas.graph.assembly import Assembly, Part, assembly_digest, default_affine
from evonas.graph.graph import Graph
from evonas.graph.slots import expand
from evonas.rng import Draws

#: Draws of one graph until its output depends on x; most need two or three.
_TRIES = 64


class SlottedSpace:
    """A graph of ``base`` for every group of slots.

    A genotype is a genotype of ``base`` per group, one after the other, in the order of the option ``slots``. A random
    one is drawn graph by graph, see ``random``; a mutation changes one graph, drawn uniformly.

    Args:
        base: a space with one graph for all places.
        options: its options, with the groups.
    """

    def __init__(self, base: Space, options: SpaceOptions) -> None:
        self.base = base
        self.options = options
        self.name, self.layout = base.name, base.layout
        self.inputs, self.rows, self.operations = base.inputs, base.rows, base.operations
        self.groups = options.slots
        self.causal = options.causal
        self._slots = tuple(expand(group) for group in self.groups)
        self._affine = tuple(default_affine(slots) for slots in self._slots)

    @property
    def nodes(self) -> int:
        """Intermediate nodes of the graph of one group."""
        return self.base.nodes

    def parts(self, genotype: bytes) -> list[bytes]:
        """The genotype of every group.

        Raises:
            UsageError: bytes of another length.
        """
        size = 3 * self.nodes
        if len(genotype) != size * len(self.groups):
            raise UsageError(
                f"a genotype of {self.name!r} has {size * len(self.groups)} bytes, {size} for each of "
                f"{', '.join(self.groups)}; this one has {len(genotype)}"
            )
        return [genotype[at : at + size] for at in range(0, len(genotype), size)]

    # -- drawing ------------------------------------------------------------------------------------

    def random(self, draws: Draws) -> bytes:
        """A random genotype; a graph that does not depend on x is drawn again.

        Groups of norms repeat the graph of one before them three times of four: with all of them drawn apart, hardly
        any assembly would pass the probe. Mutation makes them differ.
        """
        parts: list[bytes] = []
        norms: list[bytes] = []
        for norm in self._affine:
            again = norm and norms and draws.below(4) > 0
            part = draws.choice(norms) if again else self._draw(draws)
            parts.append(part)
            if norm:
                norms.append(part)
        return b"".join(parts)

    def _draw(self, draws: Draws) -> bytes:
        for _ in range(_TRIES):
            genotype = self.base.random(draws)
            if self.base.digest(genotype) is not None:
                break
        return genotype

    def mutate(self, genotype: bytes, draws: Draws) -> tuple[bytes, str]:
        """A copy with one graph mutated, and the kind of mutation."""
        parts = self.parts(genotype)
        at = draws.below(len(parts))
        parts[at], kind = self.base.mutate(parts[at], draws)
        return b"".join(parts), kind

    # -- genotype to assembly -----------------------------------------------------------------------

    def active_nodes(self, genotype: bytes) -> list[int]:
        """Positions of the nodes that the outputs depend on, counted over all groups, ascending."""
        return [
            n * self.nodes + i
            for n, part in enumerate(self.parts(genotype))
            for i in self.base.active_nodes(part)
        ]

    def digest(self, genotype: bytes) -> bytes | None:
        """Digest of the assembly; None if a part's output does not depend on x."""
        digests = [self.base.digest(part) for part in self.parts(genotype)]
        known = {
            slots: (one, affine)
            for slots, one, affine in zip(self._slots, digests, self._affine, strict=True)
            if one is not None
        }
        return assembly_digest(known) if len(known) == len(self.groups) else None

    def graph(self, genotype: bytes) -> Assembly:
        """The assembly of canonical graphs."""
        return self._assembly([self.base.graph(part) for part in self.parts(genotype)])

    def decode(self, genotype: bytes) -> Assembly:
        """The graphs as drawn, inactive nodes included, not simplified.

        Raises:
            UsageError: bytes that are not a genotype of this space.
        """
        return self._assembly([self.base.decode(part) for part in self.parts(genotype)])

    def _assembly(self, graphs: list[Graph]) -> Assembly:
        return Assembly(tuple(map(Part, self._slots, graphs, self._affine)))

    def encode(self, candidate: Graph | Assembly, draws: Draws) -> bytes:
        """A genotype of that assembly; unused nodes are drawn at random.

        Raises:
            FormulaError: it has no graph, or more than one, for a group of the space, or fills other slots; a graph
                uses what the space does not have.
        """
        return b"".join(self.base.encode(graph, draws) for graph in self._graphs(candidate))

    def _graphs(self, candidate: Graph | Assembly) -> list[Graph]:
        """The graph of every group."""
        example = "; ".join(f"{group}: x / rms[c](x)" for group in self.groups)
        if isinstance(candidate, Graph):
            candidate = Assembly.of(candidate)
        refuse_state(candidate, self.causal)
        if candidate.single is not None:
            raise FormulaError(
                f"{candidate} is one layer for all places, a genotype of {self.name!r} has one for each of "
                f"{', '.join(self.groups)}",
                hint=f"write {example}",
            )
        filled = {slot for part in candidate.parts for slot in part.slots}
        found = []
        for group, slots, affine in zip(self.groups, self._slots, self._affine, strict=True):
            parts = [candidate.part(slot) for slot in slots]
            first = parts[0]
            if first is None or any(p is None or p.graph != first.graph or p.affine != affine for p in parts):
                raise FormulaError(
                    f"{candidate} does not give one layer {'with' if affine else 'without'} affine to {group}",
                    hint=f"write {example}",
                )
            found.append(first.graph)
            filled -= set(slots)
        if filled:
            raise FormulaError(
                f"{candidate} fills {', '.join(sorted(filled))}, which {self.name!r} leaves to the network",
                hint=f"write {example}",
            )
        return found

    # -- rules --------------------------------------------------------------------------------------

    def reject(self, genotype: bytes) -> str | None:
        """Why the structural stage rejects a genotype, or None; a reason of one part names its group."""
        for group, part in zip(self.groups, self.parts(genotype), strict=True):
            reason = self.base.reject(part)
            if reason is not None:
                return f"{reason} in {group}"
        return None

    def check(self, candidate: Graph | Assembly) -> None:
        """``FormulaError`` if the assembly is not expressible in this space."""
        for graph in self._graphs(candidate):
            self.base.check(graph)

    # -- identity -----------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything that decides what a genotype means, JSON-able; ``space.json`` of a run."""
        return self.base.describe() | {"options": json.loads(json.dumps(self.options.describe()))}

    def identity(self) -> str:
        """A digest of ``describe()``: two spaces with the same one draw the same genotypes."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return (
            f"<SlottedSpace {self.name}: {', '.join(self.groups)}; {len(self.operations)} operations, "
            f"{self.nodes} nodes each, {self.layout.name}>"
        )


def genotypes_log10(space: Space | SlottedSpace) -> float:
    """Decimal logarithm of the number of genotypes of a space: for node i of n, the sum over its operations of
    (inputs + i) ** arity, multiplied over the nodes (one choice of two equal arguments less where they must differ)
    and over the groups of slots."""
    unary = sum(op.arity == 1 for op in space.operations)
    binary = len(space.operations) - unary
    total = 0.0
    for i in range(space.nodes):
        n = len(space.inputs) + i
        pairs = n * (n - 1) if space.options.distinct_inputs else n * n
        total += math.log10(max(1, unary * n + binary * pairs))
    return total * len(space.groups)
