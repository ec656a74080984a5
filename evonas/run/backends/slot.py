"""The inside of an evaluation slot: one process, one thread, one candidate at a time."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from time import monotonic
from typing import Any

from evonas.errors import EvonasError
from evonas.evaluation.protocol import STATUSES, Evaluator, EvaluatorSpec, Outcome, Task
from evonas.evaluation.registry import build_evaluator
from evonas.run.backends import wire
from evonas.run.backends.limits import (
    die_with_parent,
    is_out_of_memory,
    limit_memory,
    offer_to_oom_killer,
    settle_torch,
)
from evonas.run.backends.note import StartNote

#: Above glibc's mmap threshold (128 KB) every read would map and unmap its buffer.
_READ = 1 << 16
#: Seconds that an answer may wait for others.
_FLUSH_S = 0.001
#: An evaluation shorter than this leaves the peak of the resident memory unmeasured.
_WEIGH_S = 0.001


def evaluate(evaluator: Evaluator, task: Task) -> tuple[Outcome, bool]:
    """The outcome of one task, whatever the evaluator does short of killing its process.

    The flag is true after an allocation failed: the process should be replaced.
    """
    start = monotonic()
    worn = False
    try:
        outcome = _conforming(evaluator.evaluate([task]), task)
    except Exception as error:
        worn = is_out_of_memory(error)
        reason = "out_of_memory" if worn else f"error: {_describe(error)}"
        outcome = wire.failure(task, reason)
    seconds = monotonic() - start
    if not outcome.seconds:
        outcome.seconds = seconds
    if not outcome.peak_rss and seconds > _WEIGH_S:
        outcome.peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome, worn


def _conforming(answer: Any, task: Task) -> Outcome:
    if not isinstance(answer, (list, tuple)) or len(answer) != 1 or not isinstance(answer[0], Outcome):
        return wire.failure(
            task, f"error: the evaluator answered {_short(answer)}, needed a list of one Outcome"
        )
    outcome: Outcome = answer[0]
    if outcome.candidate != task.candidate or outcome.attempt != task.attempt:
        return wire.failure(
            task,
            f"error: the evaluator answered for candidate {_short(outcome.candidate)} attempt "
            f"{_short(outcome.attempt)}, asked for {task.candidate} attempt {task.attempt}",
        )
    if outcome.status not in STATUSES:
        return wire.failure(task, f"error: the evaluator answered with status {_short(outcome.status)}")
    return outcome


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _describe(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[:500] + where


def encode(outcome: Outcome, task: Task) -> bytes:
    """JSON of an outcome; values that JSON does not have make it a failed one."""
    try:
        return wire.encode_outcome(outcome)
    except (TypeError, ValueError) as error:
        return wire.encode_outcome(wire.failure(task, f"error: the outcome is not plain data ({error})"))


def harden(parent: int, *, cuda: bool) -> None:
    """Own session, dies with ``parent``, deaf to Ctrl-C, first in line for the kernel's OOM killer."""
    with contextlib.suppress(OSError):
        os.setsid()
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    offer_to_oom_killer()
    faulthandler.enable(file=2)
    if cuda:
        # CUDA reserves address space far beyond what it uses; the owner watches the resident memory.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Desk:
    """The tasks that a slot has in hand, and the answers that it has not sent yet."""

    def __init__(self, channel: socket.socket, note: StartNote, evaluator: Evaluator) -> None:
        self._channel = channel
        self._note = note
        self._evaluator = evaluator
        self._answers: list[wire.Record] = []
        self._flushed = 0.0

    def work(self, records: Sequence[wire.Record]) -> bool:
        """Answer tasks; False once the process is worn and must go.

        Answers leave together when they are fast to find, at most ``_FLUSH_S`` after one another.
        """
        for ticket, _, body in records:
            task = wire.decode_task(body)
            start = self._note.begin()
            outcome, worn = evaluate(self._evaluator, task)
            encoded = encode(outcome, task)
            now = monotonic()
            self._answers.append((ticket, now - start, encoded))
            if worn:
                self._flush(now)
                self._channel.sendall(wire.frame(wire.RETIRE))
                return False
            if now - self._flushed > _FLUSH_S:
                self._flush(now)
        self._flush(monotonic())
        return True

    def _flush(self, now: float) -> None:
        self._flushed = now
        if self._answers:
            self._channel.sendall(wire.frame(wire.ANSWERS, wire.pack_records(self._answers)))
            self._answers.clear()


def serve(
    channel: socket.socket, note: StartNote, spec: EvaluatorSpec, *, memory_limit: int, cuda: bool
) -> int:
    """Build the evaluator, answer tasks until the owner hangs up; the exit code."""
    settle_torch()
    try:
        evaluator = build_evaluator(spec)
    except EvonasError as error:
        channel.sendall(wire.frame(wire.FATAL, json.dumps(wire.dump_error(error)).encode()))
        return 3
    settle_torch()
    if not cuda:
        limit_memory(memory_limit)
    channel.sendall(wire.frame(wire.READY))
    reader = wire.FrameReader()
    desk = Desk(channel, note, evaluator)
    while data := channel.recv(_READ):
        for kind, payload in reader.feed(data):
            if kind != wire.TASKS:
                raise wire.WireError(f"a slot got a frame of kind {kind!r}")
            if not desk.work(wire.unpack_records(payload)):
                return 0
    return 0


def run(channel: socket.socket, note: StartNote, parent: int, config: dict[str, Any]) -> int:
    """The whole life of a slot after the fork; never raises."""
    try:
        harden(parent, cuda=config["cuda"])
        spec = EvaluatorSpec.from_json(config["spec"])
        return serve(channel, note, spec, memory_limit=config["memory_limit"], cuda=config["cuda"])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


def main(argv: Sequence[str]) -> None:
    """A spawned slot: ``argv`` is the JSON configuration and the descriptors of channel and note."""
    config = json.loads(argv[0])
    sys.path[:] = config["sys_path"]
    channel = socket.socket(fileno=int(argv[1]))
    os._exit(run(channel, StartNote(int(argv[2])), os.getppid(), config))
