"""One training of a comparison: what came back of it, as plain values that a file holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evonas.errors import UsageError
from evonas.evaluation.protocol import Outcome
from evonas.run.finals import judged
from evonas.run.sweeps import FinalistSweep, Replicate


@dataclass(frozen=True, slots=True)
class Training:
    """A sweep (``replicate`` is None) or the training of a number of one layer, finished or failed.

    layer: its number. outcome: scored, rejected or failed; reason: why not scored. scores: of a final training,
    held-out, by proxy. reports: of the stages, as they are in a run's log.
    """

    layer: int
    replicate: int | None
    outcome: str
    reason: str | None
    scores: Mapping[str, float]
    seconds: float
    reports: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, layer: int, replicate: int | None, outcome: Outcome, proxies: Sequence[str]) -> Training:
        """What an evaluation slot answered."""
        status, reason, scores = judged(outcome, proxies)
        known = {p: s for p, s in zip(proxies, scores, strict=True) if s is not None}
        return cls(
            layer, replicate, status, reason if status != "scored" else None, known, outcome.seconds,
            [asdict(report) for report in outcome.reports],
        )  # fmt: skip

    @property
    def diverged(self) -> dict[str, int]:
        """proxy -> step of the training on all data, where the loss was not finite: the score is 0 then."""
        return {
            r["proxy"]: r["evidence"]["diverged_at"]
            for r in self.reports
            if self.replicate is not None
            and r["evidence"].get("diverged_at") is not None
            and "share" not in r["evidence"]
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Training:
        """The inverse. Raises UsageError for values that are none."""
        try:
            made = cls(**values)
            _check = (
                made.layer + 0,
                made.seconds + 0.0,
                dict(made.scores),
                [r["proxy"] for r in made.reports],
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"a training in the file is damaged: {error}") from None
        return made


def sweeps_of(trainings: Iterable[Training], proxies: Sequence[str]) -> dict[int, FinalistSweep]:
    """Number of a layer -> its sweep, a failed one without points."""
    return {
        t.layer: FinalistSweep.read(t.outcome, t.reports, proxies) for t in trainings if t.replicate is None
    }


def replicates_of(
    trainings: Iterable[Training], proxies: Sequence[str], shares: Sequence[float]
) -> dict[int, dict[int, Replicate]]:
    """Number of a layer -> number of a training -> its scores, of those that were scored."""
    found: dict[int, dict[int, Replicate]] = {}
    for t in sorted((t for t in trainings if t.replicate is not None), key=lambda t: (t.layer, t.replicate)):
        if t.outcome == "scored":
            heldout = tuple(t.scores[p] for p in proxies)
            found.setdefault(t.layer, {})[t.replicate or 0] = Replicate.read(
                heldout, t.reports, proxies, shares
            )
    return found
