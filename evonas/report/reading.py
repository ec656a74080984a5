"""One pass over a run's events that keeps what a report tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from evonas.run.funnel_table import FunnelTable
from evonas.run.schema import Event

#: Arms whose candidates a report shows as points.
ARMS = ("search", "control", "baseline")


@dataclass(slots=True)
class Told:
    """What the log says of one candidate that was sent out. ``scores``: in the order of the proxies, complete or
    None. ``minutes``: from the first event to its answer. ``cheap``: numbers of the stages before full training,
    by "stage proxy", larger is better."""

    candidate: int
    arm: str
    formula: str
    parent: int | None
    origin: str | None
    name: str | None = None
    outcome: str = "dispatched"
    stage: str | None = None
    reason: str | None = None
    scores: tuple[float, ...] | None = None
    latency: float | None = None
    minutes: float | None = None
    seconds: float = 0.0
    cheap: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean score over the proxies."""
        return None if self.scores is None else fmean(self.scores)


class Reading:
    """A fold over the events of a run, whole or partly written. causal: see ``FunnelTable``."""

    def __init__(self, events: Iterable[Event], causal: bool = False) -> None:
        self.funnel = FunnelTable(causal)
        self.told: dict[int, Told] = {}
        self.finalists: list[dict[str, Any]] = []
        self.ranking: list[dict[str, Any]] = []
        self.replicates = self.lost = self.resumes = self.events = 0
        self.minutes = 0.0
        #: per arm: (answers so far, minutes, best mean so far, its candidate), one entry per improvement and the last
        self.best: dict[str, list[tuple[int, float, float, int]]] = {}
        self._answers: dict[str, int] = {}
        self._first: int | None = None
        #: proposals that repeat an evaluated one: (parent, origin, the candidate that they repeat)
        self._twins: dict[int, tuple[int | None, str | None, int]] = {}
        for event in events:
            self._add(event)
        for arm, steps in self.best.items():
            count, last = self._answers[arm], steps[-1]
            if last[0] < count:
                steps.append((count, self.minutes, last[2], last[3]))

    def _add(self, event: Event) -> None:
        self.events += 1
        if event.ts is not None:
            self._first = event.ts if self._first is None else self._first
            self.minutes = (event.ts - self._first) / 60e6
        self.funnel.add(event)
        if event.kind == "proposed" and event.outcome == "dispatched" and event.arm in ARMS:
            self._proposed(event)
        elif event.kind == "proposed" and event.stage == "duplicate" and event.candidate is not None:
            twin = re.search(r"as candidate (\d+)", event.reason or "")
            if twin:
                self._twins[event.candidate] = event.parent, event.origin, int(twin[1])
        elif event.kind == "finished":
            self._finished(event)
        elif event.kind == "attempt_lost":
            self.lost += 1
        elif event.kind == "resumed":
            self.resumes += 1
            if "candidates" in event.details():
                self.finalists, self.ranking = [], []
        elif event.kind == "rerank_planned":
            self.finalists, self.ranking = event.details()["finalists"], []
        elif event.kind == "rerank_finished":
            self.ranking = event.details()["ranking"]

    def _proposed(self, event: Event) -> None:
        assert event.candidate is not None
        details = event.details()
        self.told[event.candidate] = Told(
            event.candidate, str(event.arm), str(event.formula), event.parent, event.origin,
            name=details.get("name"), latency=details.get("latency_us"),
        )  # fmt: skip

    def _finished(self, event: Event) -> None:
        if event.arm == "rerank":
            self.replicates += 1
            return
        told = self.told.get(event.candidate if event.candidate is not None else -1)
        if told is None:
            return
        details = event.details()
        told.outcome, told.stage, told.reason = str(event.outcome), event.stage, event.reason
        told.minutes, told.seconds = self.minutes, told.seconds + (event.seconds or 0.0)
        told.latency = details.get("latency_us", told.latency)
        for report in details.get("reports", ()):
            told.cheap |= dict(_cheap(report))
        self._answers[told.arm] = self._answers.get(told.arm, 0) + 1
        scores = event.scores or ()
        if event.outcome == "scored" and all(s is not None for s in scores):
            told.scores = tuple(s for s in scores if s is not None)
            steps = self.best.setdefault(told.arm, [])
            mean = fmean(told.scores)
            if not steps or mean > steps[-1][2]:
                steps.append((self._answers[told.arm], self.minutes, mean, told.candidate))

    def scored(self) -> list[Told]:
        """Candidates with a score on every proxy, best mean first."""
        found = [t for t in self.told.values() if t.scores is not None]
        return sorted(found, key=lambda t: (-(t.mean or 0.0), t.candidate))

    def lineage(self, candidate: int) -> list[Told]:
        """The candidate, its parent, and so on. One that repeats an evaluated candidate has its formula and scores,
        and the outcome "duplicate"; what was turned away for another reason ends the line."""
        found: list[Told] = []
        at: int | None = candidate
        while at is not None and len(found) < 200:
            told = self.told.get(at)
            if told is None and at in self._twins:
                parent, origin, twin = self._twins[at]
                if twin in self.told:
                    told = replace(
                        self.told[twin], candidate=at, parent=parent, origin=origin, outcome="duplicate"
                    )
            if told is None:
                break
            found.append(told)
            at = told.parent
        return found


def _cheap(report: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The number that a stage before full training went by, turned so that larger is better."""
    evidence, stage = report.get("evidence", {}), report["stage"]
    label = f"{stage} {report['proxy']}" if report.get("proxy") else stage
    if stage == "hurdle" and isinstance(evidence.get("loss"), float):
        yield label, -evidence["loss"]
    elif stage == "quality":
        if isinstance(evidence.get("accuracy"), float):
            yield label, evidence["accuracy"]
        elif isinstance(evidence.get("loss"), float):
            yield label, -evidence["loss"]
    elif stage == "training" and isinstance(evidence.get("score"), float):
        yield label, evidence["score"]
