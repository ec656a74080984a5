"""What the re-ranking reads out of its trainings' reports: points of sweeps, scores at shares of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from evonas.evaluation.sweep import STAGE, best_factor, sensitivity

#: ``origin`` of a sweep's event; it belongs to the arm rerank.
ORIGIN = "sweep"


@dataclass(frozen=True, slots=True)
class FinalistSweep:
    """The learning-rate sweep of one finalist: proxy -> points (factor, validation score or None if it diverged),
    by factor. A proxy without a point has none that is known."""

    points: Mapping[str, tuple[tuple[float, float | None], ...]]

    @classmethod
    def read(
        cls, status: str | None, reports: Iterable[Mapping[str, Any]], proxies: Sequence[str]
    ) -> FinalistSweep:
        """Of the reports of a finished sweep; one that is not "scored" has no points."""
        found = {
            report["proxy"]: tuple(
                (p["factor"], p["score"] if p["diverged_at"] is None else None)
                for p in report["evidence"]["points"]
            )
            for report in (reports if status == "scored" else ())
            if report["stage"] == STAGE
        }
        return cls({proxy: found.get(proxy, ()) for proxy in proxies})

    @property
    def lr(self) -> dict[str, float]:
        """The best factor of every proxy, 1 where no point says more."""
        return {proxy: best_factor(_evidence(points)) for proxy, points in self.points.items()}

    @property
    def sensitivity(self) -> dict[str, float | None]:
        """Best minus worst score of every proxy, a diverged one counted as 0; None where all diverged."""
        return {proxy: sensitivity(_evidence(points)) for proxy, points in self.points.items()}

    def to_dict(self) -> dict[str, Any]:
        """Columns of the ranking: lr, sensitivity, and every point."""
        points = {proxy: [list(point) for point in found] for proxy, found in self.points.items()}
        return {"lr": self.lr, "sensitivity": self.sensitivity, "sweep": points}


def _evidence(points: Sequence[tuple[float, float | None]]) -> list[dict[str, Any]]:
    return [{"factor": f, "score": s or 0.0, "diverged_at": 0 if s is None else None} for f, s in points]


@dataclass(frozen=True, slots=True)
class Replicate:
    """One training of a finalist on a fresh seed: held-out accuracy per proxy, mean validation accuracy.
    ``shares``: share of the training data -> held-out accuracy per proxy (None: not measured)."""

    heldout: tuple[float, ...]
    validation: float | None = None
    shares: tuple[tuple[float, tuple[float | None, ...]], ...] = ()

    @classmethod
    def read(
        cls,
        heldout: tuple[float, ...],
        reports: Iterable[Mapping[str, Any]],
        proxies: Sequence[str],
        shares: Sequence[float],
    ) -> Replicate:
        """Of the scores and reports of a finished training."""
        # reports on kernels say under the same name what validation ran on, in words
        evidence = [
            (report["proxy"], report["evidence"])
            for report in reports
            if isinstance(report["evidence"].get("validation"), (int, float))
        ]
        known = [e["validation"] for _, e in evidence if "share" not in e]
        mean = fmean(known) if known and len(known) == len(heldout) else None
        parts = {(proxy, e["share"]): e["score"] for proxy, e in evidence if "share" in e}
        found = tuple((share, tuple(parts.get((p, share)) for p in proxies)) for share in shares)
        return cls(heldout, mean, found)

    def at_share(self, share: float) -> tuple[float, ...] | None:
        """Held-out accuracies at a share, None unless every proxy has one."""
        found = dict(self.shares).get(share, (None,))
        return None if any(v is None for v in found) else found  # type: ignore[return-value]

    def __repr__(self) -> str:
        """Part of digests in logs: shares are named only where there are any."""
        more = f", shares={self.shares!r}" if self.shares else ""
        return f"Replicate(heldout={self.heldout!r}, validation={self.validation!r}{more})"
