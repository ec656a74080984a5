"""The rules for causal moments hold on tokens, for the value and for the gradient."""

from __future__ import annotations

import numpy as np
import pytest
from evonas.primitives import CAUSAL_MOMENTS, numpy_namespace

from evonas.graph import BTC, Graph, canonical
from evonas.graph.execute import ArrayOps, backward, forward, reduce_to_vector
from evonas.graph.rules import RULES

SHAPE, VECTOR = (3, 5, 2, 3), (1, 1, 2, 3)
CAUSAL = [rule for rule in RULES if rule.pattern.startswith(CAUSAL_MOMENTS)]
ANYTHING = (
    "x",
    "v0",
    "x * v0",
    "mean[c](x)",
    "sqrt(x)",
    "x / v0",
    "cmean[t](x)",
    "rms[b,t](x)",
    "0 * v1 + v0",
)
#: over t and c
CONSTANT = ("s0", "s1", "0.5", "rms[b,t,c](x)", "mean[t,c](x)", "s1 * std[t,c](x)")


def run(text, leaves, g):
    graph, ops = Graph.parse(text), ArrayOps(numpy_namespace, BTC)
    with np.errstate(all="ignore"):
        values = forward(graph, leaves, ops)
        grads = backward(graph, values, g, ops)
    full = {name: np.broadcast_to(grads.get(name, 0.0), SHAPE) for name in leaves}
    for name in leaves:
        if name != "x":  # only its sum is defined
            full[name] = reduce_to_vector(full[name], SHAPE, BTC if name[0] == "v" else None)
    return np.broadcast_to(values[graph.output], SHAPE), full


def settings():
    rng = np.random.default_rng(7)
    x, one = rng.normal(size=SHAPE), np.ones((1, 1, 1, 1))
    x[0] = 0.0
    yield {"x": x, "v0": np.zeros(VECTOR), "v1": np.ones(VECTOR), "s0": 0 * one, "s1": one}
    yield {
        "x": 9 * x,
        "v0": rng.normal(size=VECTOR),
        "v1": rng.normal(size=VECTOR),
        "s0": 0.3 * one,
        "s1": -one,
    }


@pytest.mark.parametrize("rule", CAUSAL, ids=lambda rule: f"{rule.pattern} -> {rule.result}")
def test_a_rule_keeps_value_and_gradient(rule):
    g = np.random.default_rng(8).normal(size=SHAPE)
    for a in ANYTHING if rule.when is None else CONSTANT:
        sides = [side.replace("[I]", "[t,c]").replace("(a)", f"({a})").replace("-a", f"-({a})")
                 for side in (rule.pattern, rule.result)]  # fmt: skip
        if rule.result == "a":
            sides[1] = a
        assert canonical(Graph.parse(sides[0])) == canonical(Graph.parse(sides[1]))
        for leaves in settings():
            value, grads = run(sides[0], leaves, g)
            wanted, wanted_grads = run(sides[1], leaves, g)
            np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9)
            for name in leaves:
                np.testing.assert_allclose(
                    grads[name], wanted_grads[name], rtol=1e-8, atol=1e-8, err_msg=f"{a} {name}"
                )


def test_there_are_such_rules():
    assert len(CAUSAL) == 6


@pytest.mark.parametrize("text", ["cmean[t](v0 * x)", "cmean[t,c](v1)", "cstd[t](mean[c](x))", "crms[t](v0)"])
def test_what_varies_stays(text):
    assert len(canonical(Graph.parse(text))) == len(Graph.parse(text))
