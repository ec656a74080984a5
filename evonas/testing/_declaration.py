"""Checks of what a primitive declares, without running it."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator

from evonas.graph import Graph, canonical, format_latex
from evonas.testing._subject import Subject

_KINDS = ("elementwise", "moment", "constant")


def declaration(subject: Subject) -> Iterator[str]:
    """Fields of the right type and in range."""
    p = subject.primitive
    if p.kind not in _KINDS:
        yield f"kind is {p.kind!r}, needed is one of {', '.join(_KINDS)}"
    if p.kind == "constant" and p.name != "one":
        yield "kind is 'constant', but formulas write constants as numbers: use the number itself"
    if not isinstance(p.source, str) or not p.source.strip():
        yield f"source is {p.source!r}, needed is the paper or the author that the operation comes from"
    if not isinstance(p.flops, int) or isinstance(p.flops, bool) or p.flops < 0:
        yield f"flops is {p.flops!r}, needed is the number of operations per element, an int of at least 0"
    if p.commutative and p.arity != 2:
        yield f"commutative with {p.arity} argument(s), needed are 2"
    if not callable(p.eager):
        yield f"eager is {p.eager!r}, needed is a function f(xp, *args)"


def formula(subject: Subject) -> Iterator[str]:
    """str and parse are inverse on every call of the primitive."""
    for graph in _graphs(subject):
        text = str(graph)
        try:
            again = Graph.parse(text)
        except Exception as error:
            yield f"it prints as {text!r}, which does not parse: {str(error).splitlines()[0]}"
            continue
        if canonical(again) != canonical(graph) or str(again) != text:
            yield f"it prints as {text!r}, which parses as {str(again)!r}"


def latex(subject: Subject) -> Iterator[str]:
    """Balanced, and no argument lost."""
    p = subject.primitive
    for graph in _graphs(subject):
        try:
            text = format_latex(graph)
        except (LookupError, ValueError) as error:
            yield f"latex={p.latex!r} cannot be filled in ({error!r}): double each brace but {{0}}, {{1}}, {{I}}"
            return
        depth = 0
        for brace in text.replace(r"\{", "").replace(r"\}", ""):
            depth += (brace == "{") - (brace == "}")
            if depth < 0:
                break
        if depth or not text.strip() or text.count(r"\left") != text.count(r"\right"):
            yield f"latex={p.latex!r} renders {text!r}, whose braces do not match"
        for leaf in graph.leaves:
            if (leaf[0] + "_" + leaf[1:] if len(leaf) > 1 else leaf) not in text:
                yield f"latex={p.latex!r} renders {text!r}, which does not show the argument {leaf}"


def triton_syntax(subject: Subject) -> Iterator[str]:
    """One Python expression over {0}, {1}, {eps}; tl is the only name besides (and rmean in a moment)."""
    p = subject.primitive
    if p.triton is None:
        return
    allowed = {str(i) for i in range(p.arity)} | {"eps"}
    try:
        slots = {field for _, field, _, _ in string.Formatter().parse(p.triton) if field is not None}
        if slots - allowed:
            yield f"triton={p.triton!r} uses {sorted(slots - allowed)}, operands are {sorted(allowed)}"
            return
        tree = ast.parse(p.triton.format(*["a_", "b_"], eps="eps_"), mode="eval")
    except (ValueError, SyntaxError) as error:
        yield f"triton={p.triton!r} is not an expression: {error}"
        return
    known = {"a_", "b_", "eps_", "tl"} | ({"rmean"} if p.kind == "moment" else set())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if names - known:
        yield f"triton={p.triton!r} uses {sorted(names - known)}; write functions as tl.<function>"


def _graphs(subject: Subject) -> Iterator[Graph]:
    arity = subject.primitive.arity
    if arity == 0:
        return
    for index in subject.indices:
        yield subject.graph(("x", "v1")[:arity], index)
        if arity == 2:
            yield subject.graph(("v0", "x"), index)
