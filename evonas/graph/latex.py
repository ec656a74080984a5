"""LaTeX of a graph."""

from __future__ import annotations

import re

from evonas import primitives
from evonas.graph.graph import Graph

_AXES = {"b": "b", "t": "t", "w": "w", "h": "h", "c": "c", "c/g": "c/g"}


def format_latex(graph: Graph) -> str:
    """The active graph in LaTeX (math mode, no delimiters). Shared parts are written out."""
    graph = graph.active()
    first = len(graph.leaves)

    def text(i: int) -> tuple[str, int]:
        if i < first:
            leaf = graph.leaves[i]
            name = re.sub(r"^v(\d)$", r"v_\1", leaf)
            mantissa, e, power = name.partition("e")
            if e:
                name = rf"{mantissa} \cdot 10^{{{int(power)}}}"
            return name, 25 if name.startswith("-") else 100
        op, args, index = graph.nodes[i - first]
        primitive = primitives.get(op)
        level = 100 if op == "div" or primitive.precedence is None else primitive.precedence
        parts = []
        for position, a in enumerate(args):
            part, strength = text(a)
            needed = level + (1 if position else 0) if level < 100 else 0
            parts.append(rf"\left({part}\right)" if strength < needed else part)
        return primitive.latex.format(*parts, I=",".join(_AXES[a] for a in index or ())), level

    return text(graph.output)[0]
