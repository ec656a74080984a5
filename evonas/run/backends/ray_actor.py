"""The owner of the slots of one node: what the Ray backend runs as an actor there.

Imports neither ray nor torch: the actor's process stays small, torch lives in the fork server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from evonas.errors import EnvironmentUnusable, EvonasError
from evonas.evaluation.protocol import EvaluatorSpec
from evonas.run.backends import wire
from evonas.run.backends.pool import SlotPool
from evonas.run.backends.wire import Record

#: First byte of what a method returns: answers as records, or an error as JSON.
ANSWERS, ERROR = b"A", b"E"
#: A plug-in on its way to a node: file name, sha256, content.
PluginFile = tuple[str, str, bytes]


_TIMES = struct.Struct("<dd")


def pack_call(records: Sequence[Record], wait: float, linger: float) -> bytes:
    """The argument of ``SlotOwner.exchange``."""
    return _TIMES.pack(wait, linger) + wire.pack_records(records)


class SlotOwner:
    """A ``SlotPool`` that moves on whenever the driver calls; the calls are carried out one by one."""

    def __init__(
        self, spec: str, capacity: int, memory_limit: int | None, plugins: Sequence[PluginFile], gpus: bool
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="evonas-plugins-")) if plugins else None
        located = replace(EvaluatorSpec.from_json(spec), plugins=self._unpack(plugins))
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
        self._pool = SlotPool(located, capacity, memory_limit=memory_limit, gpus=[d for d in devices if d])
        self._answers: list[Record] = []

    def _unpack(self, plugins: Sequence[PluginFile]) -> tuple[dict[str, str], ...]:
        described = []
        for index, (name, sha256, content) in enumerate(plugins):
            assert self._folder is not None
            path = self._folder / str(index) / Path(name).name
            path.parent.mkdir()
            path.write_bytes(content)
            described.append({"path": str(path), "sha256": sha256})
        return tuple(described)

    def start(self, timeout: float) -> bytes:
        """Start the slots and wait until one is ready; ``ANSWERS`` alone, or an error."""
        try:
            self._pool.start()
            end = monotonic() + timeout
            while not self._pool.describe()["ready"]:
                self._pool.poll(0.02)
                if monotonic() > end:
                    raise EnvironmentUnusable(f"no evaluation slot was ready after {timeout:.0f} s")
        except EvonasError as error:
            return _error(error)
        return ANSWERS

    def exchange(self, call: bytes) -> bytes:
        """Take tasks, give answers: wait up to ``wait`` seconds for one, then ``linger`` for more of them.

        ``call`` is what ``pack_call`` makes: Ray spends about 20 us on each argument.
        """
        wait, linger = _TIMES.unpack_from(call)
        try:
            if len(call) > _TIMES.size:
                self._pool.submit(wire.unpack_records(call[_TIMES.size :]))
            answers, self._answers = self._answers, []
            answers += self._pool.poll(0.0 if answers else wait)
            end = monotonic() + linger
            while linger and answers and (left := end - monotonic()) > 0:
                answers += self._pool.poll(left)
        except EvonasError as error:
            return _error(error)
        return ANSWERS + wire.pack_records(answers)

    def describe(self) -> dict[str, Any]:
        with contextlib.suppress(EvonasError):  # the next exchange meets it again and reports it
            self._answers += self._pool.poll(0.02)
        return {**self._pool.describe(), "owner_pid": os.getpid()}

    def close(self) -> None:
        """End every slot and the fork server, and wait for that."""
        self._pool.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _error(error: EvonasError) -> bytes:
    return ERROR + json.dumps(wire.dump_error(error)).encode()
