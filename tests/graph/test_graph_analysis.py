"""Facts about known layers, and costs counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from strategies import graphs

from evonas.errors import FormulaError, UsageError
from evonas.graph import BTC, NCHW, Graph, analyse, cost, get_layout, resolve_groups
from evonas.layers import ZOO, named_layer

SCALE_INVARIANT = {"bn_relu", "gn_silu", "evonorm_b0", "evonorm_b2"}
NOT_SCALE_INVARIANT = {"evonorm_s0", "evonorm_s1", "evonorm_s2", "evonorm_b1", "relu", "silu", "dyt"}
BATCH = {"bn_relu", "bn_silu", "bn_gelu", "evonorm_b0", "evonorm_b1", "evonorm_b2"}


@pytest.mark.parametrize("name", ZOO)
def test_facts_of_known_layers(name):
    facts = named_layer(name).properties()
    assert facts.depends_on_x
    assert facts.varies_over_space
    assert facts.finite
    if name in SCALE_INVARIANT | NOT_SCALE_INVARIANT:
        assert facts.scale_invariant == (name in SCALE_INVARIANT)
    if name.startswith(("evonorm", "bn", "gn", "ln", "in", "relu", "silu")):
        assert facts.shift_invariant == (name[:2] in ("bn", "gn", "ln", "in"))
    assert facts.batch_independent == (name not in BATCH)
    assert facts.uses_batch == (name in BATCH)
    assert facts.bounded == (name not in ("relu", "silu", "gelu", "identity"))


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("evonorm_b0", 6),
        ("evonorm_b1", 6),
        ("evonorm_b2", 5),
        ("evonorm_s0", 5),
        ("evonorm_s1", 4),
        ("bn_relu", 5),
        ("frn", 3),
        ("dyt", 3),
        ("identity", 0),
    ],
)
def test_operation_counts(name, operations):
    assert named_layer(name).properties().operations == operations


@pytest.mark.parametrize(
    ("formula", "fact", "value"),
    [
        ("v1 * 2", "depends_on_x", False),
        ("x - x + v1", "depends_on_x", False),
        ("step(x)", "depends_on_x", False),
        ("mean[w,h](x)", "varies_over_space", False),
        ("std[w](x)", "varies_over_space", True),
        ("mean[c](x)", "varies_over_space", True),
        ("exp(x)", "finite", False),
        ("tanh(x)", "bounded", True),
        ("x + 1", "zero_preserving", False),
        ("x * tanh(x)", "zero_preserving", True),
        ("mean[b](x)", "batch_independent", False),
        ("x + 0 * mean[b](x)", "batch_independent", True),
        ("tanh(tanh(x) + x)", "depth", 3),
        ("x * v1 + v0", "vectors", ("v0", "v1")),
        ("std[h,w](x) + mean[b,h,w](x)", "index_sets", (("b", "w", "h"), ("w", "h"))),
    ],
)
def test_single_facts(formula, fact, value):
    assert getattr(analyse(Graph.parse(formula)), fact) == value


@given(graphs())
def test_analysis_never_raises(graph):
    facts = analyse(graph)
    assert facts.operations == len(graph.active())
    assert not facts.depends_on_x or "x" in graph.active().leaves
    assert facts.batch_independent or facts.uses_batch or not facts.finite


def test_tokens():
    facts = analyse(Graph.parse("x / rms[c](x)"), "btc")
    assert facts.batch_independent
    assert facts.index_sets == (("c",),)
    with pytest.raises(FormulaError, match=r"uses axis 'w', which layout 'btc' .*does not have"):
        analyse(Graph.parse("x / rms[w,h](x)"), "btc")


B, C, H, W = 2, 8, 4, 4
FULL = B * C * H * W


@pytest.mark.parametrize(
    ("formula", "flops", "eager", "parameters"),
    [
        # affine: 2 flops an element, one read and one write
        ("x", 2 * FULL, 2 * FULL, 2 * C),
        ("max(x, 0)", 3 * FULL, 2 * FULL + 2 * FULL + 1, 2 * C),
        ("x * v1", 3 * FULL, 2 * FULL + 2 * FULL + C, 3 * C),
        # a mean reads all, writes one per channel; then a difference of x and it
        ("x - mean[b,w,h](x)", (2 + 1 + 1) * FULL, 2 * FULL + (FULL + C) + (FULL + C + FULL), 2 * C),
        # element-wise work on a statistic is as small as the statistic: exp on B*C values
        (
            "x * exp(mean[w,h](x))",
            (2 + 1 + 1) * FULL + B * C,
            2 * FULL + (FULL + B * C) + 2 * B * C + (2 * FULL + B * C),
            2 * C,
        ),
        # four groups of two channels
        ("x / std[w,h,c/g](x)", (2 + 5 + 1) * FULL, 2 * FULL + (FULL + B * 4) + (2 * FULL + B * 4), 2 * C),
        ("sigmoid(v0 * v1)", 2 * FULL + C + 4 * C, 2 * FULL + 3 * C + 2 * C, 4 * C),
    ],
)
def test_cost_by_hand(formula, flops, eager, parameters):
    counted = cost(Graph.parse(formula), (B, C, H, W), groups=4, itemsize=2)
    assert counted.flops == flops
    assert counted.bytes_eager == 2 * eager
    assert counted.parameters == parameters
    assert counted.bytes_fused == 2 * (2 * FULL + parameters)


def test_cost_of_dead_parts_is_nothing():
    graph = Graph(("x", "v0"), (*Graph.parse("tanh(x)").nodes, *Graph.parse("exp(x)").nodes), 3)
    assert cost(graph, (B, C, H, W)).flops == cost(Graph.parse("exp(x)"), (B, C, H, W)).flops


def test_cost_in_tokens():
    assert cost(Graph.parse("x / rms[c](x)"), (2, 5, 8), layout="btc").flops == (2 + 3 + 1) * 80


@pytest.mark.parametrize(
    ("channels", "groups", "count"),
    [(64, 32, 32), (48, 32, 24), (16, 32, 16), (7, 4, 1), (6, 4, 3), (1, 32, 1)],
)
def test_groups_rule(channels, groups, count):
    assert resolve_groups(channels, groups) == count


def test_layouts():
    assert NCHW.positions(("w", "h", "c")) == (1, 2, 3, 4)
    assert NCHW.positions(("w", "h", "c/g")) == (2, 3, 4)
    assert BTC.positions(("t", "c")) == (1, 2, 3)
    assert NCHW.check(("h", "b")) == ("b", "h")
    for bad in ((), ("w", "w"), ("c", "c/g"), ("t",)):
        with pytest.raises(FormulaError):
            NCHW.check(bad)
    with pytest.raises(UsageError, match="did you mean 'nchw'"):
        get_layout("nchww")
