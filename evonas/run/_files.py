"""Small file helpers: atomic replacement and errors that a user can act on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evonas.errors import EnvironmentUnusable

_REMEDY = {
    errno.ENOSPC: "free some space on that file system",
    errno.EDQUOT: "free some space: the disk quota is used up",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "remount the file system for writing, or choose another folder with --out",
    errno.EACCES: "give this user the right to write there, or choose another folder with --out",
    errno.EPERM: "give this user the right to write there, or choose another folder with --out",
    errno.ENOENT: "put the folder back, or name another one",
    errno.EIO: "check the disk, the kernel log says more",
}


def unusable(doing: str, error: OSError, *, then: str | None = None, state: str = "") -> EnvironmentUnusable:
    """An ``EnvironmentUnusable`` for a failed system call: what was done, why it failed, what to do."""
    reason = error.strerror or str(error)
    remedy = _REMEDY.get(error.errno or 0, "make the folder usable again")
    return EnvironmentUnusable(
        f"{doing} failed: {reason}{state}", hint=remedy if then is None else f"{remedy}, then: {then}"
    )


def sync_directory(path: Path) -> None:
    """Makes creations and renames inside a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, fill: Callable[[Path], None]) -> None:
    """Lets ``fill`` write a temporary neighbour of ``path``, then fsync and rename: all or nothing.

    Raises:
        EnvironmentUnusable: the folder cannot be written; ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            fill(temporary)
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(f"writing {path}", error) from error


def write_text(path: Path, text: str) -> None:
    """Atomic replacement of a text file (UTF-8)."""
    write_atomic(path, lambda temporary: _fill(temporary, text))


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="replace")  # argv may hold undecodable bytes


def write_json(path: Path, value: Any) -> None:
    """Atomic replacement of a JSON file, indented, ending with a newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def hashed_hostname() -> str:
    """16 hexadecimal digits that tell machines apart without naming them."""
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=8, person=b"evonas-host").hexdigest()
