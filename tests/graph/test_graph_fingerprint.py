"""Functional fingerprint: equal for the same function, different for a near one, stable at bucket edges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from strategies import graphs

from evonas.graph import Fingerprint, FingerprintIndex, Graph, canonical, fingerprint, same_function
from evonas.graph.fingerprint import TOLERANCE, WIDTH, make_probe, observe

EQUAL = [
    ("x * sigmoid(x)", "x * (0.5 + 0.5 * tanh(0.5 * x))"),
    ("max(x, 0)", "0.5 * (x + abs(x))"),
    ("x + x", "2 * x"),
    ("x / std[w,h](x)", "-(-x / std[w,h](-x))"),
    ("(x + v0) * (x - v0)", "square(x) - square(v0)"),
    ("exp(x) * exp(v1)", "exp(x + v1)"),
    ("mean[w,h,c](x)", "mean[c](mean[w,h](x))"),
    ("mean[b,w,h](x) + mean[b,w,h](v1 * x)", "(1 + v1) * mean[b,w,h](x)"),
    ("v1 / exp(v0) * x", "x * v1 * exp(-v0)"),
    ("rms[w,h](x)", "rms[w,h](x * -1)"),
]
NEAR = [
    ("x / std[w,h](x)", "x / std[w,h,c](x)"),
    ("x / std[w,h,c](x)", "x / std[w,h,c/g](x)"),
    ("x / std[b,w,h](x)", "x / std[w,h](x)"),
    ("x / std[w,h](x)", "x / rms[w,h](x)"),
    ("x * sigmoid(v1 * x)", "x * sigmoid(x)"),  # equal at initialization
    ("x + v0", "x"),  # equal at initialization
    ("x * (v0 + 1)", "x * v1"),  # equal values at initialization, equal gradients too, up to which vector
    ("x", "1.00001 * x"),
    ("tanh(x)", "erf(x)"),
    ("x - v1", "v1 - x"),
    ("sub(x, mean[w](x))", "sub(x, mean[h](x))"),
    ("sign(x)", "sign(x) + 1e-5 * x"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_functions(a, b):
    assert same_function(Graph.parse(a), Graph.parse(b))


@pytest.mark.parametrize(("a", "b"), NEAR)
def test_near_functions(a, b):
    distance = fingerprint(Graph.parse(a)).distance(fingerprint(Graph.parse(b)))
    assert distance > 3 * TOLERANCE


def test_gradients_tell_apart_what_values_do_not():
    """A step of v0 and a very steep sigmoid of it: equal on every probe, but one learns where v0 starts."""
    probe = make_probe("nchw")
    a, b = (observe(Graph.parse(text), probe) for text in ("x + step(v0)", "x + sigmoid(1e9 * v0)"))
    assert np.array_equal(a.y, b.y)
    assert np.array_equal(a.dx, b.dx)
    assert a.fingerprint.distance(b.fingerprint) > 0.01


@pytest.mark.parametrize("layout", ["nchw", "btc"])
def test_a_probe_is_the_same_each_time(layout):
    a = make_probe(layout)
    make_probe.cache_clear()
    b = make_probe(layout)
    assert np.array_equal(a.leaves["x"], b.leaves["x"])
    assert np.array_equal(a.projection, b.projection)
    assert not np.array_equal(a.leaves["x"], make_probe(layout, 1).leaves["x"])
    assert (a.leaves["v0"][0] == 0).all()
    assert (a.leaves["v1"][0] == 1).all()
    assert (a.leaves["x"][0] == a.leaves["x"][1]).all()


@given(graphs())
def test_simplifying_does_not_move_a_fingerprint(graph):
    before, after = fingerprint(graph), fingerprint(canonical(graph))
    if not before.structure and not after.structure:
        assert before.distance(after) <= 1e-6


def at_edge(offset: float) -> Fingerprint:
    vector = np.linspace(-1, 1, 12)
    vector[:2] = (3 * WIDTH + offset, -2 * WIDTH - offset)
    return Fingerprint(b"", vector)


@pytest.mark.parametrize("offset", [0.0, 1e-16, -1e-16, 5e-8, -5e-8, 1e-7, WIDTH / 2])
@pytest.mark.parametrize("noise", [0.0, 1e-12, -1e-12])
def test_noise_at_a_bucket_edge_is_found_again(offset, noise):
    index = FingerprintIndex()
    first = at_edge(offset)
    index.add(first, 7)
    found = index.find(dataclasses.replace(first, vector=first.vector * (1 + noise)))
    assert found is not None
    assert found[0] == 7
    assert found[1] <= TOLERANCE


def test_a_fingerprint_beyond_the_tolerance_is_not_found():
    index = FingerprintIndex()
    index.add(at_edge(0.0), 1)
    for at in range(12):
        moved = at_edge(0.0).vector.copy()
        moved[at] += 3 * TOLERANCE
        assert index.find(Fingerprint(b"", moved)) is None
    assert index.find(Fingerprint(b"nan", at_edge(0.0).vector)) is None


def test_random_noise_never_splits_a_function():
    rng = np.random.default_rng(0)
    index = FingerprintIndex()
    vectors = rng.normal(size=(500, 12))
    for i, vector in enumerate(vectors):
        index.add(Fingerprint(b"", vector), i)
    for i, vector in enumerate(vectors):
        noisy = vector * (1 + 1e-12 * rng.normal(size=12))
        assert index.find(Fingerprint(b"", noisy)) == (i, pytest.approx(0, abs=1e-10))


def test_where_values_are_not_finite_is_part_of_the_fingerprint():
    everywhere, somewhere = Graph.parse("exp(exp(exp(exp(9 + x))))"), Graph.parse("exp(exp(8 * x))")
    fine, opposite = Graph.parse("exp(x)"), Graph.parse("-exp(exp(exp(exp(9 + x))))")
    prints = [fingerprint(g) for g in (everywhere, somewhere, fine, opposite)]
    assert prints[2].structure == b""
    assert len({p.structure for p in prints}) == 4
    assert all(np.isfinite(p.vector).all() for p in prints)
    assert prints[0].distance(prints[2]) == float("inf")
    nan = Graph.parse("exp(exp(exp(9 + x))) - exp(exp(exp(9 + x + 0.1)))")
    assert fingerprint(nan).structure not in {p.structure for p in prints}
    assert fingerprint(nan).distance(fingerprint(nan)) == 0
    assert next(prints[0].cells()) == prints[0].cell()


def test_observing_does_not_share_memory_with_the_probe():
    probe = make_probe("nchw")
    seen = observe(Graph(("x",), (), 0), probe)
    assert np.array_equal(seen.y, probe.leaves["x"])
    assert not np.shares_memory(seen.y, probe.leaves["x"])
    assert np.array_equal(seen.dx, probe.g)
