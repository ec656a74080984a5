"""Shared by the packaging tests: this interpreter in a process of its own, and pip into a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Folder at the top of the repository -> import name.
FOLDERS = {
    "evonas": "evonas",
    "primitives": "evonas.primitives",
    "search_spaces": "evonas.search_spaces",
    "kernels": "evonas.kernels",
}


def run(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command, with ``path`` in front of the packages that this interpreter has."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("EVONAS_")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """stdout of this interpreter; the test fails with its stderr if it does."""
    done = run(sys.executable, *arguments, cwd=cwd, path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(target: Path, *what: str) -> None:
    """``pip install --target``, dependencies left out."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target))
    python("-m", "pip", "install", *options, *what, cwd=target)
