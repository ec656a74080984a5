"""The funnel as counters: per arm and stage, how many came in, how many were turned away, why, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evonas.run.schema import Event

#: Order of the stages; those before ``quality`` are ours, quality and stability are the paper's.
STAGES = (
    "structural",
    "duplicate",
    "probe",
    "causal",
    "hurdle",
    "quality",
    "stability",
    "matter",
    "training",
    "evaluation",
)
_CHEAP = STAGES[:3]
_CAUSAL = "causal"
#: First of the slots' stages where trainings begin on kernels, before full training where they change to them.
_KERNEL = "kernel"


@dataclass
class StageCount:
    """entered: candidates that the stage looked at. rejected: those that it turned away, by reason."""

    entered: int = 0
    rejected: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class FunnelTable:
    """A fold over events, for the live panel and for reports.

    causal: whether the space's candidates were tested for causality, which the log says of those alone that failed.
    """

    def __init__(self, causal: bool = False) -> None:
        self.causal = causal
        self.stages: dict[str, dict[str, StageCount]] = {}
        self.proposed: Counter[str] = Counter()
        self.scored: Counter[str] = Counter()
        self._dispatched: Counter[str] = Counter()

    def add(self, event: Event) -> None:
        """Count one event."""
        if event.arm not in ("search", "control", "baseline"):
            return
        if event.kind == "proposed":
            self._proposed(event.arm, event)
        elif event.kind == "finished":
            self._finished(event.arm, event)

    def stage(self, arm: str, name: str) -> StageCount:
        """The counters of one stage of one arm."""
        return self.stages.setdefault(arm, {}).setdefault(name, StageCount())

    def _proposed(self, arm: str, event: Event) -> None:
        self.proposed[arm] += 1
        if arm == "baseline":
            return
        last = _CHEAP.index(event.stage) if event.stage in _CHEAP else len(_CHEAP) - 1
        if event.outcome == "dispatched":
            self._dispatched[arm] += 1
        for name in _CHEAP[: last + 1]:
            self.stage(arm, name).entered += 1
        if event.outcome == "rejected" and event.stage is not None:
            count = self.stage(arm, event.stage)
            count.rejected += 1
            count.reasons[_kind_of(event.reason)] += 1

    def _finished(self, arm: str, event: Event) -> None:
        seen = set()
        for report in event.details().get("reports", ()):
            count = self.stage(arm, report["stage"])
            count.seconds += report["seconds"]
            if report["stage"] not in seen:
                seen.add(report["stage"])
                # what is dropped between two proxies has begun its training and is not counted as trained
                count.entered += not (event.stage == "matter" and report["stage"] == "training")
        if event.outcome == "scored":
            self.scored[arm] += 1
        else:
            count = self.stage(arm, event.stage or "evaluation")
            if event.stage not in seen:
                count.entered += 1
            count.rejected += 1
            count.reasons[_kind_of(event.reason)] += 1

    def rows(self) -> list[dict[str, Any]]:
        """One row per arm and stage, in order. The test of causality is a row where it took place, or turned something
        away."""
        for arm, stages in self.stages.items():
            if _CAUSAL in stages or (self.causal and arm != "baseline"):
                causal = self.stage(arm, _CAUSAL)
                causal.entered = causal.rejected + self._dispatched[arm]
        return [
            {
                "arm": arm,
                "stage": name,
                "in": count.entered,
                "rejected": count.rejected,
                "out": count.entered - count.rejected,
                "seconds": round(count.seconds, 3),
                "reasons": dict(count.reasons.most_common()),
            }
            for arm, stages in self.stages.items()
            for name in _order(stages)
            if (count := stages.get(name)) is not None
        ]


def _order(stages: Mapping[str, StageCount]) -> list[str]:
    """Names of stages in the order in which candidates met them."""
    order = [*STAGES, *(s for s in stages if s not in (*STAGES, _KERNEL))]
    if _KERNEL in stages:
        first = next((s for s in ("hurdle", "quality", "stability") if s in stages), "matter")
        begins = first in stages and stages[_KERNEL].entered >= stages[first].entered
        order.insert(order.index(first if begins else "matter"), _KERNEL)
    return order


def _kind_of(reason: str | None) -> str:
    """A reason without what is particular to one candidate, so that it can be counted."""
    words = (reason or "unknown").split(":")[0]
    for cut in (" as candidate", " at step", " before "):
        words = words.split(cut)[0]
    return words
