"""The same small sweep of the learning rate for every finalist and baseline, each proxy by itself.

A layer that is compared at another's rate is compared at a handicap. The points are validation scores, so that
held-out data choose nothing. Imports neither torch nor Optuna until a sweep is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evonas.evaluation.protocol import StageReport

if TYPE_CHECKING:
    from evonas.evaluation.funnel import Candidate, ProxyEvaluator

STAGE = "sweep"


class Sweep:
    """One training per factor of the task on every proxy, scored on the *validation* part."""

    name = STAGE

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        task, outcome = candidate.task, candidate.outcome
        for proxy in self.evaluator.proxies:
            points: list[dict[str, Any]] = []
            seconds = 0.0

            def score(factor: float) -> float | None:
                nonlocal seconds
                trainer = self.evaluator.fresh_trainer(candidate, proxy, lr=factor)  # noqa: B023
                if not self.evaluator.ready(candidate, trainer):
                    return None
                trainer.run()
                value = trainer.validate()
                seconds += trainer.seconds
                points.append({"factor": factor, "score": value, "diverged_at": trainer.diverged_at})  # noqa: B023
                return value

            search_grid(task.lr_factors, task.seed, score)
            if candidate.rejected:
                return
            points.sort(key=lambda point: point["factor"])
            best = best_factor(points)
            passed = any(point["diverged_at"] is None for point in points)
            evidence = {"points": points, "best": best, "sensitivity": sensitivity(points)}
            outcome.reports.append(
                StageReport(STAGE, passed, seconds, proxy.name, None if passed else "diverged", evidence)
            )
            outcome.scores[proxy.name] = max((point["score"] for point in points), default=0.0)


def search_grid(factors: Sequence[float], seed: int, score: Callable[[float], float | None]) -> None:
    """Every factor once, as an Optuna study in memory: grid sampler, seeded, quiet. None from ``score`` ends it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            sampler=optuna.samplers.GridSampler({"factor": list(factors)}, seed=seed % 2**32),
            direction="maximize",
        )

        def objective(trial: optuna.Trial) -> float:
            value = score(trial.suggest_categorical("factor", list(factors)))
            if value is None:
                study.stop()
                raise optuna.TrialPruned
            return value

        study.optimize(objective, n_trials=len(factors))
    finally:
        optuna.logging.set_verbosity(before)


def best_factor(points: Iterable[Mapping[str, Any]]) -> float:
    """The factor with the best score among the points that did not diverge; of equals the one nearest to 1, then the
    smaller. 1 where there is none."""
    kept = [p for p in points if p["diverged_at"] is None]
    return min(
        kept, key=lambda p: (-p["score"], abs(math.log(p["factor"])), p["factor"]), default={"factor": 1.0}
    )["factor"]


def sensitivity(points: Iterable[Mapping[str, Any]]) -> float | None:
    """Best minus worst score of the points, a diverged one counted as 0; None where all diverged, or there is none."""
    found = list(points)
    if all(p["diverged_at"] is not None for p in found):
        return None
    scores = [0.0 if p["diverged_at"] is not None else p["score"] for p in found]
    return max(scores) - min(scores)
