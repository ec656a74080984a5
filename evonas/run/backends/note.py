"""What a slot is working on, readable by its owner even when the slot no longer answers.

Sixteen bytes of shared memory: how many tasks the slot has begun, and when it began the last one
(CLOCK_MONOTONIC, which all processes of a machine share). Writing costs no system call, so that answers
to fast tasks may be sent together and the owner still knows which task a slot hangs or dies in.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
from time import monotonic

_LAYOUT = struct.Struct("=Qd")


class StartNote:
    """Shared by the file descriptor ``fd``: made by the owner, written by the slot."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = _shared_file()
            os.ftruncate(fd, _LAYOUT.size)
        self._fd = fd
        self._map = mmap.mmap(fd, _LAYOUT.size)
        self._begun = 0

    def fileno(self) -> int:
        return self._fd

    def begin(self) -> float:
        """Note that the next task begins now; that moment."""
        self._begun += 1
        now = monotonic()
        _LAYOUT.pack_into(self._map, 0, self._begun, now)
        return now

    def read(self) -> tuple[int, float]:
        """Number of tasks begun and the moment of the last one."""
        while True:
            begun, at = _LAYOUT.unpack_from(self._map)
            if _LAYOUT.unpack_from(self._map) == (begun, at):
                return begun, at

    def close(self) -> None:
        self._map.close()
        with contextlib.suppress(OSError):
            os.close(self._fd)


def _shared_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("evonas-note")
    fd, path = tempfile.mkstemp(prefix="evonas-note-")
    os.unlink(path)
    return fd
