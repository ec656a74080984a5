"""Formulas as MathML and as drawings, each formula once."""

from __future__ import annotations

from typing import Any

from evonas.errors import EvonasError
from evonas.graph import Graph, format_latex
from evonas.graph.drawing import draw_svg


class Pictures:
    """What a page shows of its formulas, by formula."""

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self._made: dict[str, dict[str, Any]] = {}

    def add(self, formula: str) -> None:
        """Typeset and draw a formula."""
        if formula not in self._made:
            self._made[formula] = {"parts": [_part(name, text) for name, text in _parts(formula)]}

    def operations(self, formula: str) -> int | None:
        """Operations of a formula; None where it needs a plug-in that is not loaded."""
        try:
            return sum(len(Graph.parse(text)) for _, text in _parts(formula))
        except EvonasError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """formula -> {"parts": [{"slot", "math", "svg"}]}; math and svg are None where the formula cannot be read."""
        return dict(self._made)


def _parts(formula: str) -> list[tuple[str, str]]:
    """(slot, formula) of each part; the slot of a plain formula is empty."""
    return [("", formula)]


def _part(slot: str, formula: str) -> dict[str, Any]:
    from latex2mathml.converter import convert

    try:
        graph = Graph.parse(formula)
    except EvonasError:  # a plug-in's operation, in a page that is made without the plug-in
        return {"slot": slot, "formula": formula, "math": None, "svg": None}
    math = convert(format_latex(graph), display="block")
    return {"slot": slot, "formula": formula, "math": math, "svg": draw_svg(graph, style=False)}
