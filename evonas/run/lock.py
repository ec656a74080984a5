"""One writer per run: a kernel lock on the file LOCK, with a note in it that says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from evonas.errors import EnvironmentUnusable, RunLocked
from evonas.run._files import hashed_hostname, unusable

LOCK = "LOCK"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class RunLock:
    """The right to write to a run, held until ``release`` or until the process is gone.

    The kernel decides (``flock``), so what a dead process left in the file is no obstacle. A child that
    was forked while the lock was held keeps it alive; a child that was started by exec does not.
    """

    def __init__(self, directory: str | os.PathLike[str], *, attempt: int = 1) -> None:
        self.directory = Path(directory)
        self.attempt = attempt
        self._fd = -1

    def acquire(self) -> RunLock:
        """Takes the lock and writes pid, hashed host, start and attempt into the file.

        Raises:
            RunLocked: another process, or another lock in this one, holds it.
            EnvironmentUnusable: the folder is missing or cannot be written.
        """
        if self._fd >= 0:
            return self
        path = self.directory / LOCK
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            for patience in (0.02, 0.05, 0.0):  # a reader that looks at the lock holds it for an instant
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in _BUSY:
                        raise
                    if not patience:
                        raise self._taken() from None
                    time.sleep(patience)
            note = {
                "pid": os.getpid(),
                "host": hashed_hostname(),
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "attempt": self.attempt,
            }
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(note).encode(), 0)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise unusable(f"locking {path}", error) from error
        except EnvironmentUnusable:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def release(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RunLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _taken(self) -> RunLocked:
        note = _note(self.directory)
        pid = note.get("pid", "unknown")
        here = note.get("host") in (None, hashed_hostname())
        place = "" if here else f" on another machine ({note['host']})"
        since = f" since {note['started']}" if "started" in note else ""
        stop = f"or stop it: kill -INT {pid}" if here and "pid" in note else "or stop it there"
        return RunLocked(
            f"{self.directory} is being written by process {pid}{place}{since}",
            hint=f"wait for it, watch it with: evonas status {self.directory}, {stop}",
        )


def _note(directory: Path) -> dict[str, Any]:
    try:
        note = json.loads((directory / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def lock_holder(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The note of the process that writes to a run now (pid, host, started, attempt), None if none does.

    Works on a read-only folder. The note is empty for the instant between the lock and its first note.
    """
    try:
        fd = os.open(Path(directory) / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _note(Path(directory)) if error.errno in _BUSY else None
    finally:
        os.close(fd)
    return None
