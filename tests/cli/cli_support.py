"""Calling the command line as a user does: in this process where that is safe, else in one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

PLUGINS = Path(__file__).parent / "plugins"
HASHED = ("--plugin", str(PLUGINS / "hashed.py"), "--set", "evaluation.evaluator=hashed")
#: A whole run without training, in well under a second of work.
QUICK = (*HASHED, "--backend", "inline", "--candidates", "8", "--seed", "1")


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EVONAS_") and k != "NO_COLOR"}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def evonas(*arguments, cwd, env=None, **options):
    """Run to the end in a process of its own; text output."""
    return subprocess.run(
        [sys.executable, "-m", "evonas.cli.main", *map(str, arguments)],
        cwd=cwd, env=environment(**(env or {})), capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def start(*arguments, cwd, env=None, **options):
    """Begin in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "evonas.cli.main", *map(str, arguments)],
        cwd=cwd, env=environment(**(env or {})), text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def only_run(root):
    """The one run folder below ``root``/runs."""
    (found,) = (Path(root) / "runs").iterdir()
    return found


def document(text, verb):
    """A JSON document of a verb, checked for its schema."""
    value = json.loads(text)
    assert value["schema"] == f"evonas.{verb}/1"
    return value
