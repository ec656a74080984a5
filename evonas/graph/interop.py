"""A graph as a networkx graph, to draw, walk and export it with the tools that exist for those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evonas.graph.graph import Graph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """Nodes are the graph's ids; edges point from an argument to its user and carry its ``position``.

    Node attributes: ``label``, ``op`` (None for a leaf), ``index`` (a tuple of axis names or None), ``active``
    (whether the output depends on it), ``output``. A multigraph, because x * x uses x twice.
    """
    import networkx as nx

    made = nx.MultiDiGraph(formula=str(graph))
    active = graph.ancestors()
    for i, leaf in enumerate(graph.leaves):
        made.add_node(i, label=leaf, op=None, index=None, active=i in active, output=i == graph.output)
    for i, (op, args, index) in graph.operations():
        label = f"{op}[{','.join(index)}]" if index else op
        made.add_node(i, label=label, op=op, index=index, active=i in active, output=i == graph.output)
        for position, a in enumerate(args):
            made.add_edge(a, i, position=position)
    return made
