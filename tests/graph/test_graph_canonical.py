"""Canonical form and digest: equal for the same graph however written, different for another one."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import SPACES, genotypes, graphs, the_space

from evonas import primitives
from evonas.graph import Graph, Interner, Node, canonical, digest, fingerprint
from evonas.graph.fingerprint import make_probe, observe
from evonas.layers import ZOO, named_layer
from evonas.rng import Draws


@given(graphs())
def test_canonical_is_idempotent_and_smaller(graph):
    once = canonical(graph)
    assert canonical(once) == once
    assert len(once) <= len(graph.active())
    assert digest(once) == digest(graph)
    assert once == once.active()


@settings(max_examples=1000)
@given(graphs())
def test_canonical_keeps_the_function(graph):
    probe = make_probe("nchw")
    a, b = observe(graph, probe), observe(canonical(graph), probe)
    with np.errstate(all="ignore"):
        finite = np.isfinite(a.y).all() and np.abs(a.y).max() < 1e6 and np.isfinite(a.dx).all()
    if finite and np.abs(a.dx).max() < 1e6:
        np.testing.assert_allclose(a.y, b.y, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(a.dx, b.dx, rtol=1e-5, atol=1e-6)


def relabelled(graph: Graph, rng: random.Random) -> Graph:
    """The same graph with leaves and nodes in another order, dead nodes and swapped commutative arguments."""
    leaves = list(graph.leaves)
    rng.shuffle(leaves)
    place = {i: leaves.index(leaf) for i, leaf in enumerate(graph.leaves)}
    waiting = dict(graph.operations())
    nodes: list[Node] = []
    while waiting:
        if rng.random() < 0.3:
            nodes.append(Node("tanh", (rng.randrange(len(leaves) + len(nodes)),)))
        ready = [i for i, node in waiting.items() if all(a in place for a in node.args)]
        i = rng.choice(ready)
        op, args, index = waiting.pop(i)
        args = tuple(place[a] for a in args)
        if primitives.get(op).commutative and rng.random() < 0.5:
            args = args[::-1]
        place[i] = len(leaves) + len(nodes)
        nodes.append(Node(op, args, index))
    return Graph(tuple(leaves), tuple(nodes), place[graph.output])


def full_graph(i: int) -> Graph:
    """A random graph whose ten operations are all active and survive simplification."""
    rng = random.Random(i)
    ops = [
        ("sub", None),
        ("div", None),
        ("max", None),
        ("mul", None),
        ("tanh", None),
        ("sigmoid", None),
        ("exp", None),
    ]
    ops += [("mean", ("w", "h")), ("std", ("b", "w", "h")), ("rms", ("w", "h", "c"))]
    while True:
        nodes: list[Node] = []
        for n in range(10):
            op, index = rng.choice(ops)
            here = 3 + n
            last = [here - 1] if n else [0]
            pool = [*range(here)]
            args = (*last, rng.choice(pool))[: primitives.get(op).arity]
            args = args if rng.random() < 0.5 else args[::-1]
            nodes.append(Node(op, args, index))
        graph = Graph(("x", "v0", "v1"), tuple(nodes), 12)
        if len(graph.active()) == 10 and len(canonical(graph)) == 10 and "x" in canonical(graph).leaves:
            return graph


def swapped(graph: Graph, rng: random.Random) -> Graph | None:
    """Arguments of one non-commutative node exchanged."""
    which = [
        i for i, (op, args, _) in enumerate(graph.nodes)
        if len(args) == 2 and not primitives.get(op).commutative and args[0] != args[1]
    ]  # fmt: skip
    if not which:
        return None
    i = rng.choice(which)
    nodes = list(graph.nodes)
    nodes[i] = nodes[i]._replace(args=nodes[i].args[::-1])
    return Graph(graph.leaves, tuple(nodes), graph.output)


def rewired(graph: Graph, rng: random.Random) -> Graph:
    """One argument of one node points elsewhere."""
    first = len(graph.leaves)
    i = rng.randrange(len(graph))
    slot = rng.randrange(len(graph.nodes[i].args))
    old = graph.nodes[i].args[slot]
    new = rng.choice([a for a in range(first + i) if a != old])
    args = tuple(new if s == slot else a for s, a in enumerate(graph.nodes[i].args))
    nodes = list(graph.nodes)
    nodes[i] = nodes[i]._replace(args=args)
    return Graph(graph.leaves, tuple(nodes), graph.output)


def test_six_hundred_relabellings_keep_the_digest():
    for i in range(600):
        graph = full_graph(i)
        assert digest(relabelled(graph, random.Random(i))) == digest(graph)


@pytest.mark.parametrize("change", [swapped, rewired])
def test_six_hundred_changes_change_the_digest(change):
    pairs = differ = 0
    for i in range(2000):
        graph = full_graph(i)
        other = change(graph, random.Random(i))
        if other is None:
            continue
        pairs += 1
        if digest(other) == digest(graph):
            # only a change that the rules of simplification undo may keep it: then the function is the same
            assert fingerprint(other).distance(fingerprint(graph)) < 1e-7, str(graph)
        else:
            differ += 1
        if pairs == 600:
            break
    assert pairs == 600
    assert differ >= 597


def test_the_same_expression_written_in_many_ways():
    same = [
        "x * sigmoid(v1 * x) / std[w,h,c/g](x)",
        "(sigmoid(x * v1) * x) / std[h,w,c/g](--x)",
        "(x + 0) * sigmoid(max(x * v1, x * v1)) / std[w,h,c/g](-x * 1)",
        "-(-x * sigmoid(x * v1) / std[w,h,c/g](x))",
    ]
    assert len({digest(Graph.parse(text)) for text in same}) == 1
    other = [
        "x * sigmoid(v0 * x) / std[w,h,c/g](x)",
        "x * sigmoid(v1 * x) / std[w,h,c](x)",
        "x * sigmoid(v1 * x) / rms[w,h,c/g](x)",
        "x * tanh(v1 * x) / std[w,h,c/g](x)",
        "sigmoid(v1 * x) / std[w,h,c/g](x)",
        "std[w,h,c/g](x) / (x * sigmoid(v1 * x))",
    ]
    assert len({digest(Graph.parse(text)) for text in [same[0], *other]}) == 1 + len(other)


def test_raw_expressions_are_shared_but_not_simplified():
    interner = Interner()
    x = interner.leaf("x")
    a = interner.raw("neg", (interner.raw("neg", (x,)),))
    assert a != x
    assert a == interner.raw("neg", (interner.raw("neg", (x,)),))
    assert interner.cons("neg", (interner.cons("neg", (x,)),)) == x


@given(genotypes(the_space("norm_act"), mutations=3))
def test_a_space_digests_as_the_graph_does(genotype):
    space = the_space("norm_act")
    graph = space.decode(genotype)
    seen = space.digest(genotype)
    assert seen == (digest(graph) if "x" in canonical(graph).leaves else None)
    assert space.graph(genotype) == canonical(graph)


def test_an_interner_that_starts_over_gives_the_same_digests():
    from evonas import search_spaces

    small, large = search_spaces.get("norm_act"), search_spaces.get("norm_act")
    small._interner = Interner(limit=50)
    genotypes = [large.random(Draws("again", i)) for i in range(400)]
    assert [small.digest(g) for g in genotypes] == [large.digest(g) for g in genotypes]


GOLDEN: dict[str, str] = {
    "dyt_scalar": "8f75bd54ff291893c61b3ddd78024792",
    "derf_scalar": "9fb3a9639b750b98ec7252a62d11f7ca",
    "rms_norm": "2729b781e821abfdd95963ce5729ef40",
    "simple_rms_norm": "2729b781e821abfdd95963ce5729ef40",
    "layer_norm": "42196cd97c9cc07dca644891b7a18163",
    "bn_relu": "fdef2bc9c97167282362b6c923e63094",
    "bn_silu": "c75bebfbaaaa6d2229ca0e46cd495ab5",
    "bn_gelu": "6b993cb897fd50ae28bb8baaf019bab0",
    "gn_relu": "dfc731122858ee18e69db0cc345b5a41",
    "gn_silu": "2f4256837add135847b276ce34399df0",
    "gn_gelu": "94d676b5591dae843f8927e1addc44f5",
    "in_relu": "aa7fc6162dca6a6dcbe554a8de66de31",
    "in_silu": "4f3344312581639ccf138aecebb9825a",
    "in_gelu": "bbd92288c8f8cb827c781b65eb72d068",
    "ln_relu": "26410b060ea049366c512a07a4d25e9f",
    "ln_silu": "dafa35168bc777377bf5a20e328a7684",
    "ln_gelu": "3e84cfd59a345ae32c6085b99d8496fa",
    "frn": "d60e955d6299a3ac45c3f5e9cd32450c",
    "dyt": "678581afea61dc9d378eb7948f06b012",
    "derf": "29514d8bca90f4b504e70e45381285ff",
    "evonorm_b0": "fd4bf4134f2fc03949de33b30953a9c9",
    "evonorm_b1": "4fea19990f5c80fbc1b6847d642331ff",
    "evonorm_b2": "a73c486d29a5c061811e7cb22fa63cd2",
    "evonorm_s0": "42b7d1dc51295cd6b568d46dd42ec213",
    "evonorm_s1": "dd86dbf5f137a977cd3b13e9ab731ef2",
    "evonorm_s2": "342ad49281492a5c3467cf4be10f99bc",
    "relu": "b924f39d0fc1e472b17b1e0640e8b7da",
    "silu": "e0b3503c9308d9534ee7051085c32875",
    "gelu": "47e114f5145c58982a0390010b843bed",
    "identity": "ccaea52fd8f1c8ce2b88c5803fed93ab",
}
#: BLAKE2b over the digests of 300 random genotypes of every space of ``strategies.SPACES``.
GOLDEN_RANDOM = "fb0a821d2ce5ebc9f71ba2781ba27f8a"


def zoo_digests() -> dict[str, str]:
    return {name: named_layer(name).digest for name in ZOO}


def random_digest() -> str:
    total = hashlib.blake2b(digest_size=16)
    for name in SPACES:
        space = the_space(name)
        for i in range(300):
            total.update(space.digest(space.random(Draws("golden", i))) or b"none")
    return total.hexdigest()


def test_golden_digests():
    assert zoo_digests() == GOLDEN
    assert random_digest() == GOLDEN_RANDOM


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_digests_do_not_depend_on_the_process(seed):
    code = "import test_graph_canonical as t; print(t.zoo_digests() == t.GOLDEN, t.random_digest() == t.GOLDEN_RANDOM)"
    here = os.path.dirname(__file__)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["True", "True"], done.stderr[-2000:]
