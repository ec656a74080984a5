"""Moments over the tokens so far: against plain loops and autograd, in float32 with an offset; no future."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evonas.primitives import CAUSAL_MOMENTS, EPS

from evonas import primitives
from evonas.errors import FormulaError, PluginError
from evonas.graph import BTC, Graph, canonical, cost, differentiate
from evonas.graph.execute import ArrayOps, backward, forward

SETS = [("t",), ("t", "c"), ("t", "c/g")]
SHAPE = (2, 7, 2, 3)  # b t g k


def run(name, x, index, xp=primitives.numpy_namespace):
    return ArrayOps(xp, BTC).function(name, index)(x)


def draw(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0.4, 1.3, shape)


@pytest.mark.parametrize("index", SETS, ids=",".join)
@pytest.mark.parametrize("name", CAUSAL_MOMENTS)
def test_against_plain_loops(name, index):
    x = draw()
    got = np.broadcast_to(run(name, x, index), SHAPE)
    assert got.shape == SHAPE
    for b, t, g, k in np.ndindex(SHAPE):
        groups = range(2) if "c" in index else [g]
        channels = range(3) if len(index) == 2 else [k]
        values = [x[b, s, i, j] for s in range(t + 1) for i in groups for j in channels]
        mean = math.fsum(values) / len(values)
        wanted = {
            "cmean": mean,
            "crms": math.sqrt(math.fsum(v * v for v in values) / len(values) + EPS),
            "cstd": math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values) + EPS),
        }[name]
        assert got[b, t, g, k] == pytest.approx(wanted, rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("text", [
    "x / crms[t,c](x)", "(x - cmean[t](x)) / cstd[t](x)", "x / cstd[t,c](x + v0) * v1", "crms[t](cmean[t,c](x) * x)",
    "x / rms[b,t](cmean[t](x))", "mean[b,t](cmean[t](x)) + cstd[t,c/g](tanh(x))", "cmean[t](v0 * s1) + x",
    "cstd[t](v0) * x",
])  # fmt: skip
def test_gradients_against_autograd(text):
    graph = Graph.parse(text)
    vector, one = (1, 1, 2, 3), (1, 1, 1, 1)
    leaves = {
        "x": draw(1),
        "v0": draw(2, vector),
        "v1": draw(3, vector),
        "s0": np.full(one, 0.2),
        "s1": np.full(one, 1.4),
    }
    g = draw(4)
    tensors = {
        n: torch.from_numpy(np.broadcast_to(a, SHAPE).copy()).requires_grad_() for n, a in leaves.items()
    }
    y = forward(graph, tensors, ArrayOps(primitives.torch_namespace(), BTC))[graph.output]
    wanted = torch.autograd.grad((y * torch.from_numpy(g)).sum(), list(tensors.values()), allow_unused=True)
    ops = ArrayOps(primitives.numpy_namespace, BTC)
    found = backward(graph, forward(graph, leaves, ops), g, ops)
    symbolic = {n: forward(s, leaves | {"g": g}, ops)[s.output] for n, s in differentiate(graph).items()}
    for name, exact in zip(tensors, wanted, strict=True):
        if exact is None:
            assert name not in found
            continue
        for one in (found[name], symbolic[name]):
            # a leaf counts as expanded; where it does not vary over time, only the sum over time is defined
            axes = () if name == "x" else (0, 1) if name[0] == "v" else (0, 1, 2, 3)
            np.testing.assert_allclose(
                np.broadcast_to(one, SHAPE).sum(axis=axes),
                exact.numpy().sum(axis=axes),
                rtol=1e-9,
                atol=1e-11,
                err_msg=name,
            )


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
@pytest.mark.parametrize("length", [64, 20_000])
def test_float32_keeps_the_variance_of_long_sequences_with_a_large_mean(length, offset):
    """E[a^2] - E[a]^2 in float32 is off by a tenth there, or negative; the sum of positive terms by 1e-3 at most."""
    x = (np.random.default_rng(5).normal(size=(1, length, 1, 4)) + offset).astype(np.float32)
    exact = run("cstd", x.astype(np.float64), ("t", "c"))
    for xp, array in (
        (primitives.numpy_namespace, x),
        (primitives.torch_namespace(), torch.from_numpy(x)),
    ):
        found = np.asarray(run("cstd", array, ("t", "c"), xp))
        assert found.dtype == np.float32
        assert np.abs(found / exact - 1).max() < 1e-3
        mean = np.asarray(run("cmean", array, ("t", "c"), xp))
        assert np.abs(mean - run("cmean", x.astype(np.float64), ("t", "c"))).max() < 2e-7 * (
            1e3 + abs(offset)
        )
    if offset and length > 1000:
        count = np.arange(1, length + 1, dtype=np.float32).reshape(1, -1, 1, 1)
        first = np.cumsum(x.mean((2, 3), keepdims=True, dtype=np.float32), 1) / count
        second = np.cumsum(np.square(x).mean((2, 3), keepdims=True, dtype=np.float32), 1) / count
        naive = np.sqrt(np.maximum(second - first**2, 0) + np.float32(EPS))
        assert np.abs(naive / exact - 1).max() > 0.1


def test_gradient_of_cstd_in_float32_with_an_offset():
    graph = Graph.parse("x / cstd[t,c](x)")
    x, g = draw(6, (1, 200, 1, 4)) + 1e3, draw(7, (1, 200, 1, 4))
    parts = []
    for dtype in (np.float64, np.float32):
        ops = ArrayOps(primitives.numpy_namespace, BTC)
        leaves = {"x": (x).astype(np.float32).astype(dtype)}
        parts.append(backward(graph, forward(graph, leaves, ops), g.astype(dtype), ops)["x"])
    assert np.abs(parts[1] - parts[0]).max() < 1e-4 * np.abs(parts[0]).max()


@pytest.mark.parametrize("index", SETS, ids=",".join)
@pytest.mark.parametrize("name", CAUSAL_MOMENTS)
def test_a_token_changes_nothing_before_it(name, index):
    x = draw()
    base = run(name, x, index)
    for t in range(SHAPE[1]):
        moved = x.copy()
        moved[:, t] += 2.0
        found = run(name, moved, index)
        np.testing.assert_array_equal(found[:, :t], base[:, :t])
        if t or (name, index) != ("cstd", ("t",)):  # one value alone has no variance
            assert (found[:, t] != base[:, t]).any()


def test_adjoints_look_ahead_and_say_so():
    assert "not causal" in (primitives.get("cmean_back").eager.__doc__ or "")
    assert primitives.get("cmean_back").step is None
    assert not set(CAUSAL_MOMENTS) & {"cmean_back"}


@pytest.mark.parametrize("text", ["cmean[c](x)", "crms[b,t](x)", "cstd[w,h](x)"])
def test_index_sets_that_make_no_sense(text):
    with pytest.raises(FormulaError, match=r"needs t and cannot have b[\s\S]*write c\w+\[t\]\(x\)"):
        Graph.parse(text)


def test_causal_primitives_are_moments():
    with pytest.raises(PluginError, match="a causal primitive is a moment"):
        primitives.primitive("acme_later", causal=True, gradient=lambda ops, g, y, a: (g,), source="test")(
            lambda xp, a: a
        )


def test_time_stays_where_other_axes_go():
    assert str(canonical(Graph.parse("cmean[t,c](v1 + s0)"))) != str(canonical(Graph.parse("v1 + s0")))
    assert canonical(Graph.parse("cmean[t,c](s1) * x")) == canonical(Graph.parse("s1 * x"))
    nested = Graph.parse("mean[t](cmean[t](x)) + x")
    assert "mean[t]" in str(canonical(nested))  # the inner moment varies over t
    assert (
        cost(Graph.parse("tanh(cmean[t,c](x))"), (2, 10, 8), layout="btc").flops == 2 * 160 + 3 * 160 + 5 * 20
    )
