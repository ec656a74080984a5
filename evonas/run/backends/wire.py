"""Bytes between processes: framed messages, and records that carry JSON through without parsing it.

A *record* is ``(ticket, number, body)``: the ticket identifies a task within its owner, the number is
the deadline of a task or the duration of an answer (seconds), the body is the JSON of a ``Task`` or an
``Outcome``. Owners and actors pass bodies on unread; only the driver and the slot parse them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from evonas.evaluation.protocol import Outcome, StageReport, Task

Record = tuple[int, float, bytes]

_RECORD = struct.Struct("<QdI")
_FRAME = struct.Struct("<cI")
MAX_FRAME = 256 * 2**20

#: Kinds of frame. Owner to slot: TASKS. Slot to owner: READY once, ANSWERS, RETIRE before it leaves
#: on its own account, FATAL (a JSON error) when no slot can ever work.
TASKS, READY, ANSWERS, RETIRE, FATAL = b"T", b"R", b"A", b"X", b"F"


class WireError(ValueError):
    """Bytes that are not a frame: the sender is broken and must be replaced."""


def pack_records(records: Iterable[Record]) -> bytes:
    out = []
    for ticket, number, body in records:
        out.append(_RECORD.pack(ticket, number, len(body)))
        out.append(body)
    return b"".join(out)


def unpack_records(data: bytes) -> list[Record]:
    records: list[Record] = []
    at, end, head = 0, len(data), _RECORD.size
    while at < end:
        if end - at < head:
            raise WireError("a record header is cut off")
        ticket, number, size = _RECORD.unpack_from(data, at)
        at += head
        if end - at < size:
            raise WireError("a record body is cut off")
        records.append((ticket, number, data[at : at + size]))
        at += size
    return records


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return _FRAME.pack(kind, len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into ``(kind, payload)``."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        buffer = self._buffer + data if self._buffer else data
        at, end, head = 0, len(buffer), _FRAME.size
        try:
            while end - at >= head:
                kind, size = _FRAME.unpack_from(buffer, at)
                if size > MAX_FRAME or kind not in (TASKS, READY, ANSWERS, RETIRE, FATAL):
                    raise WireError(f"a frame of kind {kind!r} and {size} bytes")
                if end - at - head < size:
                    break
                payload = buffer[at + head : at + head + size]
                at += head + size
                yield kind, payload
        finally:
            self._buffer = buffer[at:]


def encode_task(ticket: int, task: Task) -> Record:
    """The record of a task; fields that have their default value do not travel."""
    fields: dict[str, Any] = {"candidate": task.candidate, "formula": task.formula}
    if task.attempt != 1:
        fields["attempt"] = task.attempt
    if task.arm != "search":
        fields["arm"] = task.arm
    if task.seed:
        fields["seed"] = task.seed
    if task.mode != "funnel":
        fields["mode"] = task.mode
    if task.budget != 1.0:
        fields["budget"] = task.budget
    if task.bar is not None:
        fields["bar"] = dict(task.bar)
    if task.lr:
        fields["lr"] = dict(task.lr)
    if task.lr_factors:
        fields["lr_factors"] = task.lr_factors
    if task.data_shares:
        fields["data_shares"] = task.data_shares
    fields["deadline_s"] = task.deadline_s
    return ticket, float(task.deadline_s), _dumps(fields)


def decode_task(body: bytes) -> Task:
    return Task.from_dict(json.loads(body.decode()))


def encode_outcome(outcome: Outcome) -> bytes:
    """The body of an answer. What the asker knows (arm, seed, mode) does not travel."""
    fields: dict[str, Any] = {
        "candidate": outcome.candidate,
        "status": outcome.status,
        "attempt": outcome.attempt,
        "seconds": outcome.seconds,
        "peak_rss": outcome.peak_rss,
    }
    if outcome.stage is not None:
        fields["stage"] = outcome.stage
    if outcome.reason is not None:
        fields["reason"] = outcome.reason
    if outcome.scores:
        fields["scores"] = outcome.scores
    if outcome.reports:
        fields["reports"] = [asdict(report) for report in outcome.reports]
    if outcome.latency_us is not None:
        fields["latency_us"], fields["latency_source"] = outcome.latency_us, outcome.latency_source
    return _dumps(fields)


def _plain(value: Any) -> Any:
    """JSON form of what an evaluator may put into its evidence: numpy scalars and arrays."""
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return to_list()


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_plain)


def _dumps(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def decode_outcome(task: Task, body: bytes) -> Outcome:
    """The outcome in ``body``, or a failed one if it is none or belongs to another task."""
    try:
        fields = json.loads(body.decode())
        if "reports" in fields:
            fields["reports"] = [StageReport(**report) for report in fields["reports"]]
        outcome = Outcome(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return failure(task, f"error: unreadable answer ({error})")
    if outcome.candidate != task.candidate or outcome.attempt != task.attempt:
        return failure(task, f"error: answer for candidate {outcome.candidate}, asked for {task.candidate}")
    outcome.arm, outcome.seed, outcome.mode = task.arm, task.seed, task.mode
    return outcome


def failure(task: Task, reason: str, *, status: str = "failed", seconds: float = 0.0) -> Outcome:
    """An outcome without scores: ``failed`` is the candidate's fault, ``lost`` is not."""
    return Outcome(
        task.candidate,
        status,
        attempt=task.attempt,
        reason=reason,
        seconds=seconds,
        arm=task.arm,
        seed=task.seed,
        mode=task.mode,
    )


def failure_record(record: Record, reason: str, *, status: str = "failed", seconds: float = 0.0) -> Record:
    """``failure`` for a task that is at hand as a record."""
    task = decode_task(record[2])
    return record[0], seconds, encode_outcome(failure(task, reason, status=status, seconds=seconds))


def dump_error(error: Exception) -> dict[str, Any]:
    """An exception of the ``EvonasError`` family as plain values."""
    return {
        "type": type(error).__name__,
        "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", None),
    }


def load_error(data: dict[str, Any]) -> Exception:
    """The exception that ``dump_error`` wrote; an unknown type becomes ``EnvironmentUnusable``."""
    from evonas import errors

    kind = getattr(errors, str(data.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.EvonasError)):
        kind = errors.EnvironmentUnusable
    return kind(str(data.get("message")), hint=data.get("hint"))
