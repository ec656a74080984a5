"""The owner's handle of a fork server: start slots, kill slots, hear of their ends."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from typing import IO, Any

from evonas.evaluation.protocol import EvaluatorSpec
from evonas.run.backends.limits import ONE_THREAD
from evonas.run.backends.note import StartNote

_MAX_MESSAGE = 1 << 16
_TAIL = 4096
_LOG_CAP = 1 << 20

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]);"
    "from evonas.run.backends.forkserver import main; main(sys.argv[1:])"
)


class Log:
    """What a process writes to stdout and stderr: an unlinked file of bounded size; its tail counts."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(mode="ab+", buffering=0, prefix="evonas-slot-")  # noqa: SIM115

    def fileno(self) -> int:
        return self._file.fileno()

    def trim(self) -> None:
        """Drop everything once the process has written more than the cap; it appends, so it goes on."""
        if os.fstat(self._file.fileno()).st_size > _LOG_CAP:
            os.ftruncate(self._file.fileno(), 0)

    def tail(self) -> str:
        """The last 4 KB, without leading and trailing blanks."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), _TAIL, max(0, size - _TAIL)).decode(errors="replace").strip()

    def close(self) -> None:
        self._file.close()


class Launcher:
    """One fork server process. ``receive`` never blocks; the descriptor is readable when it has news."""

    def __init__(self, spec: EvaluatorSpec, *, memory_limit: int, cuda: bool) -> None:
        path = [p or os.getcwd() for p in sys.path]
        config = {"spec": spec.to_json(), "memory_limit": memory_limit, "cuda": cuda, "sys_path": path}
        self.log = Log()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self.log.fileno(),
                stderr=self.log.fileno(),
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._control.send(json.dumps(config).encode())

    def fileno(self) -> int:
        return self._control.fileno()

    def start(
        self, slot: int, channel: socket.socket, log: Log, note: StartNote, env: dict[str, str]
    ) -> None:
        fds = array.array("i", [channel.fileno(), log.fileno(), note.fileno()])
        self._send({"do": "start", "slot": slot, "env": env}, fds)

    def kill(self, slot: int) -> None:
        self._send({"do": "kill", "slot": slot})

    def _send(self, message: dict[str, Any], fds: array.array[int] | None = None) -> None:
        ancillary = [] if fds is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        # A server that died shows as the end of ``receive``, where it is dealt with.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendmsg([json.dumps(message).encode()], ancillary)

    def receive(self) -> list[dict[str, Any]] | None:
        """Messages that have arrived, or None when the server is gone."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                data = self._control.recv(_MAX_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                data = b""
            if not data:
                return messages or None
            messages.append(json.loads(data))

    def close(self) -> None:
        """Hang up: the server kills its slots and leaves; wait until it has."""
        self._control.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.log.close()
