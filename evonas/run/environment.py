"""What a run ran on: versions, source state, machine. Nothing that names a person or a machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from evonas.run._files import hashed_hostname

PACKAGES = (
    "evonas",
    "torch",
    "triton",
    "ray",
    "numpy",
    "networkx",
    "optuna",
    "pyarrow",
    "moocore",
    "typer",
    "rich",
    "psutil",
)


def package_versions() -> dict[str, str | None]:
    """Installed version of every package that a run may use, None where it is missing. Imports none."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_environment() -> dict[str, Any]:
    """The content of environment.json."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": git_state(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "gpus": gpus(),
        "cuda": _torch_cuda(),
        "host": hashed_hostname(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that evonas is imported from, None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _run("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _run("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes.strip())}


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU as its own tool reports them; no CUDA context is made."""
    if shutil.which("nvidia-smi") is None:
        return []
    text = _run("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows if len(row) == 3]


def _torch_cuda() -> str | None:
    torch = sys.modules.get("torch")
    return getattr(getattr(torch, "version", None), "cuda", None)


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
