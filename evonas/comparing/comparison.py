"""What a comparison found: its rows, computed from its single trainings, and its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evonas.comparing.contestants import Contestant
from evonas.comparing.training import Training, replicates_of, sweeps_of
from evonas.run.finalists import Finalist, heldout_means, rank_finalists
from evonas.run.finals import FinalTrainings
from evonas.run.paired import LEVEL, Difference, critical
from evonas.run.settings import Settings
from evonas.run.sweeps import Replicate


def configuration(settings: Settings) -> dict[str, Any]:
    """The settings that a comparison's numbers depend on, as nested plain values."""
    full = settings.to_dict()
    rerank = {
        name: full["rerank"][name]
        for name in ("seeds", "budget", "lr_factors", "sweep_budget", "data_shares")
    }
    return {
        "search": {"seed": settings.search.seed},
        "evaluation": full["evaluation"],
        "rerank": rerank,
        "plugins": [dict(plugin) for plugin in settings.plugins],
    }


@dataclass(frozen=True)
class Comparison:
    """Layers, trained alike with paired seeds.

    settings: of all trainings. contestants: the layers, in the order given. reference: number of the one that the
    others are compared with. trainings: what has come back, in that order.
    """

    settings: Settings
    contestants: Sequence[Contestant]
    reference: int
    trainings: Sequence[Training]

    @property
    def proxies(self) -> tuple[str, ...]:
        """Names, in the order of the columns."""
        return self.settings.evaluation.proxies

    @property
    def seeds(self) -> int:
        """Trainings per layer that were asked for."""
        return self.settings.rerank.seeds

    @property
    def planned(self) -> int:
        """Sweeps and final trainings that were asked for."""
        return len(self.contestants) * (self.seeds + bool(self.settings.rerank.lr_factors))

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has come back, scored or not."""
        return len(self.trainings) == self.planned

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row per layer, best held-out mean first: those of a run's final table, ``rank_finalists``, and

        - scores: proxy -> held-out score by number of the training, None where there is none;
        - differences: proxy, and "mean" for the mean over proxies -> ``Difference`` to the reference over the
          trainings that both have, None for the reference itself;
        - wins: how often the layer is above, level with and below the reference, over trainings and proxies;
        - diverged, failed: which trainings lost their way or have no score, and why.
        """
        shares = FinalTrainings.of(self.settings).shares
        replicates = replicates_of(self.trainings, self.proxies, shares)
        swept = sweeps_of(self.trainings, self.proxies) if self.settings.rerank.lr_factors else None
        finalists = [Finalist(i, "layer", c.name, c.text) for i, c in enumerate(self.contestants)]
        ranked = rank_finalists(finalists, replicates, self.proxies, swept, shares, reference=self.reference)
        return [row | self._more(row["candidate"], replicates) for row in ranked]

    def _more(self, layer: int, replicates: dict[int, dict[int, Replicate]]) -> dict[str, Any]:
        own, theirs = replicates.get(layer, {}), replicates.get(self.reference, {})
        by_proxy = {p: {r: one.heldout[i] for r, one in own.items()} for i, p in enumerate(self.proxies)}
        differences: dict[str, Any] | None = None
        wins: dict[str, int] | None = None
        if layer != self.reference:
            found = {
                p: Difference.between(by_proxy[p], {r: one.heldout[i] for r, one in theirs.items()})
                for i, p in enumerate(self.proxies)
            }
            wins = {w: sum(getattr(d, w) for d in found.values()) for w in ("wins", "ties", "losses")}
            found["mean"] = Difference.between(heldout_means(own), heldout_means(theirs))
            differences = {name: d.to_dict() for name, d in found.items()}
        mine = [t for t in self.trainings if t.layer == layer]
        return {
            "reference": layer == self.reference,
            "scores": {p: [by_proxy[p].get(r) for r in range(self.seeds)] for p in self.proxies},
            "differences": differences,
            "wins": wins,
            "diverged": [
                {"seed": t.replicate, "proxy": p, "step": step}
                for t in mine
                for p, step in t.diverged.items()
            ],
            "failed": [
                {"seed": t.replicate, "outcome": t.outcome, "reason": t.reason}
                for t in mine
                if t.outcome != "scored"
            ],
        }

    def to_dict(self) -> dict[str, Any]:
        """The document: everything that is known, single trainings included."""
        seeds = max((row["n"] for row in self.rows), default=0)
        return {
            "status": "complete" if self.complete else "incomplete",
            "settings": configuration(self.settings),
            "layers": [one.to_dict() for one in self.contestants],
            "reference": self.contestants[self.reference].name,
            "proxies": list(self.proxies),
            "level": LEVEL,
            "standard_errors": critical(seeds - 1) if seeds > 1 else None,
            "ranking": self.rows,
            "trainings": [t.to_dict() for t in self.trainings],
        }

    def plot(self) -> str:
        """The picture as SVG: every score, means, and paired differences with their intervals."""
        from evonas.comparing.picture import comparison_svg

        return comparison_svg(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.plot()

    def __repr__(self) -> str:
        known = [f"{row['name']} {row['mean']:.3f}" for row in self.rows if row["mean"] is not None]
        state = "" if self.complete else f", {len(self.trainings)} of {self.planned} trainings"
        return f"<Comparison: {', '.join(known) or 'no scores'}{state}>"
