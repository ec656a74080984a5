"""Where the traceback of an internal error goes: into the run's folder if there is one, else a temporary file."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from datetime import datetime, timezone
from pathlib import Path

#: The run that this process works on, once it has a folder.
_RUN: list[Path] = []


def working_on(run: Path) -> None:
    """Tracebacks of this process go to ``run``/logs from now on."""
    _RUN[:] = [run]


def record_crash(error: BaseException) -> Path:
    """Write the traceback and return the file's path."""
    text = "".join(traceback.format_exception(error))
    name = f"crash-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
    for run in _RUN:
        with contextlib.suppress(OSError):
            path = run / "logs" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return path
    path = Path(tempfile.gettempdir()) / f"evonas-{name}"
    path.write_text(text, encoding="utf-8")
    return path
