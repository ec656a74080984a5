"""A graph as a tree of lines: operations with their arguments below them, shared parts drawn once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.tree import Tree

    from evonas.graph import Graph


def draw(graph: Graph) -> Tree:
    """The active graph from its output down. A node that is used twice carries a number and is drawn the first
    time only; later uses name the number."""
    from rich.text import Text
    from rich.tree import Tree

    graph = graph.active()
    first = len(graph.leaves)
    uses = Counter(a for node in graph.nodes for a in node.args)
    shared = [first + i for i in range(len(graph.nodes)) if uses[first + i] > 1]
    number = {node: f"#{n}" for n, node in enumerate(shared, start=1)}
    drawn: set[int] = set()

    def label(node: int) -> str:
        if node < first:
            return graph.leaves[node]
        op, _, index = graph.nodes[node - first]
        name = f"{op}[{','.join(index)}]" if index else op
        return f"{number[node]} {name}" if node in number else name

    def hang(node: int, tree: Tree) -> None:
        if node < first:
            return
        drawn.add(node)
        for argument in graph.nodes[node - first].args:
            if argument in drawn and argument in number:
                tree.add(Text(f"{number[argument]} (above)"))
            else:
                hang(argument, tree.add(Text(label(argument))))

    root = Tree(Text(label(graph.output)))
    hang(graph.output, root)
    return root


def nodes(graph: Graph) -> list[dict[str, object]]:
    """The active graph as plain values: leaves first, then operations with the ids of their arguments."""
    graph = graph.active()
    rows: list[dict[str, object]] = [{"id": i, "leaf": leaf} for i, leaf in enumerate(graph.leaves)]
    for i, (op, args, index) in graph.operations():
        rows.append({"id": i, "op": op, "args": list(args), "index": list(index) if index else None})
    return rows
