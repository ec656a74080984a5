"""A graph as MathML, which browsers and notebooks typeset by themselves: LaTeX, converted by latex2mathml."""

from __future__ import annotations

import re

from evonas.graph.graph import Graph
from evonas.graph.latex import format_latex


def format_mathml(graph: Graph) -> str:
    """The active graph as a ``<math>`` element in display style; constants with four digits, for people."""
    from latex2mathml.converter import convert

    latex = re.sub(r"\d+\.\d{5,}", lambda found: f"{float(found[0]):.4g}", format_latex(graph))
    return str(convert(latex, display="block"))
