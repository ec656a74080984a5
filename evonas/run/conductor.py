"""The search as a fold over its events: a pure state machine without torch, processes, files or clocks.

``decide`` says what happens next in the present state, ``apply`` moves the state on by one event. A live run logs
and applies what it decides; a resumed run and a replay apply what the log holds and compare it with what they
would have decided. There is no other state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from evonas.errors import VerificationError
from evonas.evaluation.protocol import Outcome, Task
from evonas.evaluation.screening import Screen, ScreeningOptions, Verdict
from evonas.evolution import Proposal, can_still_matter, make_bar, make_strategy
from evonas.graph import Assembly, Graph, Part
from evonas.graph.slots import SLOTS
from evonas.layers import AssembledLayer, Layer, resolve_candidate
from evonas.rng import Draws, derive_seed
from evonas.run.finalists import Finalist, choose_finalists, rank_finalists
from evonas.run.finals import FinalTrainings, judged
from evonas.run.objectives import LatencyObjective, vector
from evonas.run.schema import Event, pack
from evonas.run.settings import Settings
from evonas.run.sweeps import ORIGIN, FinalistSweep, Replicate
from evonas.search_spaces import AnySpace

#: Kinds that the conductor decides by itself; all others tell it what happened outside.
DECISIONS = frozenset({"run_started", "proposed", "rerank_planned", "rerank_finished", "run_finished"})


#: Candidates that are looked at in one launch on a GPU.
LOOK_AHEAD = 64
#: Stages whose steps are together one training.
TRAINING = ("hurdle", "quality", "training")
#: Modelled latencies that a resume compares with today's model.
_SAMPLE = 16


def meaning(candidate: Layer | AssembledLayer) -> Graph | Assembly:
    """What a space encodes and checks. A layer with state keeps its name, which no space takes."""
    if isinstance(candidate, AssembledLayer):
        return candidate.assembly
    if candidate.stateful:
        return Assembly((Part(SLOTS, candidate.graph, candidate.affine, candidate.stateful),))
    return candidate.graph


class Arm:
    """One strategy with its memory and counters: the search, or the control beside it."""

    def __init__(self, name: str, strategy: str, space: AnySpace, settings: Settings) -> None:
        self.name = name
        search = settings.search
        options = settings.strategy if name == "search" else {}
        seeds = search.seeds if name == "search" else ()
        self._seeds = [
            space.encode(meaning(resolve_candidate(text)), Draws("seed", search.seed, i))
            for i, text in enumerate(seeds)
        ]
        self.strategy = make_strategy(strategy, space, search.seed, name, options)
        self.screen = Screen(space, ScreeningOptions(**asdict(settings.screening)))
        self.dispatched = 0
        self.finished = 0
        self.proposed = 0
        self.fruitless = 0
        self.scores: dict[int, tuple[float, ...]] = {}
        #: microseconds of the scored candidates, where latency is an objective.
        self.latencies: dict[int, float] = {}
        self.formulas: dict[int, str] = {}

    def ask(self, candidate: int) -> Proposal:
        """The seeds first, then what the strategy proposes."""
        if self.proposed < len(self._seeds):
            return Proposal(self._seeds[self.proposed], "seed")
        return self.strategy.ask(candidate)

    def look_ahead(self, candidate: int, genotype: bytes) -> None:
        """Before a candidate is judged that the screen has not looked at: look at those that come next as well.

        They are what the strategy would propose if nobody survived until then. Asking it changes nothing.
        """
        if not self.screen.looked_at(genotype):
            self.screen.look_ahead(self.ask(candidate + n).genotype for n in range(LOOK_AHEAD))

    def objectives(self, candidate: int) -> tuple[float, ...] | None:
        """What the strategy is told of a scored candidate; None of another."""
        scores = self.scores.get(candidate)
        return None if scores is None else vector(scores, self.latencies.get(candidate))

    @property
    def selection(self) -> str:
        """The tournament's selection rule, which the bar follows."""
        return str(getattr(getattr(self.strategy, "options", None), "selection", "pareto"))


@dataclass(slots=True)
class Flight:
    """A candidate that has been sent out and not come back."""

    arm: str
    task: Task
    genotype: bytes | None = None
    parent: int | None = None
    replicate: int = 0
    #: microseconds by the model, where that is an objective.
    latency: float | None = None


class Conductor:
    """All state of a search.

    Args:
        settings: what decisions depend on.
        space: built from these settings.
    """

    def __init__(self, settings: Settings, space: AnySpace) -> None:
        self.settings = settings
        self.space = space
        self.proxies = settings.evaluation.proxies
        self.budget = settings.search.candidates
        self.arms = {"search": Arm("search", settings.search.strategy, space, settings)}
        if settings.search.control != "none":
            self.arms["control"] = Arm("control", settings.search.control, space, settings)
        layout = space.layout.name
        self.baselines = [resolve_candidate(text).laid_out(layout) for text in settings.search.baselines]
        self.baseline_ids: dict[int, str] = {}
        self.baseline_scores: dict[int, tuple[float, ...]] = {}
        self.baseline_latencies: dict[int, float] = {}
        #: seconds of the trainings of those that were scored.
        self.baseline_seconds: dict[int, float] = {}
        self.latency = LatencyObjective(
            settings.search.objectives, settings.search.latency, space.layout.name
        )
        self._modelled: list[tuple[str, float]] = []
        self.flights: dict[int, Flight] = {}
        self.next_candidate = 0
        self.events = 0
        self.started = self.finished = False
        self.stopping: str | None = None
        self.exhausted: set[str] = set()
        self.finalists: list[Finalist] | None = None
        self.replicates: dict[int, dict[int, Replicate]] = {}
        self._planned: list[tuple[Finalist, int]] = []
        self._unswept: list[Finalist] = []
        self.sweeps: dict[int, FinalistSweep] = {}
        self._judged: tuple[int, Verdict] | None = None
        self._finals = FinalTrainings.of(settings)
        self.ranking: list[dict[str, Any]] | None = None
        self.outcomes: dict[str, int] = {}

    # -- decisions ----------------------------------------------------------------------------------

    def decide(self, room: bool = True) -> Event | None:
        """The next event that follows from the state alone, or None: something must come back first.

        ``room`` says whether another candidate may be sent out now.
        """
        if not self.started:
            return self._start()
        if self.finished or self.stopping == "interrupt":
            return None
        if self.finalists is None:
            if len(self.baseline_ids) < len(self.baselines):
                return self._baseline() if room else None
            arm = self._next_arm()
            if arm is not None:
                return self._proposal(arm) if room else None
            return None if self.flights else self._plan()
        if self.stopping != "rerank" and self._unswept:
            return self._sweep() if room else None
        if self.stopping != "rerank" and self._planned and self._swept(self._planned[0][0]):
            return self._replicate() if room else None
        if self.flights:
            return None
        return self._rank() if self.ranking is None else self._finish()

    def _start(self) -> Event:
        settings, space = self.settings.deciding(), self.space.identity()
        detail = {"settings": settings, "space": space, "proxies": list(self.proxies)}
        return Event("run_started", detail=pack(detail))

    def _next_arm(self) -> Arm | None:
        """The arm that is furthest behind; none once all have their budget or the run is stopping."""
        if self.stopping:
            return None
        open_arms = [
            a for a in self.arms.values() if a.dispatched < self.budget and a.name not in self.exhausted
        ]
        return min(open_arms, key=lambda a: a.dispatched, default=None)

    def exhausted_arm(self) -> str | None:
        """An arm that has proposed too long without anything new, for the driver to log."""
        limit = self.settings.search.exhausted_after
        for arm in self.arms.values():
            if arm.fruitless >= limit and arm.name not in self.exhausted:
                return arm.name
        return None

    def _baseline(self) -> Event:
        layer = self.baselines[len(self.baseline_ids)]
        name = layer.name if layer.name != "layer" else layer.text
        return Event(
            "proposed", arm="baseline", candidate=self.next_candidate, attempt=1, origin="baseline",
            digest=bytes.fromhex(layer.digest), formula=layer.text, outcome="dispatched",
            detail=pack({"name": name, **self.latency.detail(layer.formula)}),
        )  # fmt: skip

    def _proposal(self, arm: Arm) -> Event:
        candidate = self.next_candidate
        proposal = arm.ask(candidate)
        arm.look_ahead(candidate, proposal.genotype)
        verdict = arm.screen.judge(proposal.genotype)
        self._judged = (candidate, verdict)
        base = Event(
            "proposed", arm=arm.name, candidate=candidate, parent=proposal.parent, origin=proposal.origin,
            genotype=proposal.genotype, digest=verdict.digest,
        )  # fmt: skip
        if verdict.stage is not None:
            known = {"twin": verdict.twin, "evidence": verdict.evidence}
            detail = pack({k: v for k, v in known.items() if v is not None}) or None
            return base._replace(
                outcome="rejected", stage=verdict.stage, reason=verdict.reason, detail=detail
            )
        formula = str(self.space.graph(proposal.genotype))
        cost = self.latency.detail(formula)
        return base._replace(
            outcome="dispatched", attempt=1, formula=formula, detail=pack(cost) if cost else None
        )

    def _plan(self) -> Event:
        finalists = choose_finalists(self)
        detail = {"finalists": [f.to_dict() for f in finalists], "seeds": self.settings.rerank.seeds}
        return Event("rerank_planned", arm="rerank", detail=pack(detail))

    def _sweep(self) -> Event:
        finalist = self._unswept[0]
        return Event(
            "proposed", arm="rerank", candidate=self.next_candidate, attempt=1, parent=finalist.candidate,
            origin=ORIGIN, formula=finalist.formula, outcome="dispatched",
            detail=pack({"lr_factors": list(self.settings.rerank.lr_factors)}),
        )  # fmt: skip

    def _swept(self, finalist: Finalist) -> bool:
        """Whether the learning rates of a finalist's trainings are known."""
        return not self.settings.rerank.lr_factors or finalist.candidate in self.sweeps

    def _replicate(self) -> Event:
        finalist, replicate = self._planned[0]
        detail: dict[str, Any] = {"replicate": replicate}
        if finalist.candidate in self.sweeps:
            detail["lr"] = self.sweeps[finalist.candidate].lr
        return Event(
            "proposed", arm="rerank", candidate=self.next_candidate, attempt=1, parent=finalist.candidate,
            origin="rerank", formula=finalist.formula, outcome="dispatched", detail=pack(detail),
        )  # fmt: skip

    def _rank(self) -> Event:
        assert self.finalists is not None
        ranking = rank_finalists(
            self.finalists, self.replicates, self.proxies,
            self.sweeps if self.settings.rerank.lr_factors else None, self._finals.shares,
        )  # fmt: skip
        return Event("rerank_finished", arm="rerank", detail=pack({"ranking": ranking}))

    def _finish(self) -> Event:
        valid = sum(len(arm.scores) for arm in self.arms.values())
        return Event("run_finished", outcome="valid" if valid else "empty", detail=pack({"valid": valid}))

    # -- what happened outside ----------------------------------------------------------------------

    def answer(self, outcome: Outcome) -> Event | None:
        """The event that an outcome becomes; None for a late answer of a superseded attempt."""
        flight = self.flights.get(outcome.candidate)
        if flight is None or flight.task.attempt != outcome.attempt:
            return None
        base = Event(
            "finished", arm=flight.arm, candidate=outcome.candidate, attempt=outcome.attempt,
            parent=flight.parent, seconds=outcome.seconds,
        )  # fmt: skip
        if outcome.status == "lost":
            if outcome.attempt < self.settings.evaluation.attempts:
                return base._replace(kind="attempt_lost", outcome="lost", reason=outcome.reason)
            times = f"lost {outcome.attempt} times, last: {outcome.reason}"
            return base._replace(outcome="failed", stage="evaluation", reason=times)
        status, reason, scores = judged(outcome, self.proxies)
        told: dict[str, Any] = {"reports": [asdict(r) for r in outcome.reports], "peak_rss": outcome.peak_rss}
        if self.latency.measured and status == "scored" and flight.arm != "rerank":
            time = outcome.latency_us
            if time is None or not 0 < time < math.inf:
                status, reason = (
                    "failed",
                    f"the evaluator measured a latency of {time}, needed are microseconds",
                )
            else:
                told |= {"latency_us": time, "latency_source": outcome.latency_source or "measured"}
        detail = pack(told)
        stage = outcome.stage or ("evaluation" if status == "failed" else None)
        shown = scores if any(s is not None for s in scores) else None
        return base._replace(outcome=status, stage=stage, reason=reason, scores=shown, detail=detail)

    def task(self, candidate: int) -> Task:
        """What is sent out for a candidate in flight."""
        return self.flights[candidate].task

    # -- the fold -----------------------------------------------------------------------------------

    def check(self, event: Event) -> None:
        """Compare a logged event with what the state says must happen.

        Raises:
            VerificationError: naming the event and the fields that differ.
        """
        where = f"event {event.seq} ({event.kind}" + (
            f", candidate {event.candidate})" if event.candidate is not None else ")"
        )
        if event.kind in DECISIONS:
            expected = self.decide()
            if expected is None:
                raise VerificationError(f"{where} is logged, but nothing was to be decided then")
            different = expected.differences(event)
            if different:
                lines = [
                    f"  {n}: logged {getattr(event, n)!r}, replayed {getattr(expected, n)!r}"
                    for n in different
                ]
                raise VerificationError(f"{where} differs from the replayed decision\n" + "\n".join(lines))
        elif event.kind in ("finished", "attempt_lost"):
            self._check_answer(event, where)
        elif event.kind == "resumed" and event.details()["state"] != self.state_digest():
            raise VerificationError(
                f"{where} went on from another state than the one that the events before it give"
            )
        elif event.stage == "exhausted" and event.arm != self.exhausted_arm():
            raise VerificationError(f"{where} ended arm {event.arm!r}, which was not exhausted")

    def _check_answer(self, event: Event, where: str) -> None:
        flight = self.flights.get(event.candidate if event.candidate is not None else -1)
        if flight is None or flight.task.attempt != event.attempt:
            raise VerificationError(f"{where} answers an attempt that is not in flight")
        if event.stage == "matter" and event.outcome == "rejected":
            known = {p: s for p, s in zip(self.proxies, event.scores or (), strict=False) if s is not None}
            if can_still_matter(known, self.proxies, flight.task.bar)[0]:
                raise VerificationError(
                    f"{where} was dropped before its last proxy although it could still matter"
                )

    def apply(self, event: Event) -> None:
        """Move the state on by one event, decided here or read from a log."""
        self.events += 1
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(event)

    def _on_run_started(self, event: Event) -> None:
        self.started = True

    def _on_proposed(self, event: Event) -> None:
        assert event.candidate is not None
        candidate = event.candidate
        self.next_candidate = candidate + 1
        if event.arm == "baseline":
            self.baseline_ids[candidate] = str(event.details()["name"])
            self._fly(event, self._task(event, None))
        elif event.arm == "rerank":
            self._on_training(event, candidate)
        else:
            self._on_candidate(event, candidate)

    def _on_training(self, event: Event, candidate: int) -> None:
        """A sweep, whose seed is none of the replicates', or a replicate."""
        if event.origin == ORIGIN:
            self._unswept.pop(0)
            self._fly(event, self._finals.sweep(candidate, str(event.formula)))
            return
        _, replicate = self._planned.pop(0)
        lr = event.details().get("lr")
        self._fly(event, self._finals.final(candidate, str(event.formula), replicate, lr))
        self.flights[candidate].replicate = replicate

    def _on_candidate(self, event: Event, candidate: int) -> None:
        arm = self.arms[str(event.arm)]
        genotype = event.genotype or b""
        arm.proposed += 1
        judged = self._judged if self._judged and self._judged[0] == candidate else None
        verdict = judged[1] if judged else arm.screen.judge(genotype)
        arm.screen.remember(genotype, verdict, candidate)
        if event.outcome == "dispatched":
            arm.dispatched += 1
            arm.fruitless = 0
            arm.formulas[candidate] = str(event.formula)
            self._fly(event, self._task(event, self._bar(arm, event.details().get("latency_us"))))
            return
        arm.fruitless += 1
        twin = verdict.twin
        arm.strategy.tell(candidate, genotype, arm.objectives(twin) if twin is not None else None, twin=twin)

    def _bar(self, arm: Arm, latency: float | None) -> Mapping[str, Any] | None:
        """None where everything matters: also as long as a latency is not known that an incumbent could beat."""
        matter = asdict(self.settings.matter)
        if not matter.pop("enabled") or (self.latency.on and latency is None):
            return None
        given = () if latency is None else (-latency,)
        return make_bar(arm.strategy.population(), arm.selection, given=given, **matter)

    def _task(self, event: Event, bar: Mapping[str, Any] | None) -> Task:
        """The way of a candidate or baseline through the funnel."""
        assert event.candidate is not None
        settings = self.settings
        return Task(
            event.candidate, str(event.formula), arm=str(event.arm),
            seed=derive_seed("evaluation", settings.search.seed), bar=bar,
            deadline_s=settings.evaluation.deadline_s,
        )  # fmt: skip

    def _fly(self, event: Event, task: Task) -> None:
        """Send a candidate out."""
        assert event.candidate is not None
        latency = event.details().get("latency_us") if self.latency.modelled else None
        self.flights[event.candidate] = Flight(
            str(event.arm), task, event.genotype, event.parent, latency=latency
        )
        if latency is not None and len(self._modelled) < _SAMPLE:
            self._modelled.append((str(event.formula), latency))

    def _on_attempt_lost(self, event: Event) -> None:
        assert event.candidate is not None
        flight = self.flights[event.candidate]
        values = flight.task.to_dict() | {"attempt": flight.task.attempt + 1}
        flight.task = Task.from_dict(values)

    def _on_finished(self, event: Event) -> None:
        assert event.candidate is not None
        candidate = event.candidate
        flight = self.flights.pop(candidate)
        scores = tuple(event.scores or ()) if event.outcome == "scored" else None
        complete: tuple[float, ...] | None = scores  # type: ignore[assignment]
        if flight.arm == "rerank":
            assert flight.parent is not None
            reports = event.details().get("reports", ())
            if flight.task.mode == "sweep":
                self.sweeps[flight.parent] = FinalistSweep.read(event.outcome, reports, self.proxies)
            elif complete is not None:
                found = Replicate.read(complete, reports, self.proxies, self._finals.shares)
                self.replicates.setdefault(flight.parent, {})[flight.replicate] = found
            return
        self.outcomes[str(event.outcome)] = self.outcomes.get(str(event.outcome), 0) + 1
        latency = event.details().get("latency_us") if self.latency.measured else flight.latency
        if complete is not None and self.latency.on and latency is None:
            raise VerificationError(f"event {event.seq}: candidate {candidate} was scored without a latency")
        if flight.arm == "baseline":
            if complete is not None:
                self.baseline_scores[candidate] = complete
                self.baseline_seconds[candidate] = sum(
                    r["seconds"] for r in event.details().get("reports", ()) if r["stage"] in TRAINING
                )
            if latency is not None:
                self.baseline_latencies[candidate] = latency
            return
        arm = self.arms[flight.arm]
        arm.finished += 1
        if complete is not None:
            arm.scores[candidate] = complete
            if latency is not None:
                arm.latencies[candidate] = latency
        else:
            arm.formulas.pop(candidate, None)
        arm.strategy.tell(candidate, flight.genotype or b"", arm.objectives(candidate))

    def _on_stopping(self, event: Event) -> None:
        if event.stage == "exhausted":
            self.exhausted.add(str(event.arm))
        elif self.stopping != "interrupt":
            self.stopping = str(event.stage)

    def _on_resumed(self, event: Event) -> None:
        """A stop by the user or the clock is forgotten; ``candidates`` opens a search that has ended again."""
        self.stopping = None
        self._judged = None
        candidates = event.details().get("candidates")
        if candidates is not None:
            if candidates > self.budget:
                self.exhausted.clear()
                for arm in self.arms.values():
                    arm.fruitless = 0
            self.budget = max(self.budget, int(candidates))
            self.finished, self.finalists, self.ranking = False, None, None
            self._planned, self.replicates = [], {}
            self._unswept, self.sweeps = [], {}

    def _on_rerank_planned(self, event: Event) -> None:
        detail = event.details()
        self.finalists = [Finalist(**f) for f in detail["finalists"]]
        self._planned = [(f, r) for r in range(detail["seeds"]) for f in self.finalists]
        self._unswept = list(self.finalists) if self.settings.rerank.lr_factors else []

    def _on_rerank_finished(self, event: Event) -> None:
        self.ranking = event.details()["ranking"]

    def _on_run_finished(self, event: Event) -> None:
        self.finished = True

    # -- views --------------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """baselines, search, rerank or finished."""
        if self.finished:
            return "finished"
        if self.finalists is not None:
            return "rerank"
        return "baselines" if len(self.baseline_ids) < len(self.baselines) else "search"

    def short_of_budget(self) -> bool:
        """Whether a search that has ended was cut short: by the clock, not because an arm had nothing new."""
        return any(a.dispatched < self.budget and a.name not in self.exhausted for a in self.arms.values())

    def latency_drift(self) -> str | None:
        """Where today's model of latency differs from the logged values, in words; None if it does not."""
        for formula, logged in self._modelled:
            now = self.latency.model(formula)
            if not math.isclose(now, logged, rel_tol=1e-9):
                return f"the model of latency gives {now:.1f} us for {formula}, it was {logged:.1f} us"
        return None

    def replicates_left(self) -> int:
        """Re-ranking trainings that are planned and not sent out, a sweep counted as one."""
        return len(self._planned) + len(self._unswept)

    def rerank_seconds(self) -> float:
        """Seconds for which two seeds of every finalist, or the one that is asked for, will keep one slot busy, by
        the trainings of the baselines; 0 if none is known. Only the clock's owner asks: no decision depends on it."""
        if not self.baseline_seconds:
            return 0.0
        rerank = self.settings.rerank
        finalists = rerank.top + len(self.baselines) + (rerank.control_top if "control" in self.arms else 0)
        return finalists * self._finals.work(min(2, rerank.seeds)) * fmean(self.baseline_seconds.values())

    def waiting(self) -> Iterator[Task]:
        """Tasks in flight, by candidate id: what a resumed run sends out again."""
        for candidate in sorted(self.flights):
            yield self.flights[candidate].task

    def state_digest(self) -> str:
        """A digest of what future decisions depend on."""
        flights = sorted((c, f.arm, f.task.attempt) for c, f in self.flights.items())
        parts: list[Any] = [
            self.next_candidate,
            self.phase,
            self.budget,
            self.stopping,
            sorted(self.exhausted),
            flights,
        ]
        parts += [sorted(self.baseline_scores.items()), sorted(self.replicates.items()), len(self._planned)]
        if self.settings.rerank.lr_factors:
            swept = sorted(
                (candidate, sorted(sweep.points.items())) for candidate, sweep in self.sweeps.items()
            )
            parts += [swept, len(self._unswept)]
        if self.latency.on:
            parts.append(sorted(self.baseline_latencies.items()))
        for arm in self.arms.values():
            parts += [arm.name, arm.dispatched, arm.finished, arm.proposed, arm.fruitless, len(arm.screen)]
            parts.append(arm.strategy.state_digest())
        return hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=16).hexdigest()
