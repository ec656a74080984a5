"""Sweeps and sizes of the data, for real: trainings at factors, scored on validation data, in an Optuna study."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.protocol import Outcome, Task
from evonas.evaluation.sweep import search_grid
from evonas.layers import ZOO
from evonas.layers.layer import named_layer
from evonas.proxies import Trainer

SHORT = {"steps": 12, "quality_steps": 12, "stability_steps": 1}


@pytest.fixture(scope="module")
def evaluator() -> ProxyEvaluator:
    return ProxyEvaluator(proxies=["mobilenet", "resnet"], changes=SHORT, kernels="off")


def _evaluate(evaluator: ProxyEvaluator, layer: str, **fields: object) -> Outcome:
    [outcome] = evaluator.evaluate([Task(0, ZOO[layer].formula, seed=1, **fields)])  # type: ignore[arg-type]
    return outcome


def test_every_factor_is_trained_on_every_proxy(evaluator: ProxyEvaluator) -> None:
    outcome = _evaluate(evaluator, "gn_relu", mode="sweep", lr_factors=(2.0, 0.25, 1.0))
    assert outcome.status == "scored"
    assert [(r.stage, r.proxy, r.passed) for r in outcome.reports] == [
        ("sweep", "mobilenet", True),
        ("sweep", "resnet", True),
    ]
    for report in outcome.reports:
        points = report.evidence["points"]
        assert [p["factor"] for p in points] == [0.25, 1.0, 2.0]
        assert len({p["score"] for p in points}) > 1
        best = max(points, key=lambda p: p["score"])
        assert report.proxy is not None
        assert outcome.scores[report.proxy] == best["score"]
        assert report.evidence["sensitivity"] == best["score"] - min(p["score"] for p in points)
        assert report.evidence["best"] in [p["factor"] for p in points if p["score"] == best["score"]]
        assert report.seconds > 0
    # the point of factor 1 is the training that a task without factors has
    plain = _evaluate(evaluator, "gn_relu", mode="train")
    assert [r.evidence["points"][1]["score"] for r in outcome.reports] == list(plain.scores.values())


def test_points_that_diverge_count_as_nothing(evaluator: ProxyEvaluator) -> None:
    outcome = _evaluate(evaluator, "relu", mode="sweep", lr_factors=(1.0, 1e12))
    points = outcome.reports[0].evidence["points"]
    assert points[0]["diverged_at"] is None
    assert points[1]["diverged_at"] is not None
    assert points[1]["score"] == 0.0
    report = outcome.reports[0]
    assert (report.passed, report.evidence["best"]) == (True, 1.0)
    assert report.evidence["sensitivity"] == points[0]["score"]
    lost = _evaluate(evaluator, "relu", mode="sweep", lr_factors=(1e12, 1e13))
    assert lost.status == "scored"
    assert [(r.passed, r.reason, r.evidence["best"]) for r in lost.reports] == [(False, "diverged", 1.0)] * 2
    assert all(r.evidence["sensitivity"] is None for r in lost.reports)


def test_a_final_training_takes_its_factors_and_sizes(evaluator: ProxyEvaluator) -> None:
    task = {"mode": "final", "lr": {"mobilenet": 0.5}, "data_shares": (0.1,), "budget": 0.5}
    outcome = _evaluate(evaluator, "gn_relu", **task)
    shares = [(r.proxy, r.evidence.get("share", 1.0)) for r in outcome.reports]
    assert shares == [("mobilenet", 1.0), ("mobilenet", 0.1), ("resnet", 1.0), ("resnet", 0.1)]
    whole, part = outcome.reports[:2]
    assert outcome.scores["mobilenet"] == whole.evidence["score"]
    layer = named_layer("gn_relu")
    [mobilenet, _] = evaluator.proxies

    def trained(**options: float) -> float:
        trainer = Trainer(
            mobilenet, lambda c: layer.module(c, backend="eager", **evaluator.layer_options), seed=1,
            budget=0.5, **options,
        )  # fmt: skip
        trainer.run()
        return trainer.accuracy(evaluator.datasets["mobilenet"].heldout)

    assert whole.evidence["score"] == trained(lr_factor=0.5)
    assert part.evidence["score"] == trained(lr_factor=0.5, share=0.1)
    assert whole.evidence["score"] != trained()


def test_the_grid_is_complete_quiet_and_can_be_ended(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []

    def score(factor: float) -> float | None:
        seen.append(factor)
        return factor if len(seen) < 3 or len(seen) > 4 else None

    search_grid((0.5, 1.0), 2**40 + 3, score)
    assert sorted(seen) == [0.5, 1.0]
    search_grid((0.25, 0.5, 1.0), 1, score)
    assert len(seen) == 3, "the third call says None, which ends the study"
    out, err = capfd.readouterr()
    assert out == err == ""
    assert logging.getLogger("optuna").level != logging.CRITICAL


def test_optuna_is_imported_for_a_sweep_alone() -> None:
    code = (
        "import sys, evonas.evaluation.funnel, evonas.evaluation.sweep as s\n"
        "assert 'optuna' not in sys.modules\n"
        "s.search_grid((1.0,), 0, lambda f: f)\n"
        "assert 'optuna' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
