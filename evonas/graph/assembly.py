"""Assemblies: which layer stands at which place of a network.

The text names slots and formulas; places that no part names keep the network's own layer::

    norm: x / rms[c](x); act: x * sigmoid(x)
    norm (no affine): x / rms[c](x)

A formula alone is the assembly of one part for all places, and such an assembly prints as the formula. Every part
gets the per-channel affine after its graph if it fills a place of a norm, and none if it is an activation alone;
``(no affine)`` leaves it out of a norm as well (SimpleRMSNorm of TransNormerLLM has none).

A part may stand for a layer with state, which no formula says all of: it has the layer's name beside a graph, which is
what the layer does to one batch, and prints as the name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from evonas.errors import FormulaError
from evonas.graph.canonical import canonical, digest
from evonas.graph.graph import Graph
from evonas.graph.layout import IndexSet
from evonas.graph.slots import NORM_SLOTS, SLOTS, check_slot, expand, group_name

_PLAIN = "(no affine)"
_HEAD = re.compile(r"\s*([A-Za-z0-9_+\s]*?)\s*(\(\s*no\s+affine\s*\))?\s*:(?!=)")
_EXAMPLE = "write for example: norm: x / rms[c](x); act: x * sigmoid(x)"


class Part(NamedTuple):
    """slots: in the order of ``SLOTS``. graph: active part only. affine: whether weight and bias come after it.
    stateful: the name of a layer with state, or empty."""

    slots: tuple[str, ...]
    graph: Graph
    affine: bool
    stateful: str = ""

    def __str__(self) -> str:
        plain = f" {_PLAIN}" if default_affine(self.slots) and not self.affine else ""
        return f"{group_name(self.slots)}{plain}: {self.text}"

    @property
    def text(self) -> str:
        """What stands behind the colon: the formula, or the name of a layer with state."""
        return self.stateful or str(self.graph)


def default_affine(slots: Iterable[str]) -> bool:
    """Whether a part for these slots has weight and bias unless it says otherwise: where one is that of a norm."""
    return any(slot in NORM_SLOTS for slot in slots)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Parts with slots of their own, in the order of their first slots.

    Raises:
        FormulaError: no part, a part without slots, or a slot that two parts fill.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        taken: set[str] = set()
        for part in self.parts:
            again = taken & set(part.slots)
            if again or not part.slots:
                which = f"two parts fill slot {min(again)!r}" if again else "a part fills no slot"
                raise FormulaError(f"not an assembly: {which}", hint=_EXAMPLE)
            taken |= set(part.slots)
        if not taken:
            raise FormulaError("the assembly has no part", hint=_EXAMPLE)
        ordered = sorted(self.parts, key=lambda part: SLOTS.index(part.slots[0]))
        object.__setattr__(self, "parts", tuple(ordered))

    @classmethod
    def of(cls, graph: Graph | Mapping[str, Graph]) -> Assembly:
        """One graph for all places, or a graph per group of slots."""
        groups = {"all": graph} if isinstance(graph, Graph) else graph
        parts = [(expand(group), one.active()) for group, one in groups.items()]
        return cls(tuple(Part(slots, one, default_affine(slots)) for slots, one in parts))

    @classmethod
    def parse(
        cls, text: str, names: Mapping[str, str] | None = None, stateful: Mapping[str, str] | None = None
    ) -> Assembly:
        """The assembly of a text: a formula, or parts with a colon between slots and formula.

        Args:
            names: formulas by a name that may stand in their place. stateful: formulas of layers with state by their
                name, which the part keeps.

        Raises:
            FormulaError: a part that cannot be read. UsageError: an unknown slot or primitive.
        """
        states = stateful or {}
        known = {**(names or {}), **states}
        if not _HEAD.match(text):
            if ";" in text:
                raise FormulaError(
                    f"{text.strip()!r} has several parts, and the first one names no slot", hint=_EXAMPLE
                )
            name = text.strip()
            graph = Graph.parse(known.get(name, text)).active()
            return cls((Part(SLOTS, graph, True, name if name in states else ""),))
        parts = []
        for piece in text.strip().removesuffix(";").split(";"):
            head = _HEAD.match(piece)
            if head is None:
                raise FormulaError(f"part {piece.strip()!r} of the assembly names no slot", hint=_EXAMPLE)
            slots, formula = expand(head[1]), piece[head.end() :].strip()
            graph = Graph.parse(known.get(formula, formula))
            affine = default_affine(slots) and head[2] is None
            parts.append(Part(slots, graph, affine, formula if formula in states else ""))
        return cls(tuple(parts))

    def __str__(self) -> str:
        first = self.parts[0]
        if first.slots == SLOTS and first.affine:
            return first.text
        return "; ".join(map(str, self.parts))

    def part(self, slot: str) -> Part | None:
        """What fills a slot; None where the network keeps its own layer. ``UsageError`` for an unknown slot."""
        check_slot(slot)
        return next((part for part in self.parts if slot in part.slots), None)

    def graph(self, slot: str) -> Graph | None:
        """The graph that fills a slot; None where the network keeps its own layer."""
        part = self.part(slot)
        return None if part is None else part.graph

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The graph of every part."""
        return tuple(part.graph for part in self.parts)

    @property
    def index_sets(self) -> frozenset[IndexSet]:
        """Index sets of all moments in use."""
        return frozenset().union(*(graph.index_sets for graph in self.graphs))

    @property
    def uses_batch(self) -> bool:
        """Whether a part depends on a statistic over the batch."""
        return any(graph.uses_batch for graph in self.graphs)

    def __len__(self) -> int:
        """Operations of all parts."""
        return sum(map(len, self.graphs))

    @property
    def stateful(self) -> tuple[str, ...]:
        """Names of the layers with state among the parts, each once."""
        return tuple(dict.fromkeys(part.stateful for part in self.parts if part.stateful))

    def stateless(self) -> Assembly:
        """The graphs alone: what the layers with state among the parts do to one batch."""
        return Assembly(tuple(part._replace(stateful="") for part in self.parts))

    @property
    def single(self) -> Graph | None:
        """The graph, if one with its affine fills all places: then the assembly is a layer like any other."""
        first = self.parts[0]
        return first.graph if first.slots == SLOTS and first.affine else None

    def active(self) -> Assembly:
        """The same assembly: parts hold active graphs only."""
        return Assembly(tuple(part._replace(graph=part.graph.active()) for part in self.parts))

    def canonical(self) -> Assembly:
        """Simplified graphs, and equal parts joined."""
        joined: dict[tuple[Graph, bool, str], list[str]] = {}
        for part in self.parts:
            key = (canonical(part.graph), part.affine, part.stateful)
            joined.setdefault(key, []).extend(part.slots)
        return Assembly(
            tuple(
                Part(tuple(slot for slot in SLOTS if slot in slots), *known)
                for known, slots in joined.items()
            )
        )

    def digest(self) -> bytes:
        """16 bytes that are equal for assemblies with the same canonical form; that of the graph for a single one."""
        return assembly_digest(
            {part.slots: (part_digest(part.graph, part.stateful), part.affine) for part in self.parts}
        )


def part_digest(graph: Graph, stateful: str = "") -> bytes:
    """16 bytes that are equal for the same canonical graph; a layer with state has its own."""
    plain = digest(graph)
    if not stateful:
        return plain
    return hashlib.blake2b(b"stateful:" + stateful.encode() + plain, digest_size=16).digest()


def assembly_digest(parts: Mapping[tuple[str, ...], tuple[bytes, bool]]) -> bytes:
    """The digest of an assembly from (digest of the canonical graph, affine) by slots."""
    placed = {slot: one for slots, one in parts.items() for slot in slots}
    first = next(iter(placed.values()))
    if len(placed) == len(SLOTS) and first[1] and all(one == first for one in placed.values()):
        return first[0]
    text = b"".join(
        slot.encode() + (b"+" if placed[slot][1] else b"-") + placed[slot][0]
        for slot in SLOTS
        if slot in placed
    )
    return hashlib.blake2b(b"assembly\0" + text, digest_size=16).digest()
