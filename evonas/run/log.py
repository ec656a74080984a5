"""The event log: one writer, an append-only sequence of Arrow segments, durable group by group."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator, Mapping
from importlib import metadata as package_metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.run._files import sync_directory, unusable
from evonas.run.schema import KINDS, Event, batch_events, event_types
from evonas.run.segments import (
    EVENTS,
    LogState,
    batch_metadata,
    known_columns,
    segment_path,
    segment_paths,
    segment_schema,
    walk,
)

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 100
SEGMENT_BYTES = 64 << 20


class EventLog:
    """The writer. Take the run's lock first: nothing here keeps a second process from writing.

    ``append`` numbers an event and keeps it in memory; ``flush`` writes what is pending as one record
    batch and returns when it is on the disk. Every ``GROUP``-th append flushes by itself. After a failed
    write the log takes no more events, and whatever was flushed before stays readable.
    """

    def __init__(self, directory: Path, state: LogState, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Begins segment ``state.last_segment + 1``; use ``create`` or ``open``."""
        self.directory = directory
        self.run_id = state.run_id
        self.metadata = dict(state.metadata)
        self._limit = segment_bytes
        self._number = state.last_segment
        self._safe = self._next = state.next_seq
        self._pending: list[Event] = []
        self._stamps: list[int] = []
        self._failure: str | None = None
        self._fd = -1
        self._types = [event_types()[name] for name in Event._fields]
        self._begin()

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        run_id: str,
        metadata: Mapping[str, Any],
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> EventLog:
        """A new log in the folder ``directory``/events.

        Args:
            metadata: JSON-able facts that every segment repeats; ``proxies`` names the scores.
            segment_bytes: size at which the next segment begins.

        Raises:
            UsageError: there is a log already.
            EnvironmentUnusable: the folder cannot be written.
        """
        path = Path(directory)
        try:
            (path / EVENTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(f"creating {path / EVENTS}", error) from error
        before = scan_log(path) if segment_paths(path / EVENTS) else LogState()
        if before.run_id:
            raise UsageError(f"{path} holds an event log already", hint=f"evonas resume {path}")
        state = LogState(run_id=run_id, metadata=dict(metadata), last_segment=before.last_segment)
        return cls(path, state, segment_bytes=segment_bytes)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        run_id: str | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> EventLog:
        """Goes on with a log: checks all of it, then begins a new segment after its last whole event.

        Raises:
            UsageError: no log there.
            LogCorrupt: damage that is not a torn tail, or a log of another run than ``run_id``.
            EnvironmentUnusable: the folder cannot be written.
        """
        path = Path(directory)
        state = scan_log(path, run_id=run_id)
        if not state.run_id:
            raise UsageError(f"no event in {path}", hint="the run stopped before its first event: start anew")
        return cls(path, state, segment_bytes=segment_bytes)

    @property
    def next_seq(self) -> int:
        """The number that the next event gets."""
        return self._next

    @property
    def safe_events(self) -> int:
        """How many events are on the disk."""
        return self._safe

    @property
    def segment(self) -> Path:
        """The file that is being written."""
        return segment_path(self.directory / EVENTS, self._number)

    def append(self, event: Event) -> int:
        """Takes one event and returns its number. It is durable after the next flush.

        Raises:
            ValueError: a kind that is not in ``KINDS``.
            EnvironmentUnusable: an earlier write has failed, or this one does.
        """
        if self._failure is not None:
            raise EnvironmentUnusable(self._failure, hint=f"evonas resume {self.directory}")
        if event.kind not in KINDS:
            raise ValueError(f"unknown event kind {event.kind!r}: known are {', '.join(sorted(KINDS))}")
        self._pending.append(event)
        self._stamps.append(time.time_ns() // 1000)
        seq = self._next
        self._next = seq + 1
        if len(self._pending) >= GROUP:
            self.flush()
        return seq

    def flush(self) -> None:
        """Writes all pending events as one batch and waits until the disk has them.

        Raises:
            ValueError: an event holds a value that its column cannot (the log is closed for writing).
            EnvironmentUnusable: the disk does not take it; says how many events are safe.
        """
        if not self._pending:
            return
        if self._failure is not None:
            raise EnvironmentUnusable(self._failure, hint=f"evonas resume {self.directory}")
        batch = self._batch()
        self._write(self._encoded(batch, batch_metadata(batch, self._safe)))
        self._safe = self._next
        self._pending.clear()
        self._stamps.clear()
        if self._offset >= self._limit:
            self._finish()
            self._begin()

    def close(self) -> None:
        """Flushes and writes the end mark; a second call does nothing."""
        if self._fd < 0:
            return
        try:
            if self._failure is None:
                self.flush()
                self._finish()
        finally:
            self._drop()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            if self._failure is None and self._fd >= 0:
                self.flush()
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._failure is None:
            self._failure = f"the event log of {self.directory} is closed"

    def _begin(self) -> None:
        import pyarrow as pa

        self._number += 1
        self._schema = segment_schema(self.run_id, self._number, self._safe, self.metadata, _writer())
        probe = io.BytesIO()
        pa.ipc.new_stream(probe, self._schema).close()
        head = probe.getvalue()[:-8]  # all but the end mark of 8 bytes
        self._buffer = io.BytesIO()
        self._stream = pa.ipc.new_stream(self._buffer, self._schema)
        self._skip = len(head)  # the stream repeats the schema in front of its first batch
        self._offset = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.segment, flags, 0o644)
            sync_directory(self.segment.parent)
        except OSError as error:
            raise self._failed(error, f"creating {self.segment}") from error
        self._write(head)

    def _finish(self) -> None:
        empty = _empty(self._schema)
        marked = self._encoded(empty, batch_metadata(empty, self._next, end=True))
        self._stream.close()
        self._write(marked + self._taken())
        os.close(self._fd)
        self._fd = -1

    def _batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        rows = len(self._pending)
        arrays = {}
        for name, kind, values in zip(
            Event._fields, self._types, zip(*self._pending, strict=True), strict=True
        ):
            if name == "seq":
                values = tuple(range(self._safe, self._safe + rows))
            elif name == "ts":
                values = tuple(self._stamps)
            try:
                arrays[name] = pa.array(values, kind)
            except UnicodeEncodeError:
                clean = [v and v.encode("utf-8", "backslashreplace").decode() for v in values]
                arrays[name] = pa.array(clean, kind)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                self._failure = f"the event log of {self.directory} was closed by a malformed event"
                raise ValueError(f"an event among {rows} does not fit column {name!r}: {error}") from error
        return pa.RecordBatch.from_arrays([arrays[f.name] for f in self._schema], schema=self._schema)

    def _encoded(self, batch: pa.RecordBatch, custom: dict[str, str]) -> bytes:
        self._stream.write_batch(batch, custom_metadata=custom)
        return self._taken()

    def _taken(self) -> bytes:
        data = self._buffer.getvalue()[self._skip :]
        self._skip = 0
        self._buffer.seek(0)
        self._buffer.truncate()
        return data

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
            if os.fstat(self._fd).st_nlink == 0:
                raise FileNotFoundError(2, "the file was deleted while it was being written")
        except OSError as error:
            raise self._failed(error, f"appending {len(self._pending)} events to {self.segment}") from error
        self._offset += len(data)

    def _failed(self, error: OSError, doing: str) -> EnvironmentUnusable:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # readers cope with the torn tail that may remain
                os.ftruncate(self._fd, self._offset)
            os.close(self._fd)
            self._fd = -1
        gone = not self.directory.exists()
        state = "" if gone else f"; {self._safe:,} events are safe"
        failure = unusable(doing, error, then=f"evonas resume {self.directory}", state=state)
        self._failure = failure.message
        return failure


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def _writer() -> str:
    try:
        return f"evonas {package_metadata.version('evonas')}"
    except package_metadata.PackageNotFoundError:
        return "evonas"


def scan_log(directory: str | os.PathLike[str], *, run_id: str | None = None) -> LogState:
    """Checks every batch of a log and says how far it goes.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail.
    """
    state = LogState()
    for _ in walk(Path(directory), state, run_id):
        pass
    return state


def read_events(directory: str | os.PathLike[str], *, run_id: str | None = None) -> Iterator[Event]:
    """Every event of a run in order, one segment in memory at a time. Works on a live run.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail (the events before it were yielded).
    """
    for batch in walk(Path(directory), LogState(), run_id):
        yield from batch_events(batch)


def read_table(directory: str | os.PathLike[str], *, run_id: str | None = None) -> pa.Table:
    """Every event of a run as one Arrow table with the columns of ``evonas.run.schema.COLUMNS``.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail.
    """
    return known_columns(list(walk(Path(directory), LogState(), run_id)))
