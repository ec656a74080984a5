"""Watching a run from outside the drive loop: a live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from evonas.cli.output import console, is_live
from evonas.cli.progress import Progress
from evonas.run.schema import Event
from evonas.run.wording import score, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evonas.run.drive import Driver

#: Seconds between two pictures of the panel, and between two lines of narration.
REFRESH, INTERVAL = 0.25, 10.0
_WINDOW = 30.0
#: Share of one slot's time below which the slots count as idle.
_BUSY = 0.1


class Watch:
    """An observer that keeps a ``Progress`` and rates. It shows nothing."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.capacity = 1
        self.started = time.monotonic()
        self._looping: float | None = None
        self._before = progress.evaluations()
        self._work_before = sum(progress.work.values())
        self._marks: deque[tuple[float, int, int]] = deque()
        self._limit: tuple[float, float] = (0.0, 0.0)

    def event(self, event: Event) -> None:
        """One event was logged."""
        self.progress.add(event)

    def tick(self, driver: Driver) -> None:
        """The drive loop went round."""
        self.capacity = driver.backend.capacity
        self._limit = (driver.max_time_s, driver.elapsed)
        now = time.monotonic()
        if self._looping is None:
            self._looping = now
        if not self._marks or now - self._marks[-1][0] > 0.5:
            self._marks.append((now, self.progress.next_candidate, self.progress.evaluations()))
            while now - self._marks[0][0] > _WINDOW:
                self._marks.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self.started

    def rates(self) -> tuple[float, float]:
        """Proposals a second and evaluations a minute, over the last half minute."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (t0, p0, e0), (t1, p1, e1) = self._marks[0], self._marks[-1]
        return (p1 - p0) / (t1 - t0), 60.0 * (e1 - e0) / (t1 - t0)

    def time_left(self) -> float | None:
        """Seconds to the end of the run at the speed so far, re-ranking included; None: not known yet."""
        work = self.progress.work_left()
        done = self.progress.evaluations() - self._before
        span = 0.0 if self._looping is None else time.monotonic() - self._looping
        if work is None or done < 3 or span < 1:
            return None
        worked = sum(self.progress.work.values()) - self._work_before
        # where evaluations cost next to nothing, it is their number that takes time
        count = (sum(self.progress.planned()) + self.progress.sweeps_left()) * span / done
        left = work * span / worked if worked > _BUSY * span else count
        if self._limit[0]:
            left = min(left, max(0.0, self._limit[0] - self._limit[1]))
        return left

    def line(self) -> str:
        """The state in one line."""
        p = self.progress
        parts = [f"[{_clock(self.elapsed)}] {p.phase}"]
        if p.phase == "rerank":
            parts.append(p.reranking())
        else:
            counts = ", ".join(f"{arm} {p.finished[arm]}/{p.budget}" for arm in p.arms)
            parts.append(f"baselines {p.finished['baseline']}/{p.baselines}, {counts} evaluated")
        proposals, evaluations = self.rates()
        parts.append(f"{len(p.flights)} in flight")
        parts.append(f"{p.next_candidate} proposed ({proposals:.0f}/s), {evaluations:.1f} evaluations/min")
        best = p.best()
        if best is not None:
            parts.append(f"best {best.mean:.3f}")
        left = self.time_left()
        if p.stopping == "interrupt":
            parts.append("draining: what is in flight comes back, nothing new goes out")
        elif p.stopping == "rerank":
            parts.append("time is up: what is in flight comes back")
        elif left is not None and not p.ended:
            parts.append(f"about {seconds(left)} left" + (", no new candidates" if p.stopping else ""))
        return "; ".join(parts)

    def say(self, text: str) -> None:
        """A line of narration."""

    def close(self) -> None:
        """Nothing is shown after this."""


class Narrator(Watch):
    """One line on stderr every ``INTERVAL`` seconds."""

    def __init__(self, progress: Progress, interval: float = INTERVAL) -> None:
        super().__init__(progress)
        self._interval = interval
        self._spoken = time.monotonic()
        self._phase = progress.phase

    def tick(self, driver: Driver) -> None:
        """A line if it is time, or if the phase has changed."""
        super().tick(driver)
        now = time.monotonic()
        if now - self._spoken >= self._interval or self.progress.phase != self._phase:
            self._spoken, self._phase = now, self.progress.phase
            self.say(self.line())

    def say(self, text: str) -> None:
        """Print at once."""
        print(text, file=sys.stderr, flush=True)


class Panel(Watch):
    """A rich live display on stderr, drawn by the drive loop itself, no thread."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        from rich.live import Live

        self._console = console(stderr=True)
        self._drawn = 0.0
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)

    def tick(self, driver: Driver) -> None:
        """Draw, at most four times a second."""
        super().tick(driver)
        now = time.monotonic()
        if now - self._drawn >= REFRESH:
            self._drawn = now
            self._live.start()
            self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        """Head line, funnel, front."""
        return picture(self.progress, self.line(), self._console.height)

    def say(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(text)

    def close(self) -> None:
        """Take the panel away."""
        self._live.stop()


def picture(progress: Progress, head: str, height: int = 40) -> RenderableType:
    """The panel's content, cut to the height of the terminal."""
    from rich.console import Group
    from rich.panel import Panel as Box
    from rich.text import Text

    from evonas.cli.tables import funnel_table, score_table

    funnel = funnel_table(progress.funnel)
    room = max(3, height - funnel.row_count - 14)
    rows = [r.to_dict(progress.proxies) for r in progress.front()]
    title = f"Front ({len(rows)}), validation scores"
    front = score_table(title, rows[:room], progress.proxies, progress.latency_source)
    parts: list[Any] = [Text(head), funnel, front]
    baseline = progress.best("baseline")
    if baseline is not None:
        name = progress.names.get(baseline.candidate, "?")
        parts.append(Text(f"best baseline: {name} {score(baseline.mean)}"))
    return Box(Group(*parts), title="evonas", title_align="left")


def make_watch(progress: Progress, *, quiet: bool) -> Watch:
    """What fits the terminal: the panel, lines, or silence."""
    if quiet:
        return Watch(progress)
    return Panel(progress) if is_live() else Narrator(progress)


def _clock(value: float) -> str:
    total = int(value)
    hours, rest = divmod(total, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours}:{clock}" if hours else clock
