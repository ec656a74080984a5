"""What travels between the driver and an evaluation slot: plain values, JSON both ways, no pickle.

A ``Task`` asks for one candidate, an ``Outcome`` answers it. Tasks are sent in batches; an evaluator
takes a list and returns a list of the same length and order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

#: Closed vocabulary of ``Outcome.status``.
#: scored: trained on every proxy that was asked for. rejected: a stage said no, with a reason.
#: failed: the candidate broke its slot (timeout, out_of_memory, crash, error) and is not tried again.
#: lost: the slot or actor died for a reason that is not the candidate's; the driver may try again.
STATUSES = ("scored", "rejected", "failed", "lost")


@dataclass(frozen=True, slots=True)
class Task:
    """One evaluation of one candidate."""

    candidate: int
    formula: str
    attempt: int = 1
    arm: str = "search"
    seed: int = 0
    #: "funnel" runs every stage, "train" only the training on every proxy, "sweep" one training for each of
    #: ``lr_factors`` on every proxy, "final" the training for the re-ranking.
    mode: str = "funnel"
    #: multiplies the training steps of every proxy.
    budget: float = 1.0
    #: incumbents that a candidate must still be able to matter against (None: train on every proxy).
    bar: Mapping[str, Any] | None = None
    #: seconds from the moment a slot starts on it; the owner of the slot kills it afterwards.
    deadline_s: float = 600.0
    #: proxy -> factor on its learning rate; 1 for a proxy that is not there.
    lr: Mapping[str, float] | None = None
    #: factors on the learning rate that a sweep tries, on every proxy by itself.
    lr_factors: tuple[float, ...] = ()
    #: shares of the training data on which a final training is repeated, besides that on all of them.
    data_shares: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what only the re-ranking has is left out where it is empty."""
        values: dict[str, Any] = {
            "candidate": self.candidate,
            "formula": self.formula,
            "attempt": self.attempt,
            "arm": self.arm,
            "seed": self.seed,
            "mode": self.mode,
            "budget": self.budget,
            "bar": None if self.bar is None else dict(self.bar),
            "deadline_s": self.deadline_s,
        }
        if self.lr:
            values["lr"] = dict(self.lr)
        for name in ("lr_factors", "data_shares"):
            if getattr(self, name):
                values[name] = list(getattr(self, name))
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        values = dict(data)
        for name in ("lr_factors", "data_shares"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(slots=True)
class StageReport:
    """What one stage said of one candidate; ``evidence`` holds the numbers behind the verdict."""

    stage: str
    passed: bool
    seconds: float
    proxy: str | None = None
    reason: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """The answer to a task. ``scores`` maps proxy name to validation score in [0, 1]: accuracy, or for
    text 1 - bits per byte / 8, the share of the bits of a byte that the model saves.

    ``to_dict`` shares ``scores`` and the evidence of the reports with the outcome.
    """

    candidate: int
    status: str
    attempt: int = 1
    stage: str | None = None
    reason: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    reports: list[StageReport] = field(default_factory=list)
    seconds: float = 0.0
    #: peak resident memory of the slot after this task, bytes (0: not measured).
    peak_rss: int = 0
    #: microseconds of the layer's forward and backward, and on what they were measured, where that is asked for.
    latency_us: float | None = None
    latency_source: str | None = None
    #: copied from the task by the slot, so that an evaluator need not: which request this answers.
    arm: str = "search"
    seed: int = 0
    mode: str = "funnel"

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate,
            "status": self.status,
            "attempt": self.attempt,
            "stage": self.stage,
            "reason": self.reason,
            "scores": self.scores,
            "reports": [asdict(r) for r in self.reports] if self.reports else [],
            "seconds": self.seconds,
            "peak_rss": self.peak_rss,
            "latency_us": self.latency_us,
            "latency_source": self.latency_source,
            "arm": self.arm,
            "seed": self.seed,
            "mode": self.mode,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        values = dict(data)
        values["reports"] = [StageReport(**r) for r in values.get("reports", ())]
        return cls(**values)


def dump_tasks(tasks: Sequence[Task]) -> bytes:
    return json.dumps([t.to_dict() for t in tasks], separators=(",", ":")).encode()


def load_tasks(data: bytes) -> list[Task]:
    return [Task.from_dict(d) for d in json.loads(data)]


def dump_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    return json.dumps([o.to_dict() for o in outcomes], separators=(",", ":")).encode()


def load_outcomes(data: bytes) -> list[Outcome]:
    return [Outcome.from_dict(d) for d in json.loads(data)]


class Evaluator(Protocol):
    """Lives in a slot: a process of its own with one thread."""

    def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]: ...


@dataclass(frozen=True, slots=True)
class EvaluatorSpec:
    """Names an evaluator that every process can build for itself.

    ``name`` is looked up in the registry of ``evonas.evaluation.registry``; ``plugins`` are the files
    that must be loaded first, as {"path", "sha256"}: a slot refuses a file whose digest differs.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[Mapping[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EvaluatorSpec:
        data = json.loads(text)
        return cls(data["name"], data["options"], tuple(data["plugins"]))
