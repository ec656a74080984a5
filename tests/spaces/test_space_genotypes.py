"""Genotypes: whatever is drawn, mutated or encoded is valid, and means what it should."""

from __future__ import annotations

import collections

import pytest
from evonas.search_spaces import MUTATIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import KEYS, SPACES, genotypes, graphs, the_space

from evonas import search_spaces
from evonas.errors import FormulaError, UsageError
from evonas.graph import Graph, canonical, digest
from evonas.layers import ZOO, named_layer
from evonas.rng import Draws

ALL_KINDS = dict.fromkeys(MUTATIONS, 1.0)


def valid(space, genotype):
    """Decoding checks every byte; re-encoding the decoded nodes gives the same bytes."""
    graph = space.decode(genotype)
    assert len(genotype) == 3 * space.nodes
    assert len(graph) == space.nodes
    assert graph.output == len(space.inputs) + space.nodes - 1
    for i, (op, args, index) in enumerate(graph.nodes):
        code, *given = genotype[3 * i : 3 * i + 3]
        assert (op, index) == space.operations[code][:2]
        assert tuple(given)[: len(args)] == args
        if len(args) == 1:
            assert given[1] == 255
        if space.options.distinct_inputs and len(args) == 2:
            assert args[0] != args[1]
    first = len(space.inputs)
    assert [i + first for i in space.active_nodes(genotype)] == sorted(
        i for i in graph.ancestors() if i >= first
    )
    return graph


@given(st.sampled_from(SPACES), KEYS)
def test_random_genotypes_are_valid(name, key):
    space = the_space(name)
    genotype = space.random(Draws("g", key))
    valid(space, genotype)
    assert genotype == space.random(Draws("g", key))


@settings(max_examples=300)
@given(
    st.sampled_from(("norm_act", "norm_act_s", "activation")),
    KEYS,
    st.sampled_from(("all", *MUTATIONS)),
    st.booleans(),
)
def test_mutated_genotypes_are_valid(name, key, kind, tiny):
    weights = ALL_KINDS if kind == "all" else {kind: 1.0}
    space = search_spaces.get(name, mutation_weights=weights, nodes=2 if tiny else 10)
    genotype = space.random(Draws("g", key))
    for i in range(6):
        child, did = space.mutate(genotype, Draws("m", key, i))
        assert did in MUTATIONS
        assert kind in ("all", did) or did == "replace"
        assert (child, did) == space.mutate(genotype, Draws("m", key, i))
        before, after = space.decode(genotype), valid(space, child)
        if did in ("replace", "rewire"):
            changed = [i for i in range(space.nodes) if before.nodes[i] != after.nodes[i]]
            assert len(changed) <= 1
            if did == "rewire":
                a, b = before.nodes[changed[0]], after.nodes[changed[0]]
                assert (a.op, a.index) == (b.op, b.index)
                assert sum(p != q for p, q in zip(a.args, b.args, strict=True)) == 1
                assert changed[0] in space.active_nodes(genotype)
        if did == "insert":
            assert len(after.active()) > len(before.active()) - len(before.active()) // 2
        genotype = child


def test_insert_puts_an_operation_on_an_edge():
    space = search_spaces.get("norm_act", mutation_weights={"insert": 1})
    graph = named_layer("evonorm_s0").graph
    grown = collections.Counter()
    for i in range(300):
        genotype = space.encode(graph, Draws("e", i))
        child, did = space.mutate(genotype, Draws("m", i))
        assert did == "insert"
        after = space.decode(child).active()
        before = {(n.op, n.index) for n in graph.nodes}
        assert before <= {(n.op, n.index) for n in after.nodes}
        grown[len(after) - len(graph)] += 1
    assert grown[1] + grown[2] + grown[3] + grown[4] + grown[5] == 300
    assert grown[1] > 150  # the second argument of a new binary node may wake idle nodes


def test_remove_takes_an_operation_away():
    space = search_spaces.get("norm_act", mutation_weights={"remove": 1})
    sizes = set()
    for i in range(200):
        genotype = space.encode(named_layer("evonorm_s0").graph, Draws("e", i))
        child, did = space.mutate(genotype, Draws("m", i))
        if did == "remove":
            sizes.add(len(space.decode(child).active()))
    assert sizes <= {1, 2, 3, 4}
    assert 4 in sizes


def test_insert_without_an_idle_node_falls_back():
    space = search_spaces.get("norm_act", nodes=5, mutation_weights={"insert": 1})
    genotype = space.encode(named_layer("evonorm_s0").graph, Draws("e"))
    assert space.mutate(genotype, Draws("m"))[1] == "replace"


def expressible(space, name):
    graph = named_layer(name).graph
    try:
        space.check(graph)
    except FormulaError:
        return False
    return True


@pytest.mark.parametrize("name", ZOO)
def test_encode_and_decode_are_inverse_for_known_layers(name):
    graph = named_layer(name).graph
    tokens = {"dyt_scalar", "derf_scalar", "rms_norm", "simple_rms_norm", "layer_norm"}
    expected = {
        "norm_act": {n for n in ZOO if "gelu" not in n} - tokens - {"dyt", "derf", "identity", "evonorm_b1"},
        "norm_act_s": {n for n in ZOO if "gelu" not in n and not n.startswith("bn")}
        - tokens
        - {"dyt", "derf", "identity", "evonorm_b0", "evonorm_b1", "evonorm_b2"},
        "activation": {"relu", "silu"},
    }
    for space_name, names in expected.items():
        space = search_spaces.get(space_name)
        assert expressible(space, name) == (name in names)
        if name not in names:
            continue
        for i in range(20):
            genotype = space.encode(graph, Draws("encode", i))
            valid(space, genotype)
            assert space.graph(genotype) == canonical(graph)
            assert space.digest(genotype) == digest(graph)
            assert space.reject(genotype) is None


def test_b1_needs_the_constant_one():
    space = search_spaces.get("norm_act", constant_one=True)
    genotype = space.encode(named_layer("evonorm_b1").graph, Draws("b1"))
    assert space.graph(genotype) == named_layer("evonorm_b1").canonical


@given(graphs(names=("norm_act",), largest=10))
def test_encode_gives_back_any_graph_of_the_space(graph):
    space = the_space("norm_act")
    if len(graph.active()) == 0:
        return
    assert canonical(space.decode(space.encode(graph, Draws("any")))) == canonical(graph)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("erf(x)", "erf of .* is not part of space 'norm_act'"),
        ("x * 2", "input '2' of .* is not part of space"),
        ("mean[w](x)", r"mean\[w\] of .* is not part of space"),
        ("x", "needs 0 operations"),
        (
            "+".join(["tanh(x)"] * 2 + [f"tanh({'-' * i}x)" for i in range(1, 9)]),
            "a genotype of 'norm_act' has 10",
        ),
    ],
)
def test_what_a_space_cannot_express(text, message):
    with pytest.raises(FormulaError, match=message):
        search_spaces.get("norm_act").encode(Graph.parse(text), Draws("no"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g[:-1], "has 30 bytes, this one has 29"),
        (lambda g: bytes((24,)) + g[1:], "operation code 24 does not exist"),
        (lambda g: bytes((0, 4, 0)) + g[3:], "arguments"),
        (lambda g: bytes((0, 0, 255)) + g[3:], "arguments"),
        (lambda g: bytes((4, 0, 0)) + g[3:], "arguments"),
    ],
)
def test_bytes_that_are_no_genotype(change, message):
    space = search_spaces.get("norm_act")
    assert space.operations[0].arity == 2
    assert space.operations[4].arity == 1
    with pytest.raises(UsageError, match=message):
        space.decode(change(space.random(Draws("ok"))))


@given(genotypes(the_space("norm_act_s"), mutations=2))
def test_exclusion_looks_at_the_active_graph(genotype):
    space = the_space("norm_act_s")
    reason = space.reject(genotype)
    graph = canonical(space.decode(genotype))
    if "x" not in graph.leaves:
        assert reason == "the output does not depend on x"
    else:
        assert reason == ("uses batch statistics" if graph.uses_batch else None)


def test_s0_with_an_idle_batch_variance_is_an_s_layer():
    space = search_spaces.get("norm_act_s")
    code = {str(op): i for i, op in enumerate(space.operations)}["std[b,w,h]"]
    genotype = space.encode(named_layer("evonorm_s0").graph, Draws("s0"))
    idle = bytes((code, 0, 255)) + genotype[3:]
    assert space.reject(idle) is None
    assert space.decode(idle).nodes[0].index == ("b", "w", "h")
    batch = search_spaces.get("norm_act").encode(named_layer("bn_relu").graph, Draws("bn"))
    assert space.reject(batch) == "uses batch statistics"
    assert search_spaces.get("norm_act").reject(batch) is None
    with pytest.raises(FormulaError, match="which space 'norm_act_s' excludes"):
        space.check(named_layer("bn_relu").graph)


def test_a_batch_statistic_that_cancels_does_not_count():
    space = search_spaces.get("norm_act_s")
    graph = Graph.parse("tanh(x) + 0 * std[b,w,h](x)")
    assert space.reject(space.encode(graph, Draws("dead"))) is None


def test_one_mutation_of_s0():
    """Reference: 49.5 % of the mutations hit an idle node, 3.6 % lose x in the graph, without simplification."""
    space = search_spaces.get("norm_act")
    neutral = lost = 0
    n = 4000
    for i in range(n):
        genotype = space.encode(named_layer("evonorm_s0").graph, Draws("s0", i))
        child, _ = space.mutate(genotype, Draws("mutation", i))
        neutral += space.decode(child).active() == space.decode(genotype).active()
        lost += "x" not in space.decode(child).active().leaves
    assert neutral / n == pytest.approx(0.505, abs=0.03)
    assert lost / n == pytest.approx(0.036, abs=0.015)
