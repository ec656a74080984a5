"""The trainings behind a final table, the same for every layer in it: of a search's re-ranking and of ``compare``.

All layers have the same steps, the same sweep of the learning rate, and paired seeds: the same initial weights, order
of the data and crops in the training of the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evonas.evaluation.protocol import Outcome, Task
from evonas.rng import derive_seed
from evonas.run.settings import Settings

#: ``Task.arm`` of all of them.
ARM = "rerank"


@dataclass(frozen=True, slots=True)
class FinalTrainings:
    """What every layer is given alike.

    seed: of the run; that of a training follows from it and the training's number. budget: multiplies the steps.
    lr_factors: of the sweep, empty for none; sweep_budget: multiplies its steps once more. shares: of the training
    data, below 1. deadline_s: seconds of one processor for one training on all proxies.
    """

    seed: int
    budget: float
    lr_factors: tuple[float, ...]
    shares: tuple[float, ...]
    deadline_s: float
    sweep_budget: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> FinalTrainings:
        """What settings ask for; all of the data is trained on anyway, so a share of 1 is none."""
        rerank = settings.rerank
        shares = tuple(share for share in rerank.data_shares if share < 1)
        return cls(
            settings.search.seed, rerank.budget, rerank.lr_factors, shares, settings.evaluation.deadline_s,
            rerank.sweep_budget,
        )  # fmt: skip

    def work(self, seeds: int) -> float:
        """What one layer takes, in trainings with the steps of the search."""
        swept = len(self.lr_factors) * self.sweep_budget if seeds else 0.0
        return self.budget * (swept + seeds * (1 + len(self.shares)))

    def sweep(self, candidate: int, formula: str) -> Task:
        """One training for each factor on the learning rate, from a seed that no final training has."""
        return Task(
            candidate, formula, arm=ARM, seed=derive_seed("sweep", self.seed), mode="sweep",
            budget=self.budget * self.sweep_budget,
            deadline_s=self._deadline(len(self.lr_factors)), lr_factors=self.lr_factors,
        )  # fmt: skip

    def final(self, candidate: int, formula: str, replicate: int, lr: dict[str, float] | None = None) -> Task:
        """The training of a number. ``lr``: proxy -> factor on its learning rate."""
        return Task(
            candidate, formula, arm=ARM, seed=derive_seed("rerank", self.seed, replicate), mode="final",
            budget=self.budget, deadline_s=self._deadline(1 + len(self.shares)), lr=lr, data_shares=self.shares,
        )  # fmt: skip

    def _deadline(self, trainings: int) -> float:
        return self.deadline_s * max(1.0, self.budget) * trainings


def judged(outcome: Outcome, proxies: Sequence[str]) -> tuple[str, str | None, tuple[float | None, ...]]:
    """Status, reason and scores in the order of the proxies. An outcome that says "scored" and lacks a finite score
    on a proxy has failed."""
    scores = tuple(outcome.scores.get(p) for p in proxies)
    if outcome.status == "scored" and not all(s is not None and math.isfinite(s) for s in scores):
        return "failed", f"the evaluator gave scores {scores}, needed is a finite one per proxy", scores
    return outcome.status, outcome.reason, scores
