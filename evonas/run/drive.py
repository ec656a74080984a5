"""The drive loop: log what the conductor decides, send candidates out, log what comes back."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

from evonas.errors import EnvironmentUnusable
from evonas.evaluation.protocol import Task
from evonas.run.backends.base import Backend
from evonas.run.conductor import Conductor
from evonas.run.log import EventLog
from evonas.run.schema import Event, pack

#: Rejected proposals in a row after which the loop looks for answers and at the clock.
_LOOK_UP = 500
#: Of the time after the baselines, that the re-ranking is given at most, however long it takes.
_RERANK_AT_MOST = 0.7
#: Evaluations that must not all fail before anything else came back.
BREAKER = 10


class Observer(Protocol):
    """Watches a run: a panel, a progress line, a test. Nothing it does changes the run."""

    def event(self, event: Event) -> None:
        """One event was logged and applied."""

    def tick(self, driver: Driver) -> None:
        """Called several times a second."""


class Driver:
    """One session of a run, live.

    Args:
        conductor: in the state that the log describes.
        log: open for writing.
        backend: started.
        max_time_s: 0 for none; a share ``rerank_share`` of it is kept for the re-ranking, or more: see ``kept``.
        patience: slots per processor, if that is above one: deadlines are longer by this factor.
    """

    def __init__(
        self,
        conductor: Conductor,
        log: EventLog,
        backend: Backend,
        *,
        observers: tuple[Observer, ...] = (),
        max_time_s: float = 0.0,
        rerank_share: float = 0.0,
        patience: float = 1.0,
    ) -> None:
        self.conductor = conductor
        self.log = log
        self.backend = backend
        self.observers = observers
        self.max_time_s = max_time_s
        self.rerank_share = rerank_share
        self.started = time.monotonic()
        #: when the last baseline was sent out, 0 in a session that began behind it
        self._baselines_s = 0.0
        self.interrupts = 0
        self._held: list[Event] = []
        self._works = False
        self.patience = patience
        self._sent = 0
        self._more = False

    @property
    def elapsed(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self.started

    def interrupt(self) -> None:
        """First call: nothing new is sent out, the run ends when everything is back. Second: it ends now."""
        self.interrupts += 1

    def record(self, event: Event) -> None:
        """Log and apply."""
        self.log.append(event)
        self.conductor.apply(event)
        for observer in self.observers:
            observer.event(event)

    def run(self) -> str:
        """Drive to the end; returns "finished" or "interrupted".

        Raises:
            EnvironmentUnusable: the log cannot be written, slots cannot be started, or everything fails.
        """
        conductor = self.conductor
        resend = list(conductor.waiting())
        while True:
            self._stop_if_due()
            room = 0 if self.interrupts else self._room()
            tasks, resend = resend[:room], resend[room:]
            self._sent += len(tasks)
            tasks += self._decide()
            self.log.flush()
            if tasks:
                self.backend.submit([self._patient(t) for t in tasks])
            if conductor.finished:
                return "finished"
            if self._held and not self._sent and not tasks and not resend:
                self._release()
                continue
            if self.interrupts > 1 or (self.interrupts and not self._sent):
                self.record(Event("interrupted", detail=pack({"in_flight": sorted(conductor.flights)})))
                self.log.flush()
                return "interrupted"
            self._collect()
            for observer in self.observers:
                observer.tick(self)

    def _room(self) -> int:
        """How many more tasks may go out now, counting those in flight as sent."""
        return max(0, self.backend.capacity * self.backend.depth - self._sent)

    def _decide(self) -> list[Task]:
        """Log decisions until there is none or no room; returns what is to be sent out."""
        tasks: list[Task] = []
        conductor = self.conductor
        rejected, self._more = 0, False
        while not self.interrupts:
            event = conductor.decide(room=self._room() > 0)
            if event is None:
                break
            self.record(event)
            if event.outcome == "dispatched" and event.candidate is not None:
                tasks.append(conductor.task(event.candidate))
                self._sent += 1
            elif event.kind == "proposed":
                rejected += 1
                arm = conductor.exhausted_arm()
                if arm is not None:
                    reason = "no new candidate among the last proposals"
                    self.record(Event("stopping", arm=arm, stage="exhausted", reason=reason))
                if rejected == _LOOK_UP:
                    self._more = True
                    break
            if conductor.finished:
                break
        return tasks

    def _patient(self, task: Task) -> Task:
        """Deadlines are for a processor of its own: slots that share one get as much longer."""
        return dataclasses.replace(task, deadline_s=task.deadline_s * self.patience)

    def _collect(self) -> None:
        for outcome in self.backend.poll(0.0 if self._more or not self._sent else 0.2):
            self._sent -= 1
            event = self.conductor.answer(outcome)
            if event is None:
                continue
            if event.outcome == "failed" and not self._works:
                self._hold(event)
                continue
            if event.kind == "finished":
                self._works = True
                self._release()
            self.record(event)
            if event.kind == "attempt_lost" and event.candidate is not None:
                self.backend.submit([self._patient(self.conductor.task(event.candidate))])
                self._sent += 1

    def _release(self) -> None:
        """Log the failures that were held back: they are the candidates' own."""
        for event in self._held:
            self.record(event)
        self._held.clear()

    def _hold(self, event: Event) -> None:
        """Until something works, failures may be the machine's: they are not held against the candidates yet.

        Those that are held when the run stops are in flight in the log and are evaluated again by a resume.
        """
        self._held.append(event)
        if len(self._held) >= BREAKER:
            self.log.flush()
            raise EnvironmentUnusable(
                f"each of the first {len(self._held)} evaluations failed, the last with: {event.reason}",
                hint="`evonas doctor` checks the machine; the run can be resumed and evaluates them again",
            )

    def _due(self) -> str | None:
        """The stop that the clock or the user asks for now and that is not logged yet."""
        conductor = self.conductor
        if conductor.phase == "baselines":
            self._baselines_s = self.elapsed
        if self.interrupts and conductor.stopping != "interrupt":
            return "interrupt"
        if not self.max_time_s or conductor.stopping in ("interrupt", "rerank"):
            return None
        if self.elapsed >= self.max_time_s and conductor.phase == "rerank":
            return "rerank"
        if self.elapsed >= self.max_time_s - self.kept and conductor.phase in (
            "search",
            "baselines",
        ):
            return None if conductor.stopping == "search" else "search"
        return None

    @property
    def kept(self) -> float:
        """Seconds of ``max_time_s`` for the re-ranking: its share, or what two seeds of every finalist need by the
        baselines' trainings if that is more, so that every score has a spread; then up to 70 % of what the baselines
        left."""
        share = self.rerank_share * self.max_time_s
        if not share or self.conductor.phase == "baselines":
            return share
        needed = self.conductor.rerank_seconds() / max(1, self.backend.capacity)
        return max(share, min(needed, _RERANK_AT_MOST * (self.max_time_s - self._baselines_s)))

    def _stop_if_due(self) -> None:
        stage = self._due()
        if stage is not None:
            reason = "interrupted by the user" if stage == "interrupt" else "time limit"
            self.record(Event("stopping", stage=stage, reason=reason))
