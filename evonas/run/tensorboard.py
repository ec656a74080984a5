"""A run as TensorBoard scalars: scores of every candidate over the number of evaluated ones, and the best so far."""

from __future__ import annotations

import os
from pathlib import Path

from evonas.errors import EnvironmentUnusable
from evonas.run.run import Run


def to_tensorboard(run: Run, folder: str | os.PathLike[str] | None = None) -> Path:
    """Write event files, one sub-folder per arm, and return the folder; ``tensorboard --logdir`` shows it.

    The step counts the evaluated candidates of the arm, the wall time is that of the log. Tags: ``score/<proxy>``,
    ``score/mean``, ``best/mean``, ``latency_us`` where that is an objective, ``seconds``.

    Args:
        folder: None for ``report/tensorboard`` in the run's folder. What an earlier call wrote there is replaced.

    Raises:
        EnvironmentUnusable: tensorboard is not installed. UsageError: the run has no log yet.
    """
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise EnvironmentUnusable(
            "TensorBoard files need tensorboard, which is not installed", hint="pip install tensorboard"
        ) from None
    target = run.path / "report" / "tensorboard" if folder is None else Path(folder)
    proxies = run.proxies
    writers: dict[str, Writer] = {}
    steps: dict[str, int] = {}
    best: dict[str, float] = {}
    try:
        for event in run.events():
            arm = str(event.arm)
            if event.kind != "finished" or arm == "rerank":
                continue
            if arm not in writers:
                _clear(target / arm)
                writers[arm] = Writer(str(target / arm))
            steps[arm] = step = steps.get(arm, 0) + 1
            wall = (event.ts or 0) / 1e6

            def add(tag: str, value: float, arm: str = arm, step: int = step, wall: float = wall) -> None:
                writers[arm].add_scalar(tag, value, step, wall_time=wall)

            add("seconds", event.seconds or 0.0)
            latency = event.details().get("latency_us")
            if latency is not None:
                add("latency_us", latency)
            scores = event.scores or ()
            if event.outcome == "scored" and all(s is not None for s in scores):
                known = [float(s) for s in scores if s is not None]
                mean = sum(known) / len(known)
                best[arm] = max(mean, best.get(arm, mean))
                for proxy, value in zip(proxies, known, strict=False):
                    add(f"score/{proxy}", value)
                add("score/mean", mean)
                add("best/mean", best[arm])
    finally:
        for writer in writers.values():
            writer.close()
    return target


def _clear(folder: Path) -> None:
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
