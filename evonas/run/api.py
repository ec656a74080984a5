"""``evonas.search``: the engine from Python, the same one as the command line's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.run.drive import Observer
from evonas.run.run import Run
from evonas.run.session import create_run, execute, with_plugins
from evonas.run.settings import resolve


def search(
    space: str = "norm_act",
    *,
    workers: int = 1,
    candidates: int | None = None,
    seed: int = 0,
    strategy: str | None = None,
    proxies: Sequence[str] | None = None,
    objectives: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] = "runs",
    observers: tuple[Observer, ...] = (),
) -> Run:
    """Run a search to its end and return it.

    Args:
        space: name of a search space.
        workers: evaluation slots; child processes, or Ray beyond this machine's processors.
        candidates: evaluated candidates per arm.
        seed: of every decision and every training.
        strategy: ageing, nsga2 or random.
        proxies: names of the proxies.
        objectives: "accuracy" (the default), and "latency" for one more that is minimised.
        settings: any other setting by dotted key, e.g. {"strategy.window": 50, "rerank.seeds": 0}.
        plugins: Python files to load first.
        out: folder below which the run's folder is made.
        observers: called at every event, see ``evonas.run.drive.Observer``.

    Raises:
        UsageError: a name or value that does not exist or fit. EnvironmentUnusable: disk or slots.
    """
    flags: dict[str, Any] = {
        "search.space": space, "search.candidates": candidates, "search.seed": seed, "search.strategy": strategy,
        "workers.count": workers, "evaluation.proxies": None if proxies is None else list(proxies),
        "search.objectives": None if objectives is None else list(objectives),
        **dict(settings or {}),
    }  # fmt: skip
    made, origins = resolve(flags=flags)
    made = with_plugins(made, plugins)
    directory = create_run(made, root=out, origins=origins)
    execute(directory, made, observers=observers)
    return Run(directory)
