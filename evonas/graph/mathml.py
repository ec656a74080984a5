"""A graph as MathML, which browsers and notebooks typeset by themselves: LaTeX, converted by latex2mathml."""

from __future__ import annotations

from evonas.graph.graph import Graph
from evonas.graph.latex import format_latex


def format_mathml(graph: Graph) -> str:
    """The active graph as a ``<math>`` element in display style."""
    from latex2mathml.converter import convert

    return str(convert(format_latex(graph), display="block"))
