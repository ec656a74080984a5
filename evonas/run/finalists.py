"""Who is re-ranked at the end, and the table that comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.run.conductor import Arm, Conductor


@dataclass(frozen=True, slots=True)
class Finalist:
    """A layer that is trained again on fresh seeds. ``search_mean``: mean validation score of the search."""

    candidate: int
    arm: str
    name: str
    formula: str
    search_mean: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose_finalists(state: Conductor) -> list[Finalist]:
    """The best of the search's front and of the control's, and every baseline that got through.

    Of an arm: its non-dominated members by mean score, then its other members by mean score.
    """
    rerank = state.settings.rerank
    chosen = []
    for name, count in (("search", rerank.top), ("control", rerank.control_top)):
        if name in state.arms:
            chosen += _best(state.arms[name], count)
    for candidate, name in state.baseline_ids.items():
        layer = state.baselines[list(state.baseline_ids).index(candidate)]
        scores = state.baseline_scores.get(candidate)
        mean = fmean(scores) if scores else None
        chosen.append(Finalist(candidate, "baseline", name, layer.formula, mean))
    return chosen if rerank.seeds > 0 else []


def _best(arm: Arm, count: int) -> list[Finalist]:
    def key(candidate: int) -> tuple[float, int]:
        return (-fmean(arm.scores[candidate]), candidate)

    front = sorted((m.candidate for m in arm.strategy.front() if m.candidate in arm.scores), key=key)
    rest = sorted(set(arm.scores) - set(front), key=key)
    return [
        Finalist(c, arm.name, f"{arm.name}/{c}", arm.formulas[c], fmean(arm.scores[c]))
        for c in (front + rest)[:count]
    ]


def rank_finalists(
    finalists: Sequence[Finalist],
    replicates: Mapping[int, Mapping[int, tuple[float, ...]]],
    proxies: Sequence[str],
) -> list[dict[str, Any]]:
    """One row per finalist, best held-out mean first; a finalist without a finished training last, with n = 0.

    mean: over seeds, of the mean over proxies. std: sample standard deviation over seeds (None for n < 2).
    per_proxy: proxy -> [mean, std]. versus: the best baseline's name, and mean and std of the difference to it
    over the seeds that both have (the same seed means the same weights, data order and crops).
    """
    means = {c: {r: fmean(scores) for r, scores in runs.items()} for c, runs in replicates.items()}
    baselines = [f for f in finalists if f.arm == "baseline" and means.get(f.candidate)]
    best = max(baselines, key=lambda f: fmean(means[f.candidate].values()), default=None)
    rows = []
    for finalist in finalists:
        runs = replicates.get(finalist.candidate, {})
        own = means.get(finalist.candidate, {})
        mean, std = _spread(list(own.values()))
        row = finalist.to_dict() | {
            "n": len(own),
            "mean": mean,
            "std": std,
            "per_proxy": {p: _spread([scores[i] for scores in runs.values()]) for i, p in enumerate(proxies)},
            "versus": None,
        }
        if best is not None and best != finalist:
            reference = means[best.candidate]
            both = sorted(own.keys() & reference.keys())
            difference, spread = _spread([own[r] - reference[r] for r in both])
            row["versus"] = {"name": best.name, "mean": difference, "std": spread, "n": len(both)}
        rows.append(row)
    return sorted(rows, key=lambda r: (-(r["mean"] if r["mean"] is not None else -math.inf), r["candidate"]))


def _spread(values: Sequence[float]) -> list[float | None]:
    """Mean and sample standard deviation, None where they do not exist."""
    return [fmean(values) if values else None, stdev(values) if len(values) > 1 else None]
