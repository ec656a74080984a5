"""Slots on this machine, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

from evonas.errors import EnvironmentUnusable
from evonas.evaluation.protocol import EvaluatorSpec, Outcome, Task
from evonas.run.backends import wire
from evonas.run.backends.base import check_room
from evonas.run.backends.pool import SlotPool

_START_S = 300.0
#: Mean seconds per evaluation between which answers are taken several at a time.
_MEDIUM_S = (0.02, 0.5)


class LocalBackend:
    """``workers`` child processes of this one, in a ``SlotPool``."""

    def __init__(
        self,
        spec: EvaluatorSpec,
        workers: int,
        *,
        memory_limit: int | None = None,
        depth: int = 2,
        gpus: Sequence[str] = (),
    ) -> None:
        self.capacity = workers
        self.depth = depth
        self._pool = SlotPool(spec, workers, memory_limit=memory_limit, gpus=gpus)
        self._tasks: dict[int, Task] = {}
        self._tickets = 0
        self._closed = False

    def start(self) -> None:
        self._pool.start()
        end = monotonic() + _START_S
        try:
            while not self._pool.describe()["ready"]:
                self._pool.poll(0.02)
                if monotonic() > end:
                    raise EnvironmentUnusable(
                        f"no evaluation slot was ready after {_START_S:.0f} s", hint="run `evonas doctor`"
                    )
        except BaseException:
            self.close()
            raise

    def submit(self, tasks: Sequence[Task]) -> None:
        check_room(len(self._tasks), len(tasks), self)
        records = []
        for task in tasks:
            self._tickets += 1
            self._tasks[self._tickets] = task
            records.append(wire.encode_task(self._tickets, task))
        self._pool.submit(records)

    def poll(self, timeout: float) -> list[Outcome]:
        pool = self._pool
        answers = pool.poll(timeout)
        if answers and _MEDIUM_S[0] < pool.mean_s < _MEDIUM_S[1] and len(self._tasks) > self.capacity:
            # Every slot has a task to go on with: waking up once for several answers saves processor time.
            sleep(pool.mean_s / 4)
            answers += pool.poll(0.0)
        return [wire.decode_outcome(self._tasks.pop(ticket), body) for ticket, _, body in answers]

    def close(self, *, now: bool = False) -> None:
        if not self._closed:
            self._closed = True
            self._pool.close()
            self._tasks.clear()

    def describe(self) -> dict[str, Any]:
        return {"kind": "local", **self._pool.describe()}
