"""The dear stages, for real: which layers get through, which do not, and what the reports say."""

from __future__ import annotations

import pytest

from evonas.errors import UsageError
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.protocol import Outcome, Task
from evonas.layers import ZOO

PAPER = [
    "bn_relu",
    "bn_silu",
    "gn_relu",
    "gn_silu",
    *(f"evonorm_{s}" for s in ("b0", "b1", "b2", "s0", "s1", "s2")),
]
#: enough to tell them apart on one proxy within seconds
SHORT = {"steps": 40, "quality_steps": 40, "stability_steps": 3}


def evaluate(evaluator: ProxyEvaluator, layer: str, **fields: object) -> Outcome:
    formula = ZOO[layer].formula if layer in ZOO else layer
    [outcome] = evaluator.evaluate([Task(0, formula, seed=1, **fields)])  # type: ignore[arg-type]
    return outcome


@pytest.fixture(scope="module")
def mobilenet() -> ProxyEvaluator:
    return ProxyEvaluator(proxies=["mobilenet"], changes=SHORT)


def test_a_known_layer_gets_through_and_leaves_its_reports(mobilenet: ProxyEvaluator) -> None:
    outcome = evaluate(mobilenet, "evonorm_s0")
    assert outcome.status == "scored"
    assert [r.stage for r in outcome.reports] == ["hurdle", "quality", "stability", "training"]
    assert all(r.passed and r.seconds > 0 for r in outcome.reports)
    assert outcome.scores["mobilenet"] == outcome.reports[-1].evidence["score"] > 0.3


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("relu", "mobilenet"),
        ("exp(x)", "diverged on mobilenet"),
        ("sigmoid(v0 * x)", "loss_of_guessing on mobilenet"),
    ],
)
def test_layers_that_do_not_train_are_rejected_early(
    mobilenet: ProxyEvaluator, layer: str, reason: str
) -> None:
    outcome = evaluate(mobilenet, layer)
    assert (outcome.status, outcome.stage) == ("rejected", "hurdle")
    assert reason in (outcome.reason or "")
    assert not outcome.scores


def test_the_same_task_gives_the_same_bits(mobilenet: ProxyEvaluator) -> None:
    first, second = (evaluate(mobilenet, "bn_relu", mode="train") for _ in range(2))
    assert first.scores == second.scores
    assert first.reports[0].evidence == second.reports[0].evidence
    assert (
        evaluate(mobilenet, "bn_relu", mode="final").reports[0].evidence["validation"]
        == first.scores["mobilenet"]
    )


def test_the_stability_test_rejects_by_the_gradient_norm() -> None:
    evaluator = ProxyEvaluator(
        proxies=["mobilenet"], changes={**SHORT, "stability_limit": 1e-3}, hurdle=False, quality=False
    )
    outcome = evaluate(evaluator, "evonorm_s0")
    assert (outcome.stage, outcome.reason) == (
        "stability",
        "gradient_norm_above_limit on mobilenet at step 0",
    )


def test_a_candidate_is_not_trained_on_once_it_cannot_matter() -> None:
    evaluator = ProxyEvaluator(
        proxies=["mobilenet", "efficientnet"], changes={"steps": 2, "quality_steps": 2}, hurdle=False, quality=False,
        stability=False,
    )  # fmt: skip
    bar = {
        "selection": "pareto", "share": 0.5, "minimum": 8, "slack": 0.0, "margin": 0.0,
        "candidates": list(range(8)), "scores": [[0.99, 0.99]] * 8,
    }  # fmt: skip
    outcome = evaluate(evaluator, "bn_relu", bar=bar)
    assert (outcome.status, outcome.stage) == ("rejected", "matter")
    assert list(outcome.scores) == ["mobilenet"]
    report = outcome.reports[-1]
    assert report.proxy == "efficientnet"
    assert report.evidence["dominating"] == 8
    assert evaluate(evaluator, "bn_relu").status == "scored"


def test_unusable_proxies_are_refused() -> None:
    with pytest.raises(UsageError, match="each once"):
        ProxyEvaluator(proxies=["resnet", "resnet"])
    with pytest.raises(UsageError, match="did you mean 'resnet'"):
        ProxyEvaluator(proxies=["resnett"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layer", PAPER)
def test_the_layers_of_the_paper_get_through_the_whole_funnel(layer: str) -> None:
    outcome = evaluate(ProxyEvaluator(), layer)
    assert outcome.status == "scored", (outcome.stage, outcome.reason)
    assert min(outcome.scores.values()) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer", ["relu", "identity", "exp(x)", "square(x)", "x * rms[w,h](x)", "sigmoid(x)"]
)
def test_exploding_and_collapsing_layers_do_not(layer: str) -> None:
    outcome = evaluate(ProxyEvaluator(hurdle=False), layer)
    assert outcome.status == "rejected"
    assert outcome.stage in ("quality", "stability")
