"""s0 and s1: one trainable value per layer, through formulas, canonical form, fingerprints and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from evonas import primitives
from evonas.graph import (
    BTC,
    NCHW,
    Graph,
    analyse,
    canonical,
    cost,
    differentiate,
    digest,
    fingerprint,
    format_latex,
    same_function,
)
from evonas.graph.execute import ArrayOps, backward, forward, reduce_to_scalar

#: Fingerprint of EvoNorm-S0 in the version before there were scalars.
BEFORE = (
    -0.6245501789398287, 0.054235497299848924, 0.29266468626068304, 0.6035006777099808, 0.010091637806541202,
    -0.9265664076766187, 0.2929734220814284, -0.13180171959125328, 0.046278106551078606, 0.35611222197149633,
    -0.08566098463099417, -0.0888487221625727,
)  # fmt: skip


@pytest.mark.parametrize(
    "text", ["tanh(s1 * x)", "erf(s1 * x + s0)", "(s0 + x) * v1", "x / max(s1, rms[c](x))"]
)
def test_formula_round_trip(text):
    graph = Graph.parse(text)
    assert Graph.parse(str(graph)) == graph
    assert canonical(Graph.parse(str(canonical(graph)))) == canonical(graph)


def test_latex_names_them_like_vectors():
    assert format_latex(Graph.parse("tanh(s1 * x + s0)")) == r"\tanh\left(s_1 \cdot x + s_0\right)"


def test_a_moment_of_a_scalar_is_the_scalar():
    """It varies over nothing, so also the mean over channels leaves it: other than that of a vector."""
    assert str(canonical(Graph.parse("x + mean[c](s1)"))) == str(canonical(Graph.parse("x + s1")))
    assert "mean" in str(canonical(Graph.parse("x + mean[c](v1)")))
    assert str(canonical(Graph.parse("x * std[b,w,h](s0)"))) == str(
        canonical(Graph.parse("x * std[b,w,h](0)"))
    )


@pytest.mark.parametrize(
    ("one", "other"), [("s1", "v1"), ("s0", "v0"), ("s1", "1"), ("s0", "0"), ("s0", "s1")]
)
@pytest.mark.parametrize("layout", ["nchw", "btc"])
def test_scalars_vectors_and_constants_are_different_functions(one, other, layout):
    graphs = [Graph.parse(f"tanh({name} * x + x)") for name in (one, other)]
    assert digest(graphs[0]) != digest(graphs[1])
    assert not same_function(*graphs, layout)


@pytest.mark.parametrize("layout", ["nchw", "btc"])
def test_equal_functions_of_scalars_are_found(layout):
    """Spellings that no rule knows: the fingerprint sees them, gradients of s0 and s1 included."""
    assert same_function(Graph.parse("s1 * (x + s0)"), Graph.parse("s1 * x + s1 * s0"), layout)
    assert not same_function(Graph.parse("s1 * (x + s0)"), Graph.parse("s1 * x + s0"), layout)


def test_graphs_without_scalars_keep_their_fingerprint():
    """Searches that were begun before there were scalars compare distances of fingerprints with their logs."""
    found = fingerprint(Graph.parse("x * sigmoid(v1 * x) / std[w,h,c/g](x)"))
    np.testing.assert_allclose(found.vector, BEFORE, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layout", [NCHW, BTC], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "text", ["tanh(s1 * x) * v1", "erf(s1 * x + s0)", "x / rms[c](x + s0) * s1", "s1 + 0 * x"]
)
def test_gradients_against_central_differences(text, layout):
    graph = Graph.parse(text)
    rng = np.random.default_rng(3)
    shape = tuple({"b": 3, "t": 4, "g": 2, "k": 2, "h": 2, "w": 3}[d] for d in layout.dims)
    vector = tuple(n if d in ("g", "k") else 1 for n, d in zip(shape, layout.dims, strict=True))
    one = (1,) * len(shape)
    leaves = {"x": rng.normal(size=shape), "v0": rng.normal(size=vector), "v1": rng.normal(size=vector),
              "s0": np.full(one, 0.4), "s1": np.full(one, 0.8)}  # fmt: skip
    g, ops = rng.normal(size=shape), ArrayOps(primitives.numpy_namespace, layout)

    def loss(**changed):
        return float((forward(graph, leaves | changed, ops)[graph.output] * g).sum())

    adjoints = backward(graph, forward(graph, leaves, ops), g, ops)
    symbolic = differentiate(graph)
    for name in ("s0", "s1"):
        if name not in graph.leaves:
            assert name not in adjoints
            continue
        step = np.full(one, 1e-6)
        wanted = (loss(**{name: leaves[name] + step}) - loss(**{name: leaves[name] - step})) / 2e-6
        got = reduce_to_scalar(np.broadcast_to(adjoints[name], shape), shape)
        assert got.shape == one
        assert got.item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)
        as_graph = symbolic[name]
        value = forward(as_graph, leaves | {"g": g}, ops)[as_graph.output]
        assert reduce_to_scalar(value, shape).item() == pytest.approx(got.item(), rel=1e-12)


def test_analysis_and_cost():
    found = analyse(Graph.parse("erf(s1 * x + s0) * v1"))
    assert (found.scalars, found.vectors) == (("s0", "s1"), ("v1",))
    assert found.bounded
    assert analyse(Graph.parse("tanh(s0 * x)")).depends_on_x  # the gradient is zero at the start alone
    assert cost(Graph.parse("tanh(s1 * x)"), (1, 8, 2, 2)).parameters == 2 * 8 + 1
    assert cost(Graph.parse("s0 * s1 + x"), (1, 8, 2, 2)).flops == 2 * 32 + 32 + 1
