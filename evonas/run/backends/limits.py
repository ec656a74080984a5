"""What a process does to itself so that a bad candidate in it hurts nobody else. Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import psutil

GIB = 2**30

#: Environment of every slot: one thread, whatever the numerical library.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """SIGKILL this process when the thread that made it ends; leave at once if it already has."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def offer_to_oom_killer() -> None:
    """Be the first that the kernel takes when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_memory(extra: int) -> None:
    """Allow ``extra`` bytes of private memory beyond what this process has now; no core dumps."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    held = getattr(psutil.Process().memory_info(), "data", 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (held + extra, held + extra))


def settle_torch() -> None:
    """One thread and flushed denormals, if torch is loaded (trap: a denormal costs 100 cycles)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, numpy's or torch's way to say that an allocation failed, on the host or the device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        mark in text
        for mark in ("can't allocate memory", "not enough memory", "CUDA out of memory", "out of memory")
    )


def available_memory() -> int:
    """Bytes that new processes may use: the machine's, or what the control group still allows."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(free, 0)


def default_memory_limit(slots: int) -> int:
    """Bytes per slot beyond its start: a share of 80 % of what is available, at least 1 GiB.

    Slots seldom peak together, so the share is that of as many slots as there are processors (at most
    ``slots``); the kernel's choice, a slot, is the last line.
    """
    together = max(1, min(slots, os.cpu_count() or 1))
    return max(GIB, int(0.8 * available_memory()) // together)
