"""Compiles kernels ahead in child processes, into the cache in which a launch will find them.

A launch finds what was compiled if it has the same cache (``TRITON_CACHE_DIR``), the same version of Triton, a device
of the pool's target, the arguments that the spec describes, and the options of ``KernelSpec.launch_options``. The
cache's entries hold absolute paths: a cache that is moved is empty.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from evonas.kernels.compile_worker import ChildEnded, CompilerProcess
from evonas.kernels.offline import CompileFailure, CompileReport, CompileResult
from evonas.kernels.spec import KernelSpec, parse_target

from evonas.errors import EnvironmentUnusable, UsageError

#: Children that end one after another without having taken a job: the machine is at fault, not a kernel.
_STARTS = 3

_Job = tuple[str, KernelSpec, "Future[CompileResult]"]


class CompilePool:
    """``workers`` compilers. A kernel that cannot be compiled, crashes its compiler or takes too long is a
    ``CompileFailure`` and hurts no other; its compiler is replaced.

    Args:
        workers: child processes, each with one core and about 150 MB; at least 1.
        cache_dir: folder of Triton's cache; made if missing.
        target: see ``spec.TARGETS``.
        deadline: seconds per kernel.
        renew: kernels after which a compiler is replaced: Triton keeps about 130 KB of each.
        sass: count instructions, half a second more per kernel on an NVIDIA target. Registers and spills are always
            in the reports.

    Raises:
        UsageError: no workers, unknown target.
        EnvironmentUnusable: no triton, or a folder that cannot be written.
    """

    def __init__(
        self,
        workers: int,
        cache_dir: str | Path,
        target: str,
        *,
        deadline: float = 60.0,
        renew: int = 1000,
        sass: bool = False,
    ) -> None:
        if workers < 1:
            raise UsageError(f"a pool of {workers} compilers compiles nothing", hint="workers=1 or more")
        parse_target(target)
        if importlib.util.find_spec("triton") is None:
            raise EnvironmentUnusable(
                "triton is not installed: kernels need it", hint="pip install triton, or use backend='eager'"
            )
        self.target = target
        self.cache_dir = Path(cache_dir).absolute()
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnusable(f"no kernel cache at {self.cache_dir}: {error}") from None
        self._deadline = deadline
        self._renew = renew
        self._sass = sass
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._futures: dict[str, Future[CompileResult]] = {}
        self._closed = False
        self._numbers = {
            "submitted": 0,
            "repeated": 0,
            "compiled": 0,
            "cached": 0,
            "failed": 0,
            "replaced": 0,
        }
        self._cpu_seconds = 0.0
        self._children = [CompilerProcess(self.cache_dir) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"evonas-compile-{slot}", daemon=True)
            for slot in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, specs: Iterable[KernelSpec]) -> list[Future[CompileResult]]:
        """One future per spec, in order; its result is a ``CompileReport`` or a ``CompileFailure``.

        A spec that was submitted before has the future of then, unless that one was cancelled or failed for a reason
        that may have passed (see ``CompileFailure.transient``).

        Raises:
            UsageError: the pool is closed.
        """
        futures = []
        for spec in specs:
            key = spec.key(self.target)
            with self._lock:
                if self._closed:
                    raise UsageError("the compile pool is closed", hint="open another CompilePool")
                future = self._futures.get(key)
                self._numbers["submitted"] += 1
                if future is None or _worth_another(future):
                    future = Future()
                    self._futures[key] = future
                    self._queue.put((key, spec, future))
                else:
                    self._numbers["repeated"] += 1
            futures.append(future)
        return futures

    def describe(self) -> dict[str, Any]:
        """Counts and process ids: submitted, repeated (had a future), compiled, cached (were in the cache), failed,
        replaced (compilers), cpu_seconds (of compilation), pids."""
        with self._lock:
            pids = [child.pid for child in self._children]
            return {**self._numbers, "cpu_seconds": self._cpu_seconds, "pids": pids}

    def close(self) -> None:
        """End now: what waits is cancelled, what is being compiled fails as ``closed``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for child in self._children:
                child.kill()
        while not self._queue.empty():
            job = self._queue.get()
            assert job is not None
            job[2].cancel()
            job[2].set_running_or_notify_cancel()  # wakes who waits for it
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for child in self._children:
            child.close()

    def __enter__(self) -> CompilePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self, slot: int) -> None:
        """One thread: hands jobs to the child of its slot, and replaces the child when it has to."""
        while (job := self._queue.get()) is not None:
            key, spec, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._compile(slot, key, spec)
            except Exception as error:  # a bug here must not leave anybody waiting
                future.set_exception(error)
                continue
            if isinstance(result, CompileFailure) and self._closed:
                result = self._failure(key, spec, "closed", "the pool was closed")
            with self._lock:
                if isinstance(result, CompileReport):
                    self._numbers["cached" if result.cached else "compiled"] += 1
                    self._cpu_seconds += result.cpu_seconds
                else:
                    self._numbers["failed"] += 1
            future.set_result(result)

    def _compile(self, slot: int, key: str, spec: KernelSpec) -> CompileResult:
        reason = "no compiler started"
        for _ in range(_STARTS):
            if self._closed:
                break
            child = self._children[slot]
            try:
                result = child.compile(spec, self.target, sass=self._sass, deadline=self._deadline)
            except ChildEnded as end:  # before it had the job
                reason = str(end)
                self._replace(slot)
                continue
            except EnvironmentUnusable as error:
                return self._failure(key, spec, "environment", error.message)
            if not child.alive or child.served >= self._renew:
                self._replace(slot)
            return result
        return self._failure(key, spec, "environment", reason)

    def _replace(self, slot: int) -> None:
        self._children[slot].close()
        with self._lock:
            if not self._closed:
                self._children[slot] = CompilerProcess(self.cache_dir)
                self._numbers["replaced"] += 1

    def _failure(self, key: str, spec: KernelSpec, kind: str, message: str) -> CompileFailure:
        return CompileFailure(key, spec.function, self.target, kind, message)


def _worth_another(future: Future[CompileResult]) -> bool:
    if not future.done():
        return False
    if future.cancelled() or future.exception() is not None:
        return True
    result = future.result()
    return isinstance(result, CompileFailure) and result.transient


def use_cache(cache_dir: str | Path) -> None:
    """Let launches of this process look kernels up where a pool compiles them."""
    os.environ["TRITON_CACHE_DIR"] = str(Path(cache_dir).absolute())
