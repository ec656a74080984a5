"""A plug-in with evaluators that cost nothing: scores are a hash of the formula and the seed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evonas.evaluation.protocol import Outcome, StageReport, Task
from evonas.evaluation.registry import evaluator
from evonas.evolution import can_still_matter


class Free:
    """Scores by hash. sleep_s: seconds per evaluation, times a factor in [0, 2) that depends on the formula.
    kill_first: a file; each candidate whose id is a multiple of 5 kills its slot unless its line is there."""

    def __init__(
        self,
        proxies: Sequence[str] = ("a", "b"),
        sleep_s: float = 0.0,
        kill_first: str | None = None,
        fail: bool = False,
        diverging: Sequence[str] = (),
        fail_sweeps: bool = False,
    ) -> None:
        self.proxies = list(proxies)
        self.sleep_s = sleep_s
        self.kill_first = Path(kill_first) if kill_first else None
        self.fail = fail
        self.diverging = list(diverging)
        self.fail_sweeps = fail_sweeps

    def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        return [self.one(task) for task in tasks]

    def one(self, task: Task) -> Outcome:
        digest = hashlib.blake2b(f"{task.formula} {task.seed}".encode()).digest()
        if self.fail:
            return Outcome(task.candidate, "failed", attempt=task.attempt, reason="error: always")
        if self.kill_first and task.candidate % 5 == 0:
            mark = self.kill_first / str(task.candidate)
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if self.sleep_s:
            time.sleep(self.sleep_s * digest[20] / 128)
        outcome = Outcome(task.candidate, "scored", attempt=task.attempt)
        if task.mode == "sweep":
            if self.fail_sweeps:
                return Outcome(task.candidate, "failed", attempt=task.attempt, reason="error: no sweeps")
            return self.sweep(task, outcome)
        if task.mode == "funnel" and digest[10] < 60:
            outcome.status, outcome.stage, outcome.reason = "rejected", "quality", "low_accuracy on a"
            outcome.reports.append(StageReport("quality", False, 0.0, "a", "low_accuracy", {"accuracy": 0.1}))
            return outcome
        for i, proxy in enumerate(self.proxies):
            if not can_still_matter(outcome.scores, self.proxies, task.bar)[0]:
                outcome.status, outcome.stage, outcome.reason = (
                    "rejected",
                    "matter",
                    f"cannot matter before {proxy}",
                )
                return outcome
            outcome.scores[proxy] = digest[i] / 255
        if task.lr or task.data_shares:
            self.finals(task, outcome)
        return outcome

    def sweep(self, task: Task, outcome: Outcome) -> Outcome:
        """Points by hash; a hash below 40 diverges, and every point of the proxies in ``diverging`` does."""
        for proxy in self.proxies:
            points = []
            for factor in task.lr_factors:
                value = hashlib.blake2b(f"{task.formula} {task.seed} {proxy} {factor}".encode()).digest()[0]
                lost = value < 40 or proxy in self.diverging
                points.append({
                    "factor": factor, "score": 0.0 if lost else value / 255, "diverged_at": 7 if lost else None,
                })  # fmt: skip
            outcome.reports.append(StageReport("sweep", True, 0.0, proxy, None, {"points": points}))
            outcome.scores[proxy] = max(p["score"] for p in points)
        return outcome

    def finals(self, task: Task, outcome: Outcome) -> None:
        """Scores fall with the distance of the factor from 1 and with the share of the data that is missing."""
        for proxy in self.proxies:
            outcome.scores[proxy] *= min(1.0, (task.lr or {}).get(proxy, 1.0))
            for share in (1.0, *task.data_shares):
                score = outcome.scores[proxy] * share
                evidence = {"score": score, "validation": score} | ({"share": share} if share < 1 else {})
                outcome.reports.append(StageReport("rerank", True, 0.0, proxy, None, evidence))


@evaluator("free", imports=())
def build(**options: Any) -> Free:
    return Free(**options)


class Trading:
    """Normalization pays: 0.3 without a moment, 0.6 with one, 0.9 with one over the batch, and a little by hash.
    timed: seconds of the evaluation's own hashing count as the latency, "none" leaves it out."""

    def __init__(self, timed: str = "") -> None:
        self.timed = timed

    def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        return [self.one(task) for task in tasks]

    def one(self, task: Task) -> Outcome:
        begun = time.perf_counter_ns()
        digest = hashlib.blake2b(f"{task.formula} {task.seed}".encode()).digest()
        worth = 0.9 if "[b" in task.formula else 0.6 if "[" in task.formula else 0.3
        outcome = Outcome(task.candidate, "scored", attempt=task.attempt)
        for i, proxy in enumerate(("a", "b")):
            if not can_still_matter(outcome.scores, ("a", "b"), task.bar)[0]:
                outcome.status, outcome.stage, outcome.reason = "rejected", "matter", f"before {proxy}"
                return outcome
            outcome.scores[proxy] = worth + digest[i] / 25500
        if self.timed == "clock":
            outcome.latency_us = (time.perf_counter_ns() - begun + 1) / 1e3
            outcome.latency_source = "measured on this processor"
        return outcome


@evaluator("trading", imports=())
def build_trading(**options: Any) -> Trading:
    return Trading(**options)
