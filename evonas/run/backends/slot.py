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
from time import perf_counter
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

_NICENESS = 5


def evaluate(evaluator: Evaluator, task: Task) -> tuple[Outcome, bool]:
    """The outcome of one task, whatever the evaluator does short of killing its process.

    The flag is true after an allocation failed: the process should be replaced.
    """
    start = perf_counter()
    worn = False
    try:
        outcome = _conforming(evaluator.evaluate([task]), task)
    except Exception as error:
        worn = is_out_of_memory(error)
        reason = "out_of_memory" if worn else f"error: {_describe(error)}"
        outcome = wire.failure(task, reason)
    outcome.arm, outcome.seed, outcome.mode = task.arm, task.seed, task.mode
    if not outcome.seconds:
        outcome.seconds = perf_counter() - start
    if not outcome.peak_rss:
        outcome.peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome, worn


def _conforming(answer: Any, task: Task) -> Outcome:
    if not isinstance(answer, Sequence) or len(answer) != 1 or not isinstance(answer[0], Outcome):
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
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    faulthandler.enable(file=2)
    if cuda:
        # CUDA reserves address space far beyond what it uses; the owner watches the resident memory.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(channel: socket.socket, spec: EvaluatorSpec, *, memory_limit: int, cuda: bool) -> int:
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
    while data := channel.recv(1 << 18):
        for kind, payload in reader.feed(data):
            if kind != wire.TASKS:
                raise wire.WireError(f"a slot got a frame of kind {kind!r}")
            for ticket, _, body in wire.unpack_records(payload):
                task = Task.from_dict(json.loads(body))
                start = perf_counter()
                outcome, worn = evaluate(evaluator, task)
                record = (ticket, perf_counter() - start, encode(outcome, task))
                channel.sendall(wire.frame(wire.ANSWERS, wire.pack_records([record])))
                if worn:
                    channel.sendall(wire.frame(wire.RETIRE))
                    return 0
    return 0


def run(channel: socket.socket, parent: int, config: dict[str, Any]) -> int:
    """The whole life of a slot after the fork; never raises."""
    try:
        harden(parent, cuda=config["cuda"])
        spec = EvaluatorSpec.from_json(config["spec"])
        return serve(channel, spec, memory_limit=config["memory_limit"], cuda=config["cuda"])
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
    """A spawned slot: ``argv`` is the number of the channel's descriptor and the JSON configuration."""
    channel = socket.socket(fileno=int(argv[0]))
    config = json.loads(argv[1])
    sys.path[:] = config["sys_path"]
    os._exit(run(channel, os.getppid(), config))
