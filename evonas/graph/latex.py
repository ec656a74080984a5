"""LaTeX of a graph."""

from __future__ import annotations

import re
from collections import Counter

from evonas import primitives
from evonas.graph.graph import Graph

_AXES = {"b": "b", "t": "t", "w": "w", "h": "h", "c": "c", "c/g": "c/g"}


#: From so many written operations on, shared parts get a name: written out they can grow exponentially.
_LONG = 100


def format_latex(graph: Graph) -> str:
    """The active graph in LaTeX (math mode, no delimiters).

    Shared parts are written out in short layers; in long ones they are named t_1, t_2, ... and defined behind.
    """
    graph = graph.active()
    first = len(graph.leaves)
    uses: Counter[int] = Counter()
    written = [0] * first
    for _, node in graph.operations():
        uses.update(node.args)
        written.append(1 + sum(written[a] for a in node.args))
    named: dict[int, str] = {}
    if written[graph.output] > _LONG:
        named = {i: f"t_{{{n}}}" for n, i in enumerate((i for i in uses if i >= first and uses[i] > 1), 1)}

    def text(i: int, define: bool = False) -> tuple[str, int]:
        if i in named and not define:
            return named[i], 100
        if i < first:
            leaf = graph.leaves[i]
            name = re.sub(r"^([vs])(\d)$", r"\1_\2", leaf)
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

    definitions = [rf"\quad {name} = {text(i, define=True)[0]}" for i, name in named.items()]
    return ", ".join([text(graph.output)[0], *definitions])
