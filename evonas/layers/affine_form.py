"""Which layers are affine per channel at evaluation, read off the graph. Imports no torch.

At evaluation a moment over the batch is a constant per channel, rebuilt from its running average. What is left may
then be ``scale * x + shift`` with one scale and one shift per channel, as batch normalization is. This file proves
it by a table of rules over the nodes, or names the first node that stands in the way.
"""

from __future__ import annotations

from typing import NamedTuple

from evonas.graph.graph import Graph


class Form(NamedTuple):
    """What a node is at evaluation. kind: constant (per channel), affine (in x, per channel) or neither, then
    ``why`` is a sentence."""

    kind: str
    why: str = ""


CONSTANT, AFFINE = Form("constant"), Form("affine")
#: Operations that keep an affine form: kinds of their arguments. Everything else of an affine argument is neither.
KEEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "neg": (("affine",),),
    "add": (("affine", "affine"), ("affine", "constant"), ("constant", "affine")),
    "sub": (("affine", "affine"), ("affine", "constant"), ("constant", "affine")),
    "mul": (("affine", "constant"), ("constant", "affine")),
    "div": (("affine", "constant"),),
}


def eval_forms(graph: Graph) -> list[Form]:
    """The form of every leaf and node at evaluation, by id."""
    forms = [AFFINE if leaf == "x" else CONSTANT for leaf in graph.leaves]
    for here, (op, args, index) in graph.operations():
        given = [forms[a] for a in args]
        if index is not None and "b" in index:
            forms.append(CONSTANT)  # from its running average
        elif all(form.kind == "constant" for form in given):
            forms.append(CONSTANT)
        elif any(form.kind == "neither" for form in given):
            forms.append(next(form for form in given if form.kind == "neither"))
        elif tuple(form.kind for form in given) in KEEPS.get(op, ()):
            forms.append(AFFINE)
        else:
            forms.append(Form("neither", _why(graph, here, index is not None)))
    return forms


def not_affine(graph: Graph) -> str | None:
    """None if the layer is affine per channel at evaluation, else the reason that it is not."""
    graph = graph.active()
    form = eval_forms(graph)[graph.output]
    return form.why if form.kind == "neither" else None


def text_of(graph: Graph, node: int) -> str:
    """One node of a graph, as a formula."""
    return str(Graph(graph.leaves, graph.nodes, node).active())


def _why(graph: Graph, node: int, moment: bool) -> str:
    text = text_of(graph, node)
    if moment:
        return f"{text} has no running average, it is computed anew from each input"
    return f"{text} is not affine in x"
