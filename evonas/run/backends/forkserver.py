"""The process that loads torch once and forks slots from there.

multiprocessing's own fork server imports the user's ``__main__`` again and talks pickle; this one does
neither. It has a single thread and runs no torch operation, so a fork of it is safe; if a preloaded
module has started a thread, slots are spawned (fork and exec) instead, as they are for CUDA.

Control messages are JSON datagrams on a sequenced-packet socket. To the server: the configuration
once, then ``{"do": "start", "slot", "env"}`` with three descriptors (channel, log, note) and ``{"do": "kill",
"slot"}``. From it: ``hello``, ``started``, ``exit`` and ``fatal``. When the owner hangs up, the server
kills what it has started and leaves.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from evonas.errors import EvonasError
from evonas.evaluation.protocol import EvaluatorSpec
from evonas.run.backends import slot, wire
from evonas.run.backends.note import StartNote

_MAX_MESSAGE = 1 << 16


def preload(spec: EvaluatorSpec) -> str | None:
    """Load what all slots of ``spec`` share; why that was not possible, or None."""
    from evonas.evaluation.registry import find_evaluator

    registration = find_evaluator(spec)
    try:
        for name in registration.imports:
            importlib.import_module(name)
        if registration.preload is not None:
            registration.preload(spec.options)
    except EvonasError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return None


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Server:
    """The loop of the fork server."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control = control
        self._config = config
        self._owner = os.getppid()
        self._spawn = bool(config["cuda"])
        self._pids: dict[int, int] = {}
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        note = None
        if not self._spawn:
            try:
                note = preload(EvaluatorSpec.from_json(self._config["spec"]))
            except EvonasError as error:
                self._send({"event": "fatal", "error": wire.dump_error(error)})
                return
            self._spawn = count_threads() > 1
            gc.collect()
            gc.freeze()
        self._send({"event": "hello", "mode": "spawn" if self._spawn else "fork", "note": note})
        try:
            while self._step():
                pass
        finally:
            for pid in self._pids.values():
                _kill_group(pid)

    def _step(self) -> bool:
        ready, _, _ = select.select([self._control, self._wake], [], [], 1.0)
        if os.getppid() != self._owner:
            return False
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass
        self._reap()
        if self._control in ready:
            message, fds = _receive(self._control)
            if message is None:
                return False
            if message["do"] == "start":
                self._start(message, fds)
            elif message["do"] == "kill" and message["slot"] in self._pids:
                _kill_group(self._pids[message["slot"]])
        return True

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        channel, log, note = fds
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = self._become_slot(channel, log, note, parent, message["env"])
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        self._pids[message["slot"]] = pid
        self._send({"event": "started", "slot": message["slot"], "pid": pid})

    def _become_slot(self, channel: int, log: int, note: int, parent: int, env: dict[str, str]) -> int:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._wake, self._waker):
            end.close()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(null)
        os.close(log)
        os.environ.update(env)
        if not self._spawn:
            return slot.run(socket.socket(fileno=channel), StartNote(note), parent, self._config)
        os.set_inheritable(channel, True)
        os.set_inheritable(note, True)
        code = (
            "import sys, json; sys.path[:] = json.loads(sys.argv[1])['sys_path'];"
            "from evonas.run.backends.slot import main; main(sys.argv[1:])"
        )
        os.execve(
            sys.executable,
            [sys.executable, "-c", code, json.dumps(self._config), str(channel), str(note)],
            dict(os.environ),
        )
        return 1

    def _reap(self) -> None:
        for name, pid in list(self._pids.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            del self._pids[name]
            self._send({"event": "exit", "slot": name, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())


def _kill_group(pid: int) -> None:
    """SIGKILL to a slot, by session once it has its own, and to what it started."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(3 * fds.itemsize))
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return (json.loads(data) if data else None), list(fds)


def main(argv: Sequence[str]) -> None:
    """``argv``: the number of the control socket's descriptor."""
    control = socket.socket(fileno=int(argv[0]))
    config, _ = _receive(control)
    if config is not None:
        Server(control, config).run()
    os._exit(0)
