"""Formula <-> graph: round trips on random graphs, and what a malformed formula is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import graphs

from evonas.errors import FormulaError, UsageError
from evonas.graph import Graph, Node, canonical, digest, format_latex
from evonas.layers import ZOO


@given(graphs())
def test_print_and_parse_are_inverse(graph):
    text = str(graph)
    again = Graph.parse(text)
    assert str(again) == text
    assert digest(again) == digest(graph)
    assert canonical(again) == canonical(graph)


@given(graphs())
def test_latex_is_balanced_and_names_what_is_used(graph):
    text = format_latex(graph)
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") == text.count(r"\right")
    assert ("x" in graph.active().leaves) <= ("x" in text)


def test_latex_by_hand():
    s0 = r"\frac{x \cdot \sigma\left(v_1 \cdot x\right)}{s_{w,h,c/g}\left(x\right)}"
    assert format_latex(Graph.parse("x * sigmoid(v1 * x) / std[w,h,c/g](x)")) == s0
    assert format_latex(Graph.parse("-(x - v0) * 2.5e-7")) == r"-\left(x - v_0\right) \cdot 2.5 \cdot 10^{-7}"


def test_deeply_shared_parts_do_not_blow_up():
    nodes = [Node("add", (0, 0))] + [Node("mul", (i, i)) for i in range(1, 60)]
    graph = Graph(("x",), tuple(nodes), 60)
    assert len(str(graph)) < 2000
    assert len(format_latex(graph)) < 3000
    assert r"t_{1} = x + x" in format_latex(graph)
    assert len(canonical(graph)) == 60


@pytest.mark.parametrize("name", ZOO)
def test_zoo_formulas_are_stable(name):
    text = str(Graph.parse(ZOO[name].formula))
    assert str(Graph.parse(text)) == text


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("x+v1*x", "x + v1 * x"),
        ("(x)", "x"),
        ("x - (v0 - v1)", "x - (v0 - v1)"),
        ("x / v0 / v1", "x / v0 / v1"),
        ("x / (v0 * v1)", "x / (v0 * v1)"),
        ("-x * v1", "-x * v1"),
        ("-(x * v1)", "-(x * v1)"),
        ("--x", "--x"),
        ("x * -2", "x * -2"),
        ("x - -2.5e-3", "x - -0.0025"),
        ("neg(2) * x", "neg(2) * x"),
        ("add(x, mul(v0, v1))", "x + v0 * v1"),
        ("mean[h, w , b](x)", "mean[b,w,h](x)"),
        ("std[c/g,h,w](x)", "std[w,h,c/g](x)"),
        ("one() + x", "1 + x"),
        ("1.0 * x", "1 * x"),
        ("(n := tanh(x + v1)) * n", "tanh(x + v1) * tanh(x + v1)"),  # short parts are written out
        ("(n := tanh(x * v1 + v0)) * sigmoid(n) + n", "(t1 := tanh(x * v1 + v0)) * sigmoid(t1) + t1"),
    ],
)
def test_spelling(given, printed):
    assert str(Graph.parse(given)) == printed


MALFORMED = {
    "": "the formula is empty",
    "x *": r"cannot read the formula at column",
    "x ** 2": r"this operator is not part of the formula language \(column 1\)",
    "x @ x": "this operator is not part",
    "y + x": r"unknown input 'y' \(column 1\)",
    "x + z9": r"unknown input 'z9' \(column 5\)",
    "swosh(x)": "unknown primitive 'swosh'",
    "tahn(x)": "did you mean 'tanh'",
    "mean(x)": r"mean needs an index set .*\n.*\n.*\n  -> write mean\[w,h\]\(x\)",
    "tanh[w,h](x)": "tanh takes no index set",
    "mean[w,q](x)": "unknown axis 'q'",
    "mean[w,w](x)": "a repeated axis",
    "mean[c,c/g](x)": "c and c/g",
    "max(x)": r"max takes 2 argument\(s\), 1 given",
    "tanh(x, x)": r"tanh takes 1 argument\(s\), 2 given",
    "tanh(a=x)": "arguments are given by position",
    "x.real": "Attribute is not part",
    "[x]": "List is not part",
    "lambda: x": "Lambda is not part",
    "__import__('os').system('true')": "only a primitive can be called|unknown primitive",
    "(lambda: x)()": "only a primitive can be called",
    "x if x else v0": "IfExp is not part",
    "x + 1e999": "not a finite number",
    "x + 1e40": "not a finite number",
    "x + 'a'": "not a finite number",
    "x + True": "not a finite number",
    "x + 2j": "not a finite number",
    "x + -'a'": "not a finite number",
    "x + -True": "not a finite number",
    "(x := tanh(v1)) * x": "'x' is already taken",
    "(n := x) + (n := v1)": "'n' is already taken",
    "n + (n := x)": "unknown input 'n'",
    "x; x": "cannot read",
    "x\n+ x\n= 3": "cannot read",
    "~x": "is not part of the formula language",
    "x\0": "cannot read",
    "(" * 300 + "x" + ")" * 300: "cannot read|nested too deeply",
    "-" * 20000 + "x": "cannot read|nested too deeply",
    "+".join(["x*v1"] * 3) + "+tanh(x)" * 700: "operations, at most|nested too deeply",
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: repr(text[:20]))
def test_malformed_formulas_are_explained(text):
    with pytest.raises(UsageError, match=f"(?s){MALFORMED[text]}") as caught:
        Graph.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("what", [None, 3, b"x"])
def test_a_formula_is_text(what):
    with pytest.raises(FormulaError):
        Graph.parse(what)


@pytest.mark.parametrize(
    ("leaves", "nodes", "output", "message"),
    [
        (("x",), (Node("tanh", (1,)),), 1, "may only use ids below 1"),
        (("x",), (Node("tanh", (-1,)),), 1, "may only use ids below 1"),
        (("x",), (Node("add", (0,)),), 1, r"add takes 2 argument\(s\), node 1 gives 1"),
        (("x",), (Node("mean", (0,)),), 1, "mean needs an index set"),
        (("x",), (Node("tanh", (0,), ("w",)),), 1, "tanh takes no index set"),
        (("x",), (Node("mean", (0,), ("h", "w")),), 1, "not in canonical order"),
        (("x",), (), 1, "output id 1 does not exist"),
        (("q",), (), 0, "unknown input 'q'"),
        (("inf",), (), 0, "unknown input 'inf'"),
        (("1.50",), (), 0, "unknown input '1.50'"),
        (("x",), (Node("tangh", (0,)),), 1, "did you mean 'tanh'"),
    ],
)
def test_impossible_graphs_are_refused(leaves, nodes, output, message):
    with pytest.raises(UsageError, match=message):
        Graph(leaves, nodes, output)
