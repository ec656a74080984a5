"""Layers with state in an evaluation and in the command line: the class is trained, and not its formula."""

from __future__ import annotations

import json

import pytest

import evonas
from evonas.cli.layer_argument import read_layer
from evonas.cli.show import describe, show
from evonas.errors import UsageError
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.protocol import Task
from evonas.layers import STATEFUL, candidate_from
from evonas.run.conductor import Conductor
from evonas.run.session import build_space, check_settings
from evonas.run.settings import resolve

SMALL = {
    "steps": 12, "batch": 16, "depth": [1] * 7, "quality_steps": 6, "stability_steps": 2, "quality_threshold": 0.1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STATEFUL))
def test_the_class_is_what_is_trained(name, monkeypatch):
    made = []
    cls = STATEFUL[name].load()
    whole = cls.__init__
    monkeypatch.setattr(cls, "__init__", lambda self, *a, **k: (whole(self, *a, **k), made.append(self))[0])
    one = ProxyEvaluator(proxies=["mobilenet"], changes=SMALL, kernels="on", hurdle=False)
    [outcome] = one.evaluate([Task(0, name, seed=1)])
    assert outcome.status == "scored", outcome.reason
    assert set(outcome.scores) == {"mobilenet"}
    assert {layer.layout.name for layer in made} == {"nchw"}
    assert max(int(layer.step) for layer in made) >= 12
    kernel = next(r for r in outcome.reports if r.stage == "kernel")
    assert kernel.evidence["backend"] == "eager"
    assert "no generated kernels" in kernel.evidence["why"]


def test_what_a_search_sends_out_names_the_class():
    settings, _ = resolve(sets=['search.baselines=["bn_relu", "power_norm"]'])
    check_settings(settings)
    conductor = Conductor(settings, build_space(settings))
    events = []
    while len(events) < 2:
        event = conductor.decide()
        assert event is not None
        conductor.apply(event)
        events += [event] if event.arm == "baseline" else []
    assert [e.details()["name"] for e in events] == ["bn_relu", "power_norm"]
    assert [e.formula for e in events] == [evonas.layer("bn_relu").formula, "power_norm"]
    assert candidate_from(events[1].formula).digest == events[1].digest.hex()
    assert (
        candidate_from(events[1].formula).digest
        != candidate_from(candidate_from("power_norm").formula).digest
    )


def test_kernels_of_a_layer_with_state_are_refused():
    with pytest.raises(UsageError, match="no generated kernels") as error:
        read_layer("power_norm", None, (), "runs")
    formula = str(error.value).split('"')[1]
    assert read_layer(formula, None, (), "runs").formula == evonas.layer("power_norm").formula


def test_show_describes_the_contract():
    content = json.loads(json.dumps(describe(evonas.layer("unified_norm"), (1, 8, 16))))
    assert content["state"]["buffers"][0]["name"] == "window_squares"
    assert content["state"]["derivative"] is False
    assert describe(evonas.layer("evonorm_s0"), (1, 64, 8, 8))["state"] is None


@pytest.mark.parametrize("kernels", ["off", "on"])
@pytest.mark.parametrize("text", ["norm: power_norm; act: x * sigmoid(x)", "unified_norm"])
def test_token_networks_train_the_class_in_their_slots(text, kernels, monkeypatch):
    name = "unified_norm" if "unified" in text else "power_norm"
    made = []
    cls = STATEFUL[name].load()
    whole = cls.__init__
    monkeypatch.setattr(cls, "__init__", lambda self, *a, **k: (whole(self, *a, **k), made.append(self))[0])
    changes = {
        "steps": 6, "quality_steps": 4, "quality_threshold": 9.0, "stability_steps": 1, "depth": 1, "width": 16,
        "eval_windows": 8,
    }  # fmt: skip
    one = ProxyEvaluator(proxies=["transnormer"], changes=changes, kernels=kernels, hurdle=False)
    [outcome] = one.evaluate([Task(0, text, seed=1)])
    assert outcome.status == "scored", outcome.reason
    assert 0 < outcome.scores["transnormer"] < 1
    assert {layer.layout.name for layer in made} == {"btc"}
    assert max(int(layer.step) for layer in made) >= 6
    if kernels == "on":
        kernel = next(r for r in outcome.reports if r.stage == "kernel")
        assert kernel.evidence["backend"] == ("c" if "act" in text else "eager"), kernel.evidence


def test_a_part_with_state_is_shown_by_its_class_and_what_it_sees(capsys):
    assert show("power_norm+silu", None, shape=None, plugins=(), runs="runs", json=False) == 0
    text = capsys.readouterr().out
    assert "norm: power_norm; act: x * sigmoid(x)" in text
    assert "class PowerNorm" in text
    assert "in training rms[b,t] shows a token the other ones" in text
    assert show("rms_norm+silu", None, shape=None, plugins=(), runs="runs", json=False) == 0
    assert "shows a token" not in capsys.readouterr().out
