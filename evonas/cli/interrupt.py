"""Ctrl-C: the first drains, the second stops now; SIGTERM is a first Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.cli.panel import Watch
    from evonas.run.drive import Driver


class Interrupts:
    """Signal handlers for the time of a run. Before there is a driver, a signal ends the process."""

    def __init__(self, watch: Watch) -> None:
        self.driver: Driver | None = None
        self._watch = watch
        self._before: dict[signal.Signals, Any] = {}
        self._seen = 0

    @property
    def hard(self) -> bool:
        """Whether the user asked for a stop without draining."""
        return self._seen > 1

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        driver = self.driver
        if driver is None:
            self._seen = 2
            raise KeyboardInterrupt
        if number == signal.SIGTERM and self._seen:
            return
        self._seen += 1
        driver.interrupt()
        if self._seen == 1:
            self._watch.say("stopping: what is in flight comes back first; once more (Ctrl-C) stops now")
        elif self._seen > 2 or driver.backend.describe()["kind"] == "inline":
            raise KeyboardInterrupt  # an evaluation in this very process cannot be waited for
