"""Layers with state as parts of assemblies: modules in slots, text and back, and spaces that refuse them."""

from __future__ import annotations

import pytest

from evonas import search_spaces
from evonas.errors import FormulaError, UsageError
from evonas.graph import Assembly
from evonas.graph.slots import NORM_SLOTS
from evonas.layers import (
    AssembledLayer,
    GraphLayer,
    Layer,
    PowerNorm,
    UnifiedNorm,
    candidate_from,
    resolve_candidate,
)
from evonas.layers.assembled import is_name
from evonas.report.pictures import Pictures
from evonas.run.conductor import Conductor, meaning
from evonas.run.plan import make_plan
from evonas.run.session import build_space, check_settings
from evonas.run.settings import resolve

C = 8
BTC, NCHW = "(n := x / rms[c](x)) / rms[b,t](n)", "(n := x / rms[c](x)) / rms[b,w,h](n)"
SILU = "x * sigmoid(x)"


@pytest.mark.parametrize(
    "text", ["power_norm+silu", f"norm: power_norm; act: {SILU}", "act: silu; norm: power_norm"]
)
def test_norms_keep_state_and_the_activation_does_not(text):
    made = resolve_candidate(text)
    assert isinstance(made, AssembledLayer)
    for slot in NORM_SLOTS:
        module = made.module(C, slot=slot, groups=4, momentum=0.3)
        assert isinstance(module, PowerNorm)
        assert (module.channels, module.layout.name, module.weight.shape) == (C, "btc", (C,))
    act = made.module(2 * C, slot="ffn", groups=4)
    assert isinstance(act, GraphLayer)
    assert act.weight is None
    assert [layer.stateful for layer in made.layers] == ["power_norm", ""]
    assert made.formula == str(Assembly.parse(f"norm: {BTC}; act: {SILU}"))


def test_slots_with_different_states():
    made = resolve_candidate("pre_attention+final: power_norm; pre_ffn (no affine): unified_norm")
    assert isinstance(made.module(C, slot="final"), PowerNorm)
    plain = made.module(C, slot="pre_ffn")
    assert isinstance(plain, UnifiedNorm)
    assert plain.weight is None
    assert made.module(C, slot="post_ffn") is None
    assert made.assembly.stateful == ("power_norm", "unified_norm")


@pytest.mark.parametrize(
    "text",
    ["power_norm", "power_norm+silu", "unified_norm+gelu", "pre_ffn (no affine): unified_norm; final: x / rms[c](x)",
     "norm: power_norm", "all (no affine): power_norm"],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["btc", "nchw"])
def test_text_and_back(text, layout):
    made = resolve_candidate(text)
    if layout == "nchw":
        made = made.laid_out("nchw")
    for read in (
        candidate_from(made.text, made.name, layout, made.source),
        candidate_from(str(made), layout=layout),
    ):
        assert read.text == made.text == str(made)
        assert read.formula == made.formula
        assert read.layout == layout
        assert read.digest == made.digest
        assert [one.stateful for one in read.layers] == [one.stateful for one in made.layers]
    assert resolve_candidate(made.text).digest == resolve_candidate(text).digest
    assert str(made.canonical.stateless() if isinstance(made, AssembledLayer) else made.canonical)


def test_the_state_is_part_of_the_identity():
    with_state, without = resolve_candidate("power_norm+silu"), resolve_candidate(f"norm: {BTC}; act: {SILU}")
    assert with_state.formula == without.formula
    assert with_state.digest != without.digest
    assert with_state.assembly.canonical() != without.assembly.canonical()
    assert "power_norm" in str(with_state.canonical)
    assert resolve_candidate("all: power_norm").digest == resolve_candidate("power_norm").digest


def test_layouts_of_a_part():
    made = resolve_candidate("norm: power_norm")
    assert made.laid_out("nchw").layers[0].graph == candidate_from("power_norm", layout="nchw").graph
    one = made.laid_out("nchw").one_place()
    assert isinstance(one, Layer)
    assert isinstance(made.laid_out("nchw").module(C), PowerNorm)
    assert made.module(C, slot="final", layout="nchw").layout.name == "nchw"


def test_networks_with_one_kind_of_place_get_one_layer_with_state_or_none():
    made = resolve_candidate("power_norm+silu").laid_out("nchw")
    with pytest.raises(UsageError, match="power_norm keeps state and joins with no other layer"):
        made.module(C)


@pytest.mark.parametrize("text", ["silu+power_norm", "power_nrm+silu"])
def test_names_that_do_not_fit(text):
    with pytest.raises(UsageError, match=r"power_norm"):
        resolve_candidate(text)


def test_names_of_a_configuration():
    assert is_name("power_norm")
    assert is_name("power_norm+silu")
    assert not is_name("silu+power_norm")
    assert not is_name("norm: power_norm")


@pytest.mark.parametrize("slots", [("norm", "act"), ("all",)])
@pytest.mark.parametrize("text", ["power_norm", "unified_norm", "power_norm+silu"])
def test_no_space_takes_state_into_a_genotype(slots, text):
    space = search_spaces.get("norm_act_lm", slots=slots)
    with pytest.raises(
        FormulaError, match=r"keeps state, a candidate is made of formulas alone; and rms.b,t. shows"
    ):
        space.check(meaning(resolve_candidate(text)))
    with pytest.raises(FormulaError, match="keeps state"):
        search_spaces.get("norm_act").check(meaning(resolve_candidate("power_norm").laid_out("nchw")))


def test_a_causal_space_has_them_as_baselines_and_its_plan_says_what_they_see():
    settings, _ = resolve(
        sets=[
            'search.space="norm_act_lm"',
            'search.baselines=["rms_norm+silu", "power_norm+silu", "unified_norm"]',
        ]
    )
    space = check_settings(settings)
    plan = make_plan(settings, space, measure=False)
    assert plan["see_other_tokens"] == {"power_norm+silu": ["rms[b,t]"], "unified_norm": ["rms[b,t]"]}
    conductor = Conductor(settings, build_space(settings))
    sent = []
    while len(sent) < 3:
        event = conductor.decide()
        conductor.apply(event)
        sent += [event] if event.arm == "baseline" else []
    assert [e.details()["name"] for e in sent] == list(settings.search.baselines)
    assert [e.formula for e in sent] == [
        "norm: x / rms[c](x); act: x * sigmoid(x)", "norm: power_norm; act: x * sigmoid(x)", "unified_norm",
    ]  # fmt: skip
    for event in sent:
        assert candidate_from(event.formula, layout="btc").digest == event.digest.hex()
    seeds, _ = resolve(sets=['search.space="norm_act_lm"', 'search.seeds=["power_norm+silu"]'])
    with pytest.raises(FormulaError, match="power_norm keeps state"):
        check_settings(seeds)


def test_pages_typeset_what_a_part_does_to_one_batch():
    pictures = Pictures()
    pictures.add("norm: power_norm; act: x * sigmoid(x)")
    [made] = pictures.to_dict().values()
    assert [(p["slot"], p["formula"]) for p in made["parts"]] == [
        ("norm", str(candidate_from(BTC).formula)), ("act", SILU),
    ]  # fmt: skip
