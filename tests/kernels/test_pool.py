"""The pool of compilers: what is compiled once, what fails alone, who is replaced."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
from evonas.kernels.compile_worker import CompilerProcess
from evonas.kernels.offline import CompileFailure, CompileReport
from evonas.kernels.pool import CompilePool
from evonas.kernels.spec import KernelSpec

from evonas.errors import EnvironmentUnusable, UsageError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

SOURCES = str(Path(__file__).with_name("offline_sources.py"))
POINTWISE = (("x_ptr", "*bf16"), ("y_ptr", "*bf16"), ("n", "i32"), ("BLOCK", "constexpr"))
SWISH = KernelSpec(SOURCES, "swish", POINTWISE, (("BLOCK", 1024),), ("x_ptr", "y_ptr", "n"), elements=1024)
WRONG = KernelSpec(SOURCES, "wrong", (("x_ptr", "*fp32"), ("BLOCK", "constexpr")), (("BLOCK", 64),))
_PATIENCE = 60.0

#: A file that says who reads it, and then keeps its reader for as long as the file `held` is there.
_HOLDING = """
import os, pathlib, time
here = pathlib.Path(__file__).parent
(here / "reader").write_text(str(os.getpid()))
while (here / "held").exists():
    time.sleep(0.02)
import triton
import triton.language as tl


@triton.jit
def swish(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), tl.load(x_ptr + tl.arange(0, BLOCK)))
"""


@pytest.fixture
def holding(tmp_path: Path) -> KernelSpec:
    path = tmp_path / "source" / "holding.py"
    path.parent.mkdir()
    path.write_text(_HOLDING)
    path.with_name("held").touch()
    return replace(SWISH, path=str(path))


def sized(block: int) -> KernelSpec:
    return replace(SWISH, constants=(("BLOCK", block),))


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def reader(spec: KernelSpec) -> int:
    """The process id of the compiler that has the job."""
    note = Path(spec.path).with_name("reader")
    eventually(lambda: note.exists() and note.read_text() != "")
    return int(note.read_text())


def test_two_compilers_compile_each_kernel_once(tmp_path: Path) -> None:
    specs = [sized(256), WRONG, sized(512), sized(1024), sized(256)]
    with CompilePool(2, tmp_path / "cache", "sm_90") as pool:
        futures = pool.submit(specs)
        again = pool.submit([sized(512), WRONG])
        results = [future.result(_PATIENCE) for future in futures]
        numbers = pool.describe()
    assert futures[0] is futures[4]
    assert again == [futures[2], futures[1]]
    good = [result for result in results if isinstance(result, CompileReport)]
    assert len({result.hash for result in good}) == 3
    assert all(result.registers > 0 and result.spill_bytes == 0 and not result.cached for result in good)
    assert all(Path(result.binary).is_relative_to(tmp_path / "cache") for result in good)
    (failure,) = (result for result in results if isinstance(result, CompileFailure))
    assert failure.kind == "compile"
    assert "power of 2" in failure.message
    assert not failure.transient
    assert {name: numbers[name] for name in ("submitted", "repeated", "compiled", "cached", "failed")} == {
        "submitted": 7, "repeated": 3, "compiled": 3, "cached": 0, "failed": 1,
    }  # fmt: skip
    assert numbers["replaced"] == 0
    assert numbers["cpu_seconds"] > 0


def test_another_pool_finds_what_is_in_the_cache(tmp_path: Path) -> None:
    for cached in (False, True):
        with CompilePool(1, tmp_path / "cache", "sm_80", sass=True) as pool:
            (future,) = pool.submit([SWISH])
            result = future.result(_PATIENCE)
        assert isinstance(result, CompileReport)
        assert result.cached is cached
        assert result.counts is not None
        assert result.counts.total.loads == {128: 1}


def test_a_compiler_that_is_killed_is_replaced(tmp_path: Path, holding: KernelSpec) -> None:
    with CompilePool(1, tmp_path / "cache", "sm_90") as pool:
        held, other = pool.submit([holding, SWISH])
        first = reader(holding)
        assert pool.describe()["pids"] == [first]
        os.kill(first, signal.SIGKILL)
        failure = held.result(_PATIENCE)
        assert isinstance(failure, CompileFailure)
        assert failure.kind == "died"
        assert "SIGKILL" in failure.message
        assert isinstance(other.result(_PATIENCE), CompileReport)
        assert pool.describe()["replaced"] == 1
        # It may have been the memory of the machine: whoever asks again gets another try.
        Path(holding.path).with_name("held").unlink()
        (retried,) = pool.submit([holding])
        assert retried is not held
        assert isinstance(retried.result(_PATIENCE), CompileReport)


def test_a_compiler_that_dies_idle_costs_no_kernel(tmp_path: Path) -> None:
    with CompilePool(1, tmp_path / "cache", "sm_90") as pool:
        pool.submit([sized(128)])[0].result(_PATIENCE)
        (pid,) = pool.describe()["pids"]
        os.kill(pid, signal.SIGKILL)
        assert isinstance(pool.submit([SWISH])[0].result(_PATIENCE), CompileReport)
        assert pool.describe()["replaced"] == 1


def test_a_compiler_is_renewed_after_its_share(tmp_path: Path) -> None:
    with CompilePool(1, tmp_path / "cache", "sm_90", renew=2) as pool:
        (first,) = pool.describe()["pids"]
        futures = pool.submit([sized(128), sized(256), sized(512)])
        assert all(isinstance(future.result(_PATIENCE), CompileReport) for future in futures)
        assert pool.describe()["pids"] != [first]
        assert pool.describe()["replaced"] == 1


def test_a_kernel_that_takes_too_long_is_given_up(tmp_path: Path, holding: KernelSpec) -> None:
    with CompilePool(1, tmp_path / "cache", "sm_90", deadline=0.5) as pool:
        result = pool.submit([holding])[0].result(_PATIENCE)
        assert isinstance(result, CompileFailure)
        assert (result.kind, result.message) == ("deadline", "took longer than 0.5 s")
        with pytest.raises(ProcessLookupError):
            os.kill(reader(holding), 0)


def test_closing_leaves_nobody_waiting(tmp_path: Path, holding: KernelSpec) -> None:
    pool = CompilePool(1, tmp_path / "cache", "sm_90")
    held, waiting = pool.submit([holding, SWISH])
    pid = reader(holding)
    pool.close()
    pool.close()
    _, left = wait([held, waiting], timeout=0)
    assert not left
    assert waiting.cancelled()
    failure = held.result()
    assert isinstance(failure, CompileFailure)
    assert failure.kind == "closed"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evonas-compile")]
    with pytest.raises(UsageError, match="closed"):
        pool.submit([SWISH])


def test_what_a_pool_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 compilers"):
        CompilePool(0, tmp_path, "sm_90")
    with pytest.raises(UsageError, match="unknown target"):
        CompilePool(1, tmp_path, "h200")
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentUnusable, match="no kernel cache"):
        CompilePool(1, tmp_path / "file" / "cache", "sm_90")


def test_a_compiler_is_small(tmp_path: Path) -> None:
    """It imports no torch: with that, it would need several times the memory."""
    process = CompilerProcess(tmp_path / "cache")
    try:
        assert isinstance(process.compile(SWISH, "sm_90"), CompileReport)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.close()
    assert "libtriton" in maps
    assert "libtorch" not in maps
