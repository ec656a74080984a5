"""Assemblies as candidates of the funnel: eager, on generated C, and with a wrong kernel in one part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from evonas.kernels import c_runtime
from slotted import slotted

from evonas.evaluation.funnel import Candidate, ProxyEvaluator
from evonas.evaluation.protocol import Outcome, Task
from evonas.layers import AssembledLayer, Layer, resolve_candidate
from evonas.layers.c_layer import CGraphLayer
from evonas.layers.module import GraphLayer

SMALL = {
    "steps": 12,
    "batch": 16,
    "quality_steps": 6,
    "stability_steps": 1,
    "quality_threshold": 0.5,
    "lr": 0.05,
}
FORMULA = "norm: x / rms[c](x + v0); act: x * sigmoid(s1 * x)"
needs_compiler = pytest.mark.skipif(not c_runtime.available(), reason="no C compiler")


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVONAS_KERNEL_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


def evaluator(kernels: str, **options: Any) -> ProxyEvaluator:
    one = ProxyEvaluator(proxies=["resnet"], kernels=kernels, changes=SMALL, hurdle=False, **options)
    one.proxies = [replace(one.proxies[0], network=slotted)]
    return one


def evaluate(one: ProxyEvaluator, formula: str, **fields: Any) -> Outcome:
    [outcome] = one.evaluate([Task(0, formula, seed=1, **fields)])
    return outcome


@needs_compiler
def test_an_assembly_trains_like_the_reference_on_c() -> None:
    fast, slow = evaluate(evaluator("on"), FORMULA), evaluate(evaluator("off"), FORMULA)
    assert (fast.status, slow.status) == ("scored", "scored"), (fast.reason, slow.reason)
    kernel = fast.reports[0]
    assert (kernel.stage, kernel.evidence["backend"], kernel.evidence["kernels"]) == ("kernel", "c", 4)
    assert fast.reports[-1].evidence["first_loss"] == pytest.approx(
        slow.reports[-1].evidence["first_loss"], rel=1e-5
    )
    assert fast.scores["resnet"] == pytest.approx(slow.scores["resnet"], abs=0.05)


@needs_compiler
def test_statistics_over_the_batch_in_one_part() -> None:
    outcome = evaluate(evaluator("on"), "norm: x / rms[b,w,h](x); act: x * sigmoid(x)")
    assert outcome.status == "scored", outcome.reason
    assert outcome.reports[0].evidence["validation"] == "c"
    assert outcome.reports[0].evidence["kernels"] == 6  # both parts for training, one for validation


@needs_compiler
def test_sites_are_what_the_assembly_says() -> None:
    one = evaluator("on")
    candidate = Candidate(Task(0, FORMULA), resolve_candidate(FORMULA), one.layer_options)
    one.kernels.begin(candidate, one.proxies)
    network = one.trainer(candidate, one.proxies[0]).network
    assert [type(m) for m in (network.norm, network.act, network.final)] == [CGraphLayer] * 3
    assert [m.formula for m in (network.norm, network.act)] == ["x / rms[c](x + v0)", "x * sigmoid(s1 * x)"]
    assert network.norm.weight is not None
    assert network.act.weight is None
    some = Candidate(Task(0, FORMULA), resolve_candidate("final: x / rms[c](x)"), one.layer_options)
    network = one.trainer(some, one.proxies[0]).network
    assert isinstance(network.norm, torch.nn.Identity)
    assert isinstance(network.act, torch.nn.SiLU)
    assert isinstance(network.final, GraphLayer)
    assert {g.formula for g in some.trainers["resnet"].layer_inputs()} == {"x / rms[c](x)"}


@needs_compiler
@pytest.mark.parametrize("broken", ["x / rms[c](x + v0)", "x * sigmoid(s1 * x)"])
def test_a_wrong_kernel_in_any_part_turns_the_candidate_away(broken, monkeypatch) -> None:
    run = CGraphLayer._run

    def wrong(self, x, residual=None):
        y, total = run(self, x, residual)
        return (y * 1.01 if self.formula == broken else y), total

    monkeypatch.setattr(CGraphLayer, "_run", wrong)
    outcome = evaluate(evaluator("on"), FORMULA)
    assert (outcome.status, outcome.stage) == ("rejected", "kernel")
    assert "y" in outcome.reports[0].evidence["errors"]


def test_an_assembly_on_a_network_with_one_kind_of_place() -> None:
    one = ProxyEvaluator(proxies=["resnet"], kernels="off", hurdle=False, quality=False, stability=False,
                         changes={"steps": 1, "batch": 8})  # fmt: skip
    outcome = evaluate(one, "norm: (x - mean[c](x)) / std[c](x); act: max(x, 0)", mode="train")
    assert outcome.status == "scored", outcome.reason


def test_one_layer_for_all_is_a_plain_layer() -> None:
    assert isinstance(resolve_candidate("x / rms[c](x)"), Layer)
    assert isinstance(resolve_candidate(FORMULA), AssembledLayer)


@needs_compiler
def test_what_a_network_of_images_runs_is_what_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the activation of the norm is one layer, and its kernels are compared with float64, not those of parts."""
    from evonas.evaluation import kernel_use

    checked = []
    real = kernel_use.agreement

    def agreement(make: Any, *given: Any, **options: Any) -> Any:
        checked.append(make(8).formula)
        return real(make, *given, **options)

    monkeypatch.setattr(kernel_use, "agreement", agreement)
    one = ProxyEvaluator(proxies=["resnet"], kernels="on", hurdle=False, quality=False, stability=False,
                         changes={"steps": 1, "batch": 8})  # fmt: skip
    outcome = evaluate(one, "norm: x / rms[c](x); act: x * sigmoid(x)", mode="train")
    assert outcome.status == "scored", outcome.reason
    assert outcome.reports[0].evidence["backend"] == "c"
    joined = resolve_candidate("norm: x / rms[c](x); act: x * sigmoid(x)").layer(None)
    assert joined is not None
    assert set(checked) == {joined.formula}


def test_an_assembly_without_a_layer_for_one_kind_of_place_is_turned_away() -> None:
    one = ProxyEvaluator(proxies=["resnet"], kernels="off", changes={"steps": 1, "batch": 8})
    outcome = evaluate(one, "norm: x / rms[c](x + v0); act: max(x, v0)")
    assert (outcome.status, outcome.stage) == ("rejected", "structural")
    assert "both have v0" in str(outcome.reason)
