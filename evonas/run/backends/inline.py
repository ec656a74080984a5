"""Evaluation in the calling process: for tests, debugging and very small searches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

from evonas.evaluation.protocol import Evaluator, EvaluatorSpec, Outcome, Task
from evonas.evaluation.registry import build_evaluator
from evonas.run.backends import slot
from evonas.run.backends.base import check_room


class InlineBackend:
    """One slot that is this process: no deadline, no memory limit, a crash is a crash of the caller.

    ``poll`` evaluates one task. ``workers`` only widens what may be in flight, so that a search decides
    as it would with that many slots.
    """

    def __init__(self, spec: EvaluatorSpec, *, workers: int = 1, depth: int = 2) -> None:
        self.capacity = workers
        self.depth = depth
        self._spec = spec
        self._evaluator: Evaluator | None = None
        self._tasks: deque[Task] = deque()

    def start(self) -> None:
        self._evaluator = build_evaluator(self._spec)

    def submit(self, tasks: Sequence[Task]) -> None:
        check_room(len(self._tasks), len(tasks), self)
        self._tasks.extend(tasks)

    def poll(self, timeout: float) -> list[Outcome]:
        if self._evaluator is None:
            raise RuntimeError("start() comes before poll()")
        if not self._tasks:
            return []
        task = self._tasks.popleft()
        outcome, _ = slot.evaluate(self._evaluator, task)
        outcome.arm, outcome.seed, outcome.mode = task.arm, task.seed, task.mode
        return [outcome]

    def close(self, *, now: bool = False) -> None:
        self._tasks.clear()
        self._evaluator = None

    def describe(self) -> dict[str, Any]:
        ready = int(self._evaluator is not None)
        return {
            "kind": "inline",
            "capacity": self.capacity,
            "ready": ready,
            "busy": 0,
            "restarts": 0,
            "pids": [os.getpid()] * ready,
        }
