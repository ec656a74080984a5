"""Who is re-ranked at the end, and the table that comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evonas.run.paired import Difference, mean_and_std
from evonas.run.sweeps import FinalistSweep, Replicate

if TYPE_CHECKING:
    from evonas.run.conductor import Arm, Conductor


@dataclass(frozen=True, slots=True)
class Finalist:
    """A layer that is trained again on fresh seeds. ``search_mean``: mean validation score of the search.
    ``latency_us``: where latency is an objective."""

    candidate: int
    arm: str
    name: str
    formula: str
    search_mean: float | None = None
    latency_us: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without a latency there is no key for it."""
        values = asdict(self)
        if self.latency_us is None:
            del values["latency_us"]
        return values


def choose_finalists(state: Conductor) -> list[Finalist]:
    """The best of the search and of the control, and every baseline, whether the funnel let it pass or not.

    Of an arm: its non-dominated members by mean score, then its other members by mean score. Where latency is an
    objective and the front is larger than that, it is evenly spaced members of it, from the most accurate one to the
    least, so that the re-ranking measures the trade.
    """
    rerank = state.settings.rerank
    chosen = []
    for name, count in (("search", rerank.top), ("control", rerank.control_top)):
        if name in state.arms:
            chosen += _best(state.arms[name], count)
    for layer, (candidate, name) in zip(state.baselines, state.baseline_ids.items(), strict=False):
        scores = state.baseline_scores.get(candidate)
        mean, latency = fmean(scores) if scores else None, state.baseline_latencies.get(candidate)
        chosen.append(Finalist(candidate, "baseline", name, layer.text, mean, latency))
    return chosen if rerank.seeds > 0 else []


def _best(arm: Arm, count: int) -> list[Finalist]:
    def key(candidate: int) -> tuple[float, int]:
        return (-fmean(arm.scores[candidate]), candidate)

    front = sorted((m.candidate for m in arm.strategy.front() if m.candidate in arm.scores), key=key)
    rest = sorted(set(arm.scores) - set(front), key=key)
    if arm.latencies and len(front) > count > 0:
        front = [front[i * (len(front) - 1) // max(1, count - 1)] for i in range(count)]
    return [
        Finalist(c, arm.name, f"{arm.name}/{c}", arm.formulas[c], fmean(arm.scores[c]), arm.latencies.get(c))
        for c in (front + rest)[:count]
    ]


def rank_finalists(
    finalists: Sequence[Finalist],
    replicates: Mapping[int, Mapping[int, Replicate]],
    proxies: Sequence[str],
    sweeps: Mapping[int, FinalistSweep] | None = None,
    shares: Sequence[float] = (),
    reference: int | None = None,
) -> list[dict[str, Any]]:
    """One row per finalist, best held-out mean first; a finalist without a finished training last, with n = 0.

    mean: over seeds, of the held-out mean over proxies. std: sample standard deviation over seeds (None for
    n < 2). per_proxy: proxy -> [mean, std]. validation: the same trainings' mean on the validation images.
    chosen: whether it is the one of its arm with the best ``validation``; held-out images choose nothing, so the
    held-out mean of the chosen one is not the best of several. versus: the name of the finalist ``reference``, by
    default of the chosen baseline, and mean and std of the difference to it over the seeds that both have (the same
    seed means the same weights, data order and crops).

    After a sweep of the learning rate: lr, proxy -> factor; sensitivity, proxy -> best minus worst validation score
    of the sweep; sweep, proxy -> its points. Where there are shares of the data: data_shares, share -> n, mean, std
    and per_proxy over the trainings on that share. Neither takes part in the order.
    """
    means = {c: heldout_means(runs) for c, runs in replicates.items()}
    validation = {
        c: fmean(known)
        for c, runs in replicates.items()
        if (known := [one.validation for one in runs.values() if one.validation is not None])
    }

    def merit(finalist: Finalist) -> float:
        """Without validation scores of the re-ranking those of the search decide."""
        known = validation.get(finalist.candidate, finalist.search_mean)
        return -math.inf if known is None else known

    chosen: dict[str, Finalist] = {}
    for finalist in finalists:
        best = chosen.get(finalist.arm)
        if finalist.candidate in means and (best is None or merit(finalist) > merit(best)):
            chosen[finalist.arm] = finalist
    against = chosen.get("baseline")
    if reference is not None:
        against = next(f for f in finalists if f.candidate == reference)
    rows = []
    for finalist in finalists:
        runs = replicates.get(finalist.candidate, {})
        own_means = means.get(finalist.candidate, {})
        mean, std = mean_and_std(list(own_means.values()))
        row = finalist.to_dict() | {
            "n": len(own_means),
            "mean": mean,
            "std": std,
            "per_proxy": {
                p: mean_and_std([one.heldout[i] for one in runs.values()]) for i, p in enumerate(proxies)
            },
            "validation": validation.get(finalist.candidate),
            "chosen": chosen.get(finalist.arm) == finalist,
            "versus": None,
        }
        if against is not None and against != finalist:
            found = Difference.between(own_means, means.get(against.candidate, {}))
            row["versus"] = {"name": against.name, "mean": found.mean, "std": found.std, "n": found.n}
        if sweeps is not None and finalist.candidate in sweeps:
            row |= sweeps[finalist.candidate].to_dict()
        if shares:
            row["data_shares"] = {f"{share:g}": _at_share(runs.values(), share, proxies) for share in shares}
        rows.append(row)
    return sorted(rows, key=lambda r: (-(r["mean"] if r["mean"] is not None else -math.inf), r["candidate"]))


def heldout_means(runs: Mapping[int, Replicate]) -> dict[int, float]:
    """Number of a training -> mean over proxies of its held-out scores."""
    return {r: fmean(one.heldout) for r, one in runs.items()}


def _at_share(runs: Iterable[Replicate], share: float, proxies: Sequence[str]) -> dict[str, Any]:
    """n, mean, std and per_proxy of the trainings on a share of the data."""
    found = [scores for one in runs if (scores := one.at_share(share)) is not None]
    mean, std = mean_and_std([fmean(scores) for scores in found])
    per_proxy = {p: mean_and_std([scores[i] for scores in found]) for i, p in enumerate(proxies)}
    return {"n": len(found), "mean": mean, "std": std, "per_proxy": per_proxy}
