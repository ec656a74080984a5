"""How far a run is, as a fold over its events: one picture for the live panel, `status` and the closing report."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from evonas.run.funnel_table import FunnelTable
from evonas.run.objectives import latency_source, vector
from evonas.run.schema import Event
from evonas.run.sweeps import ORIGIN

ARMS = ("search", "control")


@dataclass(slots=True)
class Scored:
    """A candidate with a finite score on every proxy."""

    candidate: int
    arm: str
    formula: str
    scores: tuple[float, ...]
    latency: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the proxies."""
        return fmean(self.scores)

    def to_dict(self, proxies: Iterable[str]) -> dict[str, Any]:
        """Plain values with the scores by proxy; ``latency_us`` where latency is an objective."""
        cost = {} if self.latency is None else {"latency_us": self.latency}
        return {
            "candidate": self.candidate,
            "arm": self.arm,
            "formula": self.formula,
            "scores": dict(zip(proxies, self.scores, strict=False)),
            "mean": self.mean,
            **cost,
        }


class Progress:
    """Counters of a run.

    Args:
        config: the run's settings as nested values; says how much there is to do.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        search = config.get("search", {})
        self.proxies = tuple(config.get("evaluation", {}).get("proxies", ()))
        #: in words, where latencies come from; None where they are no objective.
        self.latency_source = latency_source(config)
        self.arms = tuple(a for a in ARMS if a == "search" or search.get("control") != "none")
        self.baselines = len(search.get("baselines", ()))
        self.budget = int(search.get("candidates", 0))
        self.rerank = dict(config.get("rerank", {}))
        self.funnel = FunnelTable()
        self.events = self.next_candidate = 0
        self.dispatched: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.scored: dict[str, list[Scored]] = {"search": [], "control": [], "baseline": []}
        self.names: dict[int, str] = {}
        self.flights: dict[int, tuple[str, str]] = {}
        self._latencies: dict[int, float] = {}
        self.lost = self.resumes = self.replicates = self.sweeps = 0
        self._sweeping: set[int] = set()
        #: trainings on every proxy, with the steps of a final one, that a sweep is, and that a replicate is.
        self.sweep_size = len(self.rerank.get("lr_factors", ())) * float(self.rerank.get("sweep_budget", 1.0))
        self.replicate_size = 1 + sum(share < 1 for share in self.rerank.get("data_shares", ()))
        self.exhausted: set[str] = set()
        self.finalists: int | None = None
        self.ranking: list[dict[str, Any]] = []
        self.stopping: str | None = None
        self.ended = False
        self.first_ts: int | None = None
        self.last_ts: int | None = None
        #: work seconds of evaluations of the search, and of trainings of the re-ranking.
        self.work = {"funnel": 0.0, "rerank": 0.0}
        #: work seconds of the last candidates that were trained on every proxy.
        self.full: deque[float] = deque(maxlen=50)
        self._front: list[Scored] | None = None

    def add(self, event: Event) -> None:
        """Count one event."""
        self.events += 1
        if event.ts is not None:
            self.first_ts = event.ts if self.first_ts is None else self.first_ts
            self.last_ts = event.ts
        self.funnel.add(event)
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event)

    def _on_proposed(self, event: Event) -> None:
        assert event.candidate is not None
        self.next_candidate = event.candidate + 1
        if event.outcome != "dispatched":
            return
        arm = str(event.arm)
        self.dispatched[arm] += 1
        self.flights[event.candidate] = (arm, str(event.formula))
        self._note_latency(event)
        if event.origin == ORIGIN:
            self._sweeping.add(event.candidate)
        if arm == "baseline":
            self.names[event.candidate] = str(event.details().get("name", event.formula))

    def _on_attempt_lost(self, event: Event) -> None:
        self.lost += 1

    def _on_finished(self, event: Event) -> None:
        assert event.candidate is not None
        arm, formula = self.flights.pop(event.candidate, (str(event.arm), ""))
        self.finished[arm] += 1
        kind = "rerank" if arm == "rerank" else "funnel"
        self.work[kind] += event.seconds or 0.0
        if arm == "rerank":
            swept = event.candidate in self._sweeping
            self._sweeping.discard(event.candidate)
            self.sweeps += swept
            self.replicates += not swept
            return
        if arm != "baseline":
            self.outcomes[str(event.outcome)] += 1
        self._note_latency(event)
        latency = self._latencies.pop(event.candidate, None)
        if event.outcome == "scored" and event.scores is not None:
            scores = tuple(s for s in event.scores if s is not None)
            self.scored[arm].append(Scored(event.candidate, arm, formula, scores, latency))
            self.full.append(event.seconds or 0.0)
            if arm == "search":
                self._front = None

    def _note_latency(self, event: Event) -> None:
        if self.latency_source is None or event.candidate is None:
            return
        details = event.details()
        if "latency_us" in details:
            self._latencies[event.candidate] = details["latency_us"]
            self.latency_source = str(details.get("latency_source", self.latency_source))

    def _on_stopping(self, event: Event) -> None:
        if event.stage == "exhausted":
            self.exhausted.add(str(event.arm))
        else:
            self.stopping = event.stage

    def _on_interrupted(self, event: Event) -> None:
        self.stopping = "interrupt"

    def _on_resumed(self, event: Event) -> None:
        self.resumes += 1
        self.stopping = None
        more = event.details().get("candidates")
        if more is not None and more > self.budget:
            self.budget = int(more)
            self.finalists, self.ranking, self.ended = None, [], False
            self.replicates = self.sweeps = self.finished["rerank"] = self.dispatched["rerank"] = 0
            self.exhausted.clear()

    def _on_rerank_planned(self, event: Event) -> None:
        self.finalists = len(event.details()["finalists"])

    def _on_rerank_finished(self, event: Event) -> None:
        self.ranking = event.details()["ranking"]

    def _on_run_finished(self, event: Event) -> None:
        self.ended = True

    # -- views ----------------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """baselines, search, rerank or finished."""
        if self.ended:
            return "finished"
        if self.finalists is not None:
            return "rerank"
        return "baselines" if self.dispatched["baseline"] < self.baselines else "search"

    def front(self) -> list[Scored]:
        """Non-dominated scored candidates of the search arm, best mean first."""
        if self._front is None:
            from evonas.evolution import non_dominated

            rows = self.scored["search"]
            kept = (
                [rows[i] for i in non_dominated([vector(r.scores, r.latency) for r in rows])] if rows else []
            )
            self._front = sorted(kept, key=lambda r: (-r.mean, r.candidate))
        return self._front

    def best(self, arm: str = "search") -> Scored | None:
        """The scored candidate with the highest mean."""
        return max(self.scored[arm], key=lambda r: (r.mean, -r.candidate), default=None)

    def evaluations(self) -> int:
        """Evaluations that came back, baselines and re-ranking included."""
        return sum(self.finished.values())

    def planned(self) -> tuple[int, int]:
        """(evaluations of the search that are still to come back, replicates of the re-ranking likewise)."""
        if self.ended:
            return 0, 0
        funnel = self.baselines - self.finished["baseline"]
        for arm in self.arms:
            open_arm = arm not in self.exhausted and self.stopping is None and self.finalists is None
            goal = self.budget if open_arm else self.dispatched[arm]
            funnel += max(0, goal - self.finished[arm])
        return max(0, funnel), max(0, self._finalists() * int(self.rerank.get("seeds", 0)) - self.replicates)

    def _finalists(self) -> int:
        """How many there are, or are expected."""
        if self.finalists is not None:
            return self.finalists
        expected = int(self.rerank.get("top", 0)) + self.baselines
        return expected + (int(self.rerank.get("control_top", 0)) if len(self.arms) > 1 else 0)

    def sweeps_left(self) -> int:
        """Sweeps of the learning rate that are still to come back."""
        if self.ended or not self.sweep_size or not self.rerank.get("seeds", 0):
            return 0
        return max(0, self._finalists() - self.sweeps)

    def work_left(self) -> float | None:
        """Seconds of one slot that are still to be worked, None before anything came back.

        An evaluation is expected to take the mean so far, a training of the re-ranking ``rerank.budget`` times
        what a candidate takes that is trained on every proxy.
        """
        done = self.evaluations() - self.replicates - self.sweeps
        if not done:
            return None
        funnel, rerank = self.planned()
        each = self.work["funnel"] / done
        full = fmean(self.full) if self.full else each
        trained = self.replicates * self.replicate_size + self.sweeps * self.sweep_size
        final = self.work["rerank"] / trained if trained else full * float(self.rerank.get("budget", 1.0))
        return funnel * each + (rerank * self.replicate_size + self.sweeps_left() * self.sweep_size) * final

    def reranking(self) -> str:
        """How far the re-ranking is, in words."""
        text = f"{self.replicates} of {self.replicates + self.planned()[1]} trainings"
        if not self.sweep_size:
            return text
        return f"{self.sweeps} of {self.sweeps + self.sweeps_left()} learning-rate sweeps, {text}"

    def state(self) -> dict[str, Any]:
        """The counters as plain values, for JSON documents."""
        funnel, rerank = self.planned()
        return {
            "phase": self.phase,
            "events": self.events,
            "candidates_per_arm": self.budget,
            "proposed": self.next_candidate,
            "arms": {
                arm: {
                    "proposed": self.funnel.proposed[arm],
                    "dispatched": self.dispatched[arm],
                    "finished": self.finished[arm],
                    "scored": len(self.scored[arm]),
                }
                for arm in (*self.arms, "baseline")
            },
            "outcomes": dict(self.outcomes),
            "in_flight": sorted(self.flights),
            "attempts_lost": self.lost,
            "resumes": self.resumes,
            "evaluations_left": funnel,
            "rerank": {"finalists": self.finalists, "finished": self.replicates, "left": rerank}
            | ({"sweeps": {"finished": self.sweeps, "left": self.sweeps_left()}} if self.sweep_size else {}),
            "work_seconds": sum(self.work.values()),
        }


def read_progress(config: Mapping[str, Any], events: Iterable[Event]) -> Progress:
    """The progress of a run as its log tells it."""
    progress = Progress(config)
    for event in events:
        progress.add(event)
    return progress
