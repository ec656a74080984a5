"""`compare`: layers trained alike with paired seeds, told of as they come back, and the tables at the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from evonas.cli.bench_plot import check_plot
from evonas.cli.compare_tables import comparison_tables, told
from evonas.cli.main import EMPTY, INTERRUPTED, OK, STOPPED
from evonas.cli.output import document, emit
from evonas.comparing.bench import Bench
from evonas.comparing.comparison import Comparison
from evonas.comparing.preparing import prepare
from evonas.comparing.record import check_writable, write_record
from evonas.comparing.training import Training
from evonas.errors import EnvironmentUnusable
from evonas.run.units import Units

if TYPE_CHECKING:
    from pathlib import Path


def compare(
    layers: Sequence[str],
    *,
    reference: str | None,
    flags: Mapping[str, Any],
    sets: Sequence[str],
    plugins: Sequence[str],
    runs: str,
    out: Path | None,
    resume: Path | None,
    plot: str | None,
    json: bool,
) -> int:
    """Train what is missing and print the tables; the exit code.

    Raises:
        UsageError, FormulaError, DataError, PluginError: what does not exist or does not fit.
        EnvironmentUnusable: slots, device, disk.
    """
    kept = out or resume
    if kept is not None:
        check_writable(kept)
    if plot is not None:
        check_plot(plot)
    made = prepare(
        layers, reference=reference, flags=flags, sets=sets, environment=os.environ, plugins=plugins, root=runs,
        resume=resume,
    )  # fmt: skip
    units = Units(made.proxies)

    def heard(training: Training, now: Comparison) -> None:
        if kept is not None:
            write_record(kept, now)
        _tell(told(training, now, units))

    left = made.planned - len(made.trainings)
    _tell(
        f"{len(made.contestants)} layers, {made.seeds} seed{'s' * (made.seeds != 1)}, "
        f"{', '.join(made.proxies)}: {left} of {made.planned} trainings and sweeps to do"
    )
    bench, stopped = Bench(made, heard), False
    try:
        with _signals():
            bench.run()
    except KeyboardInterrupt:
        stopped = True
    done = bench.comparison
    if kept is not None:
        write_record(kept, done)
    if plot is not None and done.trainings:
        _write_plot(plot, done)
    if json:
        document("compare", done.to_dict())
    else:
        emit(*comparison_tables(done, units))
    if stopped:
        more = f"; go on with: evonas compare --resume {kept}" if kept is not None else ""
        _tell(f"stopped, {len(done.trainings)} of {done.planned} trainings and sweeps are there{more}")
        return INTERRUPTED if kept is not None else STOPPED
    return OK if any(row["n"] for row in done.rows) else EMPTY


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_plot(path: str, done: Comparison) -> None:
    text = done.plot()
    try:
        if path.lower().endswith(".png"):
            import cairosvg

            cairosvg.svg2png(bytestring=text.encode(), write_to=path, scale=2)
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise EnvironmentUnusable(f"cannot write {path}: {error.strerror}") from None
    _tell(f"wrote {path}")


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM is a Ctrl-C."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
