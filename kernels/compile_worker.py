"""A child process that compiles kernels: lines of JSON in, lines of JSON out.

The child imports triton and nothing else that is large, starts no thread, and ends when its parent is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from evonas.kernels.offline import CompileFailure, CompileReport, CompileResult, compile_here
from evonas.kernels.spec import KernelSpec

from evonas.errors import EnvironmentUnusable

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from evonas.kernels.compile_worker import main; main(int(sys.argv[2]))"
)
_START_S = 120.0
_ORPHAN_S = 2.0
_TAIL = 1000


class ChildEnded(Exception):
    """The child is no more. ``late``: it was ended for missing its deadline."""

    def __init__(self, reason: str, *, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


class CompilerProcess:
    """One child; starts at once and becomes ready later. One thread may ask at a time; any may ``kill``."""

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="evonas-compile-")  # noqa: SIM115
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["OMP_NUM_THREADS"] = "1"
        environment["PYTHONDONTWRITEBYTECODE"] = (
            "1"  # pyc files beside kernels that are rewritten in one second
        )
        if cache_dir is not None:
            environment["TRITON_CACHE_DIR"] = str(Path(cache_dir).absolute())
        path = json.dumps([p or os.getcwd() for p in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, path, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the owner, and the assembler ends with its group
        )
        self._buffer = b""
        self._ready = False
        self.served = 0  # jobs

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, deadline: float = _START_S) -> None:
        """Until the child has imported triton.

        Raises:
            EnvironmentUnusable: it cannot.
            ChildEnded: it died, or was not ready in ``deadline`` seconds.
        """
        if not self._ready:
            answer = self._receive(deadline)
            if "error" in answer:
                raise EnvironmentUnusable(answer["error"], hint="pip install triton, or use backend='eager'")
            self._ready = True

    def compile(
        self,
        spec: KernelSpec,
        target: str,
        *,
        cache_dir: str | Path | None = None,
        sass: bool = False,
        deadline: float = 120.0,
    ) -> CompileResult:
        """One kernel. A child that dies or is late is a ``CompileFailure``, and has to be replaced.

        Raises:
            EnvironmentUnusable: see ``wait_ready``.
            ChildEnded: it was dead before it had the job: another child can take it.
        """
        self.wait_ready()
        folder = None if cache_dir is None else str(Path(cache_dir).absolute())
        job = {"spec": spec.as_dict(), "target": target, "cache_dir": folder, "sass": sass}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise ChildEnded(self._reason()) from None
        self.served += 1
        self._receive(_START_S)  # it has taken the job: what happens from here on is the job's doing
        try:
            answer = self._receive(deadline)
        except ChildEnded as end:
            kind = "deadline" if end.late else "died"
            return CompileFailure(spec.key(target), spec.function, target, kind, str(end))
        if "report" in answer:
            return CompileReport.from_dict(answer["report"])
        return CompileFailure(**answer["failure"])

    def kill(self) -> None:
        """End the child and its assembler now."""
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill, and free what it held. Not while another thread asks."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with contextlib.suppress(OSError):  # a line that the child did not take
                stream.close()

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()  # select() cannot watch descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        end = time.monotonic() + deadline
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                self.kill()
                self._process.wait()
                raise ChildEnded(f"took longer than {deadline:g} s", late=True)
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise ChildEnded(self._reason())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self) -> str:
        """How the child ended, and the last it had to say."""
        self.kill()
        code = self._process.wait()
        size = self._log.seek(0, os.SEEK_END)
        said = os.pread(self._log.fileno(), _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
        return f"the compiler's process {how}" + (f": {said}" if said else "")


_shared: CompilerProcess | None = None
_shared_owner = 0
_shared_lock = threading.Lock()


@contextlib.contextmanager
def shared_process() -> Iterator[CompilerProcess]:
    """The child for single compilations, which stays for the next. A forked process gets one of its own."""
    global _shared, _shared_owner
    with _shared_lock:
        if _shared is None or _shared_owner != os.getpid() or not _shared.alive:
            if _shared is None:
                atexit.register(_close_shared)
            elif _shared_owner == os.getpid():
                _shared.close()
            _shared, _shared_owner = CompilerProcess(), os.getpid()
        try:
            yield _shared
        except ChildEnded as end:
            raise EnvironmentUnusable(str(end), hint="is there enough memory? run `evonas doctor`") from None


def _close_shared() -> None:
    if _shared is not None and _shared_owner == os.getpid():
        _shared.close()


def main(parent: int) -> None:
    """The child. ``parent``: process id; when it is not this one's parent any more, the child ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a kernel's file may print

    def answer(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        import triton
    except ImportError as error:
        answer({"error": f"{error}: kernels need it"})
        return
    _warm()
    answer({"ready": triton.__version__})
    buffer = b""
    while os.getppid() == parent:
        line, found, rest = buffer.partition(b"\n")
        if found:
            buffer = rest
            answer({"taken": True})
            answer(_serve(json.loads(line)))
            continue
        # A forked sibling may hold the other end of the pipe open: do not wait for its end alone.
        if select.select([0], [], [], _ORPHAN_S)[0]:
            piece = os.read(0, 1 << 16)
            if not piece:
                return
            buffer += piece


def _warm() -> None:
    """Triton hashes itself once in a process, half a second that is not the first kernel's."""
    for name in ("triton.runtime.cache", "triton.compiler.compiler"):  # where it is depends on the version
        hash_itself = getattr(importlib.import_module(name), "triton_key", None)
        if hash_itself is not None:
            hash_itself()
            return


def _serve(job: dict[str, Any]) -> dict[str, Any]:
    spec = KernelSpec.from_dict(job["spec"])
    try:
        result = compile_here(spec, job["target"], cache_dir=job["cache_dir"], sass=job["sass"])
    except EnvironmentUnusable as error:
        result = CompileFailure("", spec.function, job["target"], "environment", error.message)
    return {"report" if result.ok else "failure": result.as_dict()}
