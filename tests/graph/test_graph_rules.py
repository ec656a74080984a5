"""Every rule of the simplification table holds, for the value and for the gradient, where vectors start."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from evonas.primitives import numpy_namespace

from evonas.graph import NCHW, Graph, canonical
from evonas.graph.execute import ArrayOps, backward, forward, reduce_to_vector
from evonas.graph.rules import CONDITIONS, RULES

#: Those of causal moments are for tokens: test_causal_rules.py.
PLAIN = [rule for rule in RULES if not rule.pattern.startswith(("cmean", "crms", "cstd"))]
SHAPE = (3, 2, 3, 2, 4)
VECTOR = (1, 2, 3, 1, 1)

#: What a and b stand for: values of x, trainable vectors at and off their start, ties, zeros, statistics, products
#: that are zero at initialization.
ANYTHING = (
    "x",
    "v0",
    "v1",
    "x * v0",
    "v0 * v1",
    "mean[w,h](x)",
    "sqrt(x)",
    "x / v0",
    "max(x, v0)",
    "0 * v1 + v0",
    "abs(x)",
)
NOT_NEGATIVE = (
    "abs(x)",
    "square(x)",
    "exp(v0)",
    "sigmoid(x)",
    "rms[w,h](x)",
    "std[b,w,h](x)",
    "abs(v0)",
    "square(v0)",
    "2",
)
CONSTANT_OVER_WH = ("v0", "v1", "mean[w,h](x)", "v0 * std[w,h](x)", "v1 + v0", "0.5")


def parts(when):
    return {None: ANYTHING, "a is not negative": NOT_NEGATIVE, "a constant over I": CONSTANT_OVER_WH}[when]


class _Fill(ast.NodeTransformer):
    def __init__(self, **parts):
        self.parts = {name: ast.parse(text, mode="eval").body for name, text in parts.items()}

    def visit_Name(self, node):
        return self.parts.get(node.id, node)

    def visit_Subscript(self, node):
        return ast.parse(f"{ast.unparse(node.value)}[w,h]", mode="eval").body


def fill(text, a, b):
    """A side of a rule with expressions for a and b and [w,h] for I; no simplification on the way."""
    return Graph.parse(ast.unparse(_Fill(a=a, b=b).visit(ast.parse(text, mode="eval")).body))


def run(graph, leaves, g):
    ops = ArrayOps(numpy_namespace, NCHW)
    with np.errstate(all="ignore"):
        values = forward(graph, leaves, ops)
        grads = backward(graph, values, g, ops)
    full = {name: np.broadcast_to(grads.get(name, 0.0), SHAPE) for name in leaves}
    for name in ("v0", "v1"):
        full[name] = reduce_to_vector(full[name], SHAPE, NCHW)
    return np.broadcast_to(values[graph.output], SHAPE), full


def settings():
    rng = np.random.default_rng(7)
    x = rng.normal(size=SHAPE)
    x[0] = 0.0
    g = rng.normal(size=SHAPE)
    yield {"x": x, "v0": np.zeros(VECTOR), "v1": np.ones(VECTOR)}, g
    yield {"x": x, "v0": rng.normal(size=VECTOR), "v1": rng.normal(size=VECTOR)}, g
    yield {"x": 50 * x, "v0": -np.zeros(VECTOR), "v1": -np.ones(VECTOR)}, g


def same(a, b):
    scale = 1.0 + np.maximum(np.abs(a), np.abs(b))
    return np.isfinite(a).all() and (np.abs(a - b) <= 1e-9 * scale).all()


@pytest.mark.parametrize("rule", PLAIN, ids=lambda rule: f"{rule.pattern} -> {rule.result}")
def test_a_rule_keeps_value_and_gradient(rule):
    compared = 0
    for a in parts(rule.when):
        for b in (
            ANYTHING
            if "b" in rule.pattern.split("(")[-1] or " b" in rule.pattern or "-b" in rule.pattern
            else ("x",)
        ):
            left, right = fill(rule.pattern, a, b), fill(rule.result, a, b)
            for leaves, g in settings():
                value, grads = run(left, leaves, g)
                wanted, wanted_grads = run(right, leaves, g)
                assert same(value, wanted), (str(left), str(right))
                for name in leaves:
                    assert same(grads[name], wanted_grads[name]), (str(left), str(right), name)
                compared += 1
    assert compared >= 15


@pytest.mark.parametrize("rule", PLAIN, ids=lambda rule: f"{rule.pattern} -> {rule.result}")
def test_a_rule_is_applied(rule):
    for a in parts(rule.when)[:2]:
        assert canonical(fill(rule.pattern, a, "tanh(x)")) == canonical(fill(rule.result, a, "tanh(x)"))


@pytest.mark.parametrize(
    "text", ["abs(x)", "abs(tanh(x))", "mean[w,h](x * v1)", "std[w,h](mean[w](x))", "x / -v1"]
)
def test_conditions_keep_a_rule_from_what_it_does_not_fit(text):
    graph = Graph.parse(text)
    assert len(canonical(graph)) == len(graph)


def test_every_condition_in_use_is_described():
    assert {rule.when for rule in RULES} - {None} == {"a constant over I", "a is not negative"}
    assert len(CONDITIONS) == 2
