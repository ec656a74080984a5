"""Generated modules as files: triton reads kernels from files, a person too. Needs neither torch nor triton."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from evonas.errors import EnvironmentUnusable


def source_folder() -> Path:
    """Where generated files live: ``$EVONAS_KERNEL_DIR``, by default ``~/.cache/evonas/kernels``."""
    named = os.environ.get("EVONAS_KERNEL_DIR")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evonas" / "kernels"


def write_source(text: str, folder: Path | None = None) -> Path:
    """The file with that text, written once; its name is a digest of it. ``folder``: by default ``source_folder()``.

    Raises:
        EnvironmentUnusable: the folder cannot be written.
    """
    folder = source_folder() if folder is None else folder
    path = folder / f"layer_{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}.py"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)
    except OSError as error:
        raise EnvironmentUnusable(
            f"cannot write kernels to {folder}: {error.strerror}",
            hint="set EVONAS_KERNEL_DIR to a folder that can be written",
        ) from None
    return path
