"""Spaces of assemblies: genotypes, rules of causal spaces, options, identity."""

from __future__ import annotations

import dataclasses
import json

import pytest
from evonas.search_spaces import SlottedSpace, Space, genotypes_log10
from hypothesis import given
from hypothesis import strategies as st

from evonas import search_spaces
from evonas.errors import EvonasError, FormulaError, UsageError
from evonas.graph import Assembly, Graph, find_leak
from evonas.graph.slots import NORM_SLOTS
from evonas.layers import resolve_candidate
from evonas.rng import Draws

GROUPS = [
    ("norm", "act"),
    ("norm",),
    ("pre_attention", "post_attention", "pre_ffn", "final", "act"),
    ("pre_ffn+final", "act"),
]


def the(*groups: str, **options: object) -> SlottedSpace:
    made = search_spaces.get("norm_act_lm", slots=groups, **options)
    assert isinstance(made, SlottedSpace)
    return made


@pytest.mark.parametrize("groups", GROUPS, ids="; ".join)
@given(key=st.integers(0, 2**32 - 1))
def test_genotypes_graphs_and_digests_agree(groups, key):
    space = the(*groups, mutation_weights={"replace": 1, "insert": 1, "remove": 1, "rewire": 1})
    genotype = space.random(Draws("slotted", key))
    assert len(genotype) == 3 * space.nodes * len(groups)
    for step in range(3):
        child, kind = space.mutate(genotype, Draws("mutate", key, step))
        changed = [a != b for a, b in zip(space.parts(genotype), space.parts(child), strict=True)]
        assert sum(changed) <= 1
        assert kind in ("replace", "insert", "remove", "rewire")
        genotype = child
    assembly, digest = space.graph(genotype), space.digest(genotype)
    assert isinstance(assembly, Assembly)
    assert [part.slots for part in space.decode(genotype).parts] == [part.slots for part in assembly.parts]
    assert all(part.affine == (part.slots != ("ffn",)) for part in assembly.parts)
    assert sorted(space.active_nodes(genotype)) == space.active_nodes(genotype)
    if digest is None:
        assert space.reject(genotype).startswith("the output does not depend on x in ")
        return
    assert space.reject(genotype) is None
    assert digest == assembly.digest() == space.decode(genotype).digest()
    assert Assembly.parse(str(assembly)).digest() == digest
    assert len(assembly.parts) == len(groups)


def test_random_graphs_depend_on_x():
    space = the("norm", "act")
    found = [space.digest(space.random(Draws("depends", i))) for i in range(200)]
    assert sum(digest is not None for digest in found) >= 199


def test_known_layers_are_encoded():
    space = the("norm", "act", nodes=12)
    for name in ("rms_norm+silu", "layer_norm+relu"):
        known = resolve_candidate(name).assembly
        space.check(known)
        for i in range(10):
            genotype = space.encode(known, Draws("encode", i))
            assert space.digest(genotype) == known.digest()
    dyt = Assembly.parse("norm: tanh(s1 * x); act: x * sigmoid(s1 * x)")
    assert space.digest(space.encode(dyt, Draws("dyt"))) == dyt.digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x / rms[c](x)", r"one layer for all places[\s\S]*write norm: x / rms\[c\]\(x\); act:"),
        ("norm: x / rms[c](x)", "does not give one layer without affine to act"),
        ("norm (no affine): x / rms[c](x); act: max(x, 0)", "does not give one layer with affine to norm"),
        ("pre_ffn: x / rms[c](x); final: max(x, 0); act: max(x, 0)", "one layer with affine to norm"),
        ("norm: x / rms[b,t](x); act: max(x, 0)", r"index set \[b,t\][\s\S]*batch_statistics=true"),
        ("norm: x / rms[t](x); act: max(x, 0)", r"index set \[t\][\s\S]*cmean, crms or cstd"),
        ("norm: cmean_back[t](x); act: max(x, 0)", r"index set \[t\]"),
        ("norm: x / crms[t](x); act: max(x, 0)", r"crms\[t\] of .* is not part of space"),
    ],
)
def test_what_the_space_does_not_have(text, message):
    with pytest.raises(FormulaError, match=message):
        the("norm", "act").check(Assembly.parse(text))


def test_slots_that_are_the_networks_own():
    with pytest.raises(FormulaError, match="fills ffn, which 'norm_act_lm' leaves to the network"):
        the("norm").check(Assembly.parse("norm: x / rms[c](x); act: max(x, 0)"))
    the("norm").check(Assembly.parse("norm: x / rms[c](x)"))
    one = search_spaces.get("norm_act_any")
    with pytest.raises(FormulaError, match="has layers of its own for some places"):
        one.check(Assembly.parse("norm: x / rms[c](x)"))
    assert (
        one.digest(one.encode(Assembly.parse("x / rms[c](x)"), Draws("a")))
        == Assembly.parse("x / rms[c](x)").digest()
    )


def test_options_of_a_causal_space():
    plain = search_spaces.get("norm_act_lm")
    assert {str(op) for op in plain.operations if op.index} == {
        f"{m}[{i}]" for m in ("mean", "rms", "std") for i in ("c", "c/g")
    }
    assert plain.inputs == ("x", "0", "v0", "v1", "1", "s0", "s1")
    more = search_spaces.get("norm_act_lm", causal_moments=True, batch_statistics=True)
    extra = {str(op) for op in more.operations} - {str(op) for op in plain.operations}
    assert extra == {*(f"{m}[{i}]" for m in ("cmean", "crms", "cstd") for i in ("t", "t,c")),
                     *(f"{m}[b,t]" for m in ("mean", "rms", "std"))}  # fmt: skip
    more.check(Assembly.parse("norm: x / rms[b,t](x); act: x * sigmoid(crms[t,c](x))"))
    assert "later tokens" in (search_spaces.SpaceOptions.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "norm_act_lm",
            {"index_sets": ("c", "t")},
            r"index set \[t\] in the moments[\s\S]*causal_moments=true",
        ),
        ("norm_act_lm", {"index_sets": ("t,c",)}, r"index set \[t,c\]"),
        ("norm_act_lm", {"index_sets": ("b,t",)}, r"index set \[b,t\][\s\S]*space.batch_statistics=true"),
        ("norm_act_lm", {"slots": ("norm", "final")}, "gives slot 'final' to 'norm' and to 'final'"),
        ("norm_act_lm", {"slots": ("nrom",)}, "did you mean 'norm'"),
        ("norm_act_lm", {"slots": ()}, "slots = .* does not fit"),
        ("norm_act_lm", {"slots": 3}, "slots = 3 does not fit"),
        ("norm_act_lm", {"causal": "yes"}, "causal = 'yes' does not fit"),
        ("norm_act", {"causal": True}, "no tokens, and causal = true"),
        ("norm_act", {"causal_moments": True}, "has layout 'nchw', which has no tokens"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(UsageError, match=message):
        search_spaces.get(name, **options)


def test_a_space_for_encoders_may_look_ahead():
    space = search_spaces.get("norm_act_lm", causal=False, index_sets=("t,c",), slots=("all",))
    assert isinstance(space, Space)
    space.check(Graph.parse("x / rms[t,c](x)"))


def test_descriptions():
    old = search_spaces.get("norm_act").describe()
    later = {"slots", "scalar_inputs", "causal", "causal_moments", "batch_statistics"}
    assert {*old["options"], *later} == {f.name for f in dataclasses.fields(search_spaces.SpaceOptions)}
    assert not later & set(old["options"])
    one, two = the("norm", "act"), the("norm", "ffn")
    assert one.describe()["options"]["slots"] == ["norm", "act"]
    assert one.identity() != two.identity() != the("norm").identity()
    assert json.loads(json.dumps(one.describe())) == one.describe()
    assert "norm, act" in repr(one)
    assert genotypes_log10(one) == pytest.approx(2 * genotypes_log10(one.base))


def test_bytes_that_are_no_genotype():
    space = the("norm", "act")
    for call in (space.graph, space.decode, space.digest, space.reject):
        with pytest.raises(UsageError, match=r"60 bytes, 30 for each of norm, act; this one has 30"):
            call(b"\0" * 30)
    with pytest.raises(EvonasError, match="operation code 254"):
        space.decode(b"\xfe" * 60)


def test_every_candidate_of_a_causal_space_is_causal():
    """The rules leave nothing for the test to find, with causal moments and statistics of the batch as well."""
    space = search_spaces.get("norm_act_lm", causal_moments=True, batch_statistics=True, slots=("norm",))
    assert set(space._slots[0]) == set(NORM_SLOTS)
    used = set()
    for i in range(300):
        graph = space.graph(space.random(Draws("causal", i))).graph("final")
        used |= graph.index_sets
        assert find_leak(graph) is None, str(graph)
    assert {("t",), ("t", "c"), ("b", "t"), ("c",)} <= used
