"""Runs the trainings of a comparison on evaluation slots, those that are missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from evonas.comparing.comparison import Comparison
from evonas.comparing.training import Training, sweeps_of
from evonas.evaluation.protocol import Outcome, Task
from evonas.run.backends import Backend
from evonas.run.finals import FinalTrainings
from evonas.run.session import backend_for, patience

#: Called with every training that has come back, and the comparison as it is then.
Listener = Callable[[Training, Comparison], None]


class _Flight(NamedTuple):
    layer: int
    replicate: int | None
    task: Task


class Bench:
    """The trainings of a comparison: first a sweep of every layer, then training number 0 of every layer, 1, ...

    A layer is trained as soon as its own sweep is back. What came back is in ``trainings`` at any time.

    Args:
        comparison: what to train, and what has been trained already.
    """

    def __init__(self, comparison: Comparison, listener: Listener | None = None) -> None:
        self._begun = comparison
        self._listener = listener
        self.trainings = list(comparison.trainings)
        self._finals = FinalTrainings.of(comparison.settings)
        self._patience = patience(comparison.settings)
        known = {(t.layer, t.replicate) for t in self.trainings}
        layers = range(len(comparison.contestants))
        finals = [(i, r) for r in range(comparison.seeds) for i in layers if (i, r) not in known]
        sweeps = [(i, None) for i in layers if (i, None) not in known]
        self._waiting: list[tuple[int, int | None]] = [*(sweeps if self._finals.lr_factors else []), *finals]
        self._flights: dict[int, _Flight] = {}
        self._sent = 0

    @property
    def comparison(self) -> Comparison:
        """What is known now."""
        return dataclasses.replace(self._begun, trainings=tuple(self.trainings))

    def run(self) -> Comparison:
        """Train what is missing.

        Raises:
            EnvironmentUnusable: slots cannot be started. KeyboardInterrupt: as it came; ``comparison`` has the rest.
        """
        if not self._waiting:
            return self.comparison
        backend = backend_for(self._begun.settings)
        try:
            backend.start()
            while self._waiting or self._flights:
                room = backend.capacity * backend.depth - len(self._flights)
                backend.submit(self._tasks(room))
                for outcome in backend.poll(0.2):
                    self._answer(outcome, backend)
        finally:
            backend.close(now=True)
        return self.comparison

    def _tasks(self, room: int) -> list[Task]:
        """The next ones that may go out, in order."""
        tasks: list[Task] = []
        swept = sweeps_of(self.trainings, self._begun.proxies)
        for layer, replicate in list(self._waiting):
            if len(tasks) >= room:
                break
            text = self._begun.contestants[layer].text
            if replicate is None:
                task = self._finals.sweep(self._sent, text)
            elif self._finals.lr_factors and layer not in swept:
                continue
            else:
                lr = swept[layer].lr if layer in swept else None
                task = self._finals.final(self._sent, text, replicate, lr)
            task = dataclasses.replace(task, deadline_s=task.deadline_s * self._patience)
            self._waiting.remove((layer, replicate))
            self._flights[self._sent] = _Flight(layer, replicate, task)
            self._sent += 1
            tasks.append(task)
        return tasks

    def _answer(self, outcome: Outcome, backend: Backend) -> None:
        flight = self._flights.pop(outcome.candidate)
        attempts = self._begun.settings.evaluation.attempts
        if outcome.status == "lost" and outcome.attempt < attempts:
            again = dataclasses.replace(flight.task, attempt=outcome.attempt + 1)
            self._flights[outcome.candidate] = flight._replace(task=again)
            backend.submit([again])
            return
        if outcome.status == "lost":
            reason = f"lost {outcome.attempt} times, last: {outcome.reason}"
            outcome = dataclasses.replace(outcome, status="failed", reason=reason)
        training = Training.of(flight.layer, flight.replicate, outcome, self._begun.proxies)
        self.trainings.append(training)
        if self._listener is not None:
            self._listener(training, self.comparison)
