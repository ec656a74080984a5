"""Which generated kernels a search trains with, by setting and device. Imports neither torch nor triton."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata

from evonas.errors import EnvironmentUnusable, unknown_name

#: auto: where there are any and they pay. on: where there are any, else an error. off: the eager reference.
MODES = ("auto", "on", "off")
DEFAULT = "auto"
#: Training steps from which generated C pays: by benchmarks/c_backend.py it needs fewer than half as many to earn back
#: its compilation, and a layer over the batch is compiled twice.
PAYS_FROM = 60


@dataclass(frozen=True, slots=True)
class Choice:
    """backend: triton, c or eager. tool: what compiles the kernels, with its version. why: no kernels are used."""

    backend: str
    tool: str | None = None
    why: str | None = None

    @property
    def used(self) -> str:
        """In a word: "triton 3.9.0", "cc (Debian 12.2.0) 12.2.0", or "none"."""
        return self.tool or "none"

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


def choose(mode: str, device: str) -> Choice:
    """Triton on CUDA, generated C on a CPU; with "on" also Triton on a CPU whose Triton interprets.

    Args:
        mode: one of ``MODES``. device: cpu, cuda or cuda:<n>.

    Raises:
        UsageError: an unknown mode.
        EnvironmentUnusable: "on", and nothing here compiles kernels for the device.
    """
    if mode not in MODES:
        raise unknown_name("choice of kernels", mode, MODES, hint="evaluation.kernels = auto")
    if mode == "off":
        return Choice("eager", why="evaluation.kernels is off")
    interpreted = mode == "on" and os.environ.get("TRITON_INTERPRET") == "1"
    try:
        if device.startswith("cuda") or interpreted:
            return Choice("triton", _triton() + (", interpreted" if interpreted else ""))
        return Choice("c", _compiler())
    except EnvironmentUnusable as error:
        if mode == "on":
            raise
        return Choice("eager", why=error.message)


def _triton() -> str:
    try:
        return f"triton {metadata.version('triton')}"
    except metadata.PackageNotFoundError:
        raise EnvironmentUnusable(
            "evaluation.kernels needs triton on a GPU, and it is not installed",
            hint="pip install triton, or --kernels off",
        ) from None


def _compiler() -> str:
    from evonas.kernels.c_runtime import compiler

    return _version(tuple(compiler()))


@lru_cache(maxsize=8)
def _version(command: tuple[str, ...]) -> str:
    """The first line that a compiler says of itself."""
    try:
        told = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentUnusable(
            f"the C compiler {command[0]} does not start: {error}",
            hint="set CC to another compiler, or --kernels off",
        ) from None
    return told.splitlines()[0][:100] if told else os.path.basename(command[0])
