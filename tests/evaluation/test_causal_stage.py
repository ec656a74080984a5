"""Screening of assemblies and of causal spaces: the probe by slot, duplicates, and layers that see later tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evonas.search_spaces import Space, SpaceOptions

from evonas import primitives, search_spaces
from evonas.evaluation.screening import Screen, ScreeningOptions, numeric_probe
from evonas.graph import BTC, Assembly, Graph, find_leak
from evonas.graph.fingerprint import make_probe, observe
from evonas.rng import Draws

#: Layers as they are known in norm slots, and what becomes of them in the stack of random maps.
KNOWN = {
    "x / rms[c](x)": None,
    "(x - mean[c](x)) / std[c](x)": None,
    "tanh(0.5 * s1 * x)": None,
    "erf(0.5 * s1 * x + s0)": None,
    "x / rms[c/g](x)": None,
    "x / crms[t,c](x)": None,
    "x / cstd[t,c](x)": None,
    "(x - cmean[t](x)) / cstd[t](x)": None,
    "(x - mean[b,t](x)) / std[b,t](x)": None,
    "(n := x / rms[c](x)) * sigmoid(n)": None,
    "x": "the signal explodes in a random stack",
    "x * sigmoid(x)": "the signal explodes in a random stack",
    "max(x, 0)": "the signal explodes in a random stack",
    "exp(x)": "the signal explodes in a random stack",
    "mean[c](x) * v0": "constant in x",
    "x - x / x * x": "constant in x",
}


def judge(space, text: str, key: int = 0):
    screen = Screen(space)
    return screen.judge(space.encode(Assembly.parse(text), Draws("judge", key)))


@pytest.mark.parametrize(("text", "reason"), KNOWN.items())
def test_known_layers_in_places_of_norms(text, reason):
    graph = Graph.parse(text)
    found = numeric_probe(graph, observe(graph, make_probe("btc")), BTC)[0]
    assert found == reason or (reason == "constant in x" and found is not None)


def test_an_activation_needs_no_normalizing_effect():
    space = search_spaces.get("norm_act_lm", nodes=12)
    assert judge(space, "norm: x / rms[c](x); act: x * sigmoid(x)").stage is None
    assert judge(space, "norm: x / rms[c](x); act: square(max(x, 0))").stage is None
    swapped = judge(space, "norm: x * sigmoid(x); act: x / rms[c](x)")
    assert (swapped.stage, swapped.reason) == ("probe", "the signal explodes in a random stack in norm")
    bad = judge(space, "norm: x / rms[c](x); act: exp(exp(exp(x * x)))")
    assert (bad.stage, bad.reason) == ("probe", "not finite on a Gaussian batch in act")
    assert judge(search_spaces.get("norm_act_any"), "x * sigmoid(x)").stage == "probe"


def test_a_group_of_both_kinds_is_probed_like_a_norm():
    space = search_spaces.get("norm_act_lm", slots=("pre_ffn+ffn",))
    assert judge(space, "pre_ffn+ffn: x * sigmoid(x)").stage == "probe"


def test_duplicates_are_equal_in_every_part():
    space = search_spaces.get("norm_act_lm", nodes=12)
    screen = Screen(space)

    def seen(text: str, candidate: int):
        genotype = space.encode(Assembly.parse(text), Draws("twins", candidate))
        verdict = screen.judge(genotype)
        screen.remember(genotype, verdict, candidate)
        return verdict

    assert seen("norm: x / rms[c](x); act: x * sigmoid(x)", 0).stage is None
    assert seen("norm: x / rms[c](x + 0); act: sigmoid(x) * x", 1).reason == "same graph as candidate 0"
    twin = seen("norm: x / rms[c](x); act: x * (tanh(x / (1 + 1)) + 1) / (1 + 1)", 2)
    assert (twin.stage, twin.twin, twin.reason) == ("duplicate", 0, "same function as candidate 0")
    assert seen("norm: x / rms[c](x); act: max(x, 0)", 3).stage is None
    assert seen("norm: (x - mean[c](x)) / std[c](x); act: x * sigmoid(x)", 4).stage is None


@pytest.fixture
def peek():
    """An operation that looks one token ahead."""

    @primitives.primitive("acme_peek", check=False, source="test", gradient=lambda ops, g, y, a: (g,))
    def acme_peek(xp, a):
        """The next token's value; the last one's own."""
        return np.concatenate([a[..., 1:, :, :], a[..., -1:, :, :]], axis=-3)

    yield "acme_peek"
    primitives.unregister("acme_peek")


def test_a_planted_leak_is_turned_away(peek):
    space = search_spaces.get("norm_act_lm", extra_primitives=(peek,), nodes=12)
    verdict = judge(space, f"norm: (x + {peek}(x)) / rms[c](x + {peek}(x)); act: max(x, 0)")
    assert verdict.stage == "causal"
    assert verdict.reason == "a token sees later ones in norm: changing token 8 changes token 7"
    assert verdict.evidence["changed"] == 8
    assert verdict.evidence["affected"] == 7
    assert verdict.evidence["size"] > 1e-3
    act = judge(space, f"norm: x / rms[c](x); act: max(x, 0) + v0 * {peek}(x)")  # v0 starts at 0
    assert (act.stage, act.reason.split(":")[0]) == ("causal", "a token sees later ones in act")
    assert judge(space, "norm: x / rms[c](x); act: max(x, 0)").stage is None


def test_an_index_set_that_got_past_the_rules():
    open_ = Space("forced", "btc", ("add", "div", "rms"), SpaceOptions(index_sets=("t,c",)))
    genotype = open_.encode(Graph.parse("x / rms[t,c](x)"), Draws("forced"))
    assert Screen(open_).judge(genotype).stage is None
    open_.options = dataclasses.replace(open_.options, causal=True)
    for options in (ScreeningOptions(), ScreeningOptions(fingerprint=False, probe=False)):
        verdict = Screen(open_, options).judge(genotype)
        assert (verdict.stage, verdict.reason) == (
            "causal",
            "a token sees later ones: changing token 8 changes token 0",
        )


@pytest.mark.parametrize(
    ("text", "changed", "affected"),
    [
        ("x - mean[t](x)", 8, 0),
        ("v0 * cmean_back[t](x) + x", 8, 0),
        ("x / std[t,c/g](x)", 8, 0),
        ("s0 * mean[t](x) + x", 8, 0),
    ],
)
def test_leaks_that_formulas_can_have(text, changed, affected):
    leak = find_leak(Graph.parse(text))
    assert (leak.changed, leak.affected) == (changed, affected)


@pytest.mark.parametrize(
    "text", ["x", "x / crms[t,c](x)", "x / rms[b,t](x)", "exp(exp(exp(x))) / rms[c](x)", "v1 + 0"]
)
def test_what_does_not_leak(text):
    """A statistic of the batch is a running average in evaluation; NaN and infinity are equal to themselves."""
    assert find_leak(Graph.parse(text)) is None
