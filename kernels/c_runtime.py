"""Compiling generated C with the system's compiler, and finding it again by a digest of all that made it.

Needs no torch. A compiler is taken from ``$CC``, else cc, gcc or clang on the PATH.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from evonas.errors import EnvironmentUnusable

#: Nothing here lets the compiler assume that there are no NaN or infinities, reorder sums, or fuse a product with a
#: sum: a deviation from a mean must be that of the rounded value that the mean was taken of.
FLAGS = (
    "-O2", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC", "-w",
    # passes that cost a sixth of the time to compile and gain nothing here
    "-fno-gcse", "-fno-tree-vrp", "-fno-thread-jumps",
)  # fmt: skip
NATIVE = "-march=native"


def compiler() -> list[str]:
    """The command of the C compiler.

    Raises:
        EnvironmentUnusable: there is none.
    """
    return list(_compiler(os.environ.get("CC", ""), os.environ.get("PATH", "")))


@lru_cache(maxsize=8)
def _compiler(named: str, path: str) -> tuple[str, ...]:
    for words in (shlex.split(named), ["cc"], ["gcc"], ["clang"]):
        found = shutil.which(words[0], path=path) if words else None
        if found:
            return (found, *words[1:])
    raise EnvironmentUnusable(
        "backend 'c' needs a C compiler, and neither $CC nor cc, gcc or clang on the PATH is one",
        hint="install gcc or clang, or use backend='eager'",
    )


def available() -> bool:
    """Whether there is a compiler; that it works is seen when it is used."""
    try:
        return bool(compiler())
    except EnvironmentUnusable:
        return False


@lru_cache(maxsize=8)
def _identity(command: tuple[str, ...]) -> str:
    """Version of the compiler and the processor that it compiles for."""
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    processor = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # one folder may serve unlike machines
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        processor += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return told + processor


def compile_source(text: str, folder: Path) -> Path:
    """The shared library of a C source, compiled once per folder, compiler, flags and processor.

    Raises:
        EnvironmentUnusable: no compiler, one that refuses the source, or a folder that cannot be written.
    """
    command = tuple(compiler())
    key = "\x1f".join([text, *FLAGS, NATIVE, _identity(command)])
    path = folder / f"layer_{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="compiling_") as room:
            source, made = Path(room) / "layer.c", Path(room) / "layer.so"
            source.write_text(text, encoding="utf-8")
            told = ""
            for native in ((NATIVE,), ()):  # some compilers do not know this machine
                done = subprocess.run(
                    [*command, *FLAGS, *native, str(source), "-o", str(made)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode == 0:
                    os.replace(source, path.with_suffix(".c"))
                    os.replace(made, path)
                    return path
                told = told or done.stderr
    except OSError as error:
        raise EnvironmentUnusable(
            f"cannot compile a layer in {folder}: {error.strerror or error}",
            hint="set EVONAS_KERNEL_DIR to a folder that can be written",
        ) from None
    raise EnvironmentUnusable(
        f"{command[0]} does not compile the layer: {' '.join(told.split())[:300]}",
        hint="set CC to another compiler, or use backend='eager'",
    )


@lru_cache(maxsize=4096)
def load_library(path: Path) -> ctypes.CDLL:
    """The library, loaded.

    Raises:
        EnvironmentUnusable: the system refuses it (a folder mounted noexec, say).
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EnvironmentUnusable(
            f"cannot load {path}: {error}", hint="set EVONAS_KERNEL_DIR to a folder that libraries load from"
        ) from None
