"""Formulas as MathML and as drawings, each formula once."""

from __future__ import annotations

from typing import Any

from evonas.errors import EvonasError
from evonas.graph import Graph
from evonas.graph.drawing import draw_svg
from evonas.graph.mathml import format_mathml
from evonas.layers import assembly_from


class Pictures:
    """What a page shows of its formulas, by formula."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Any]] = {}

    def add(self, formula: str) -> None:
        """Typeset and draw a formula."""
        if formula in self._made:
            return
        try:
            self._made[formula] = {"parts": [_part(slot, text) for slot, text in _parts(formula)]}
        except EvonasError:  # an operation of a plug-in that is not loaded: the page shows the text
            self._made[formula] = {"parts": []}

    def operations(self, formula: str) -> int | None:
        """Operations of a formula; None where it needs a plug-in that is not loaded."""
        try:
            return sum(len(Graph.parse(text)) for _, text in _parts(formula))
        except EvonasError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """formula -> {"parts": [{"slot", "formula", "math", "svg"}]}; no parts where it cannot be read."""
        return dict(self._made)


def _parts(formula: str) -> list[tuple[str, str]]:
    """(slots, formula) of each part; the slots of a plain formula are not named.

    Raises:
        UsageError, FormulaError: a formula that cannot be read here.
    """
    assembly = assembly_from(formula)
    if assembly.single is not None:
        return [("", str(assembly.single))]
    return [(str(part).partition(":")[0], str(part.graph)) for part in assembly.parts]


def _part(slot: str, formula: str) -> dict[str, Any]:
    graph = Graph.parse(formula)
    return {
        "slot": slot,
        "formula": formula,
        "math": format_mathml(graph),
        "svg": draw_svg(graph, style=False),
    }
