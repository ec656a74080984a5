"""Reading the segments of an event log, with every check that tells a torn tail from real damage.

A segment is an Arrow IPC stream. Its schema metadata says to which run it belongs and with which event
it starts; every record batch carries a CRC-32 of its own serialised form, because the format has no
checksum. A segment that was closed in order ends with an empty batch that says so.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.errors import LogCorrupt, UsageError
from evonas.run.schema import KINDS, SCHEMA_VERSION, event_schema, event_types

if TYPE_CHECKING:
    import pyarrow as pa

EVENTS = "events"
_NAME = re.compile(r"(\d{6})\.arrows")
_CRC = "evonas.crc32"
_FIRST = "evonas.first_seq"
_END = "evonas.end"
_MARK = b"\xff\xff\xff\xff"
_HEADER_LIMIT = 1 << 20
_PAGE = 512


def segment_path(events: Path, number: int) -> Path:
    return events / f"{number:06d}.arrows"


def segment_paths(events: Path) -> list[tuple[int, Path]]:
    """Number and path of every segment, in order; other files are left alone.

    Raises:
        UsageError: there is no such folder.
    """
    try:
        found = [(int(m[1]), p) for p in events.iterdir() if (m := _NAME.fullmatch(p.name))]
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"no event log at {events}", hint="give the folder of a run, the one that holds run.json"
        ) from None
    return sorted(found)


def segment_schema(
    run_id: str, number: int, continues_seq: int, metadata: Mapping[str, Any], writer: str
) -> pa.Schema:
    """The schema of a new segment. ``metadata["proxies"]`` names the entries of ``scores``."""
    values = {
        "evonas.schema_version": "{}.{}".format(*SCHEMA_VERSION),
        "evonas.run_id": run_id,
        "evonas.segment": str(number),
        "evonas.continues_seq": str(continues_seq),
        "evonas.proxies": json.dumps(list(metadata.get("proxies", ()))),
        "evonas.metadata": json.dumps(dict(metadata), sort_keys=True),
        "evonas.writer": writer,
    }
    return event_schema({**values, _CRC: _schema_crc(event_schema(values))})


def batch_metadata(batch: pa.RecordBatch, first_seq: int, *, end: bool = False) -> dict[str, str]:
    """The custom metadata of a batch that is about to be written."""
    values = {_FIRST: str(first_seq), _CRC: _batch_crc(batch, str(first_seq), end)}
    if end:
        values[_END] = "1"
    return values


def _batch_crc(batch: pa.RecordBatch, first: str, end: bool) -> str:
    return f"{zlib.crc32(batch.serialize(), zlib.crc32(f'{first}/{end:d}'.encode())):08x}"


def _schema_crc(schema: pa.Schema) -> str:
    return f"{zlib.crc32(schema.serialize()):08x}"


@dataclass(frozen=True, slots=True)
class Header:
    """What the schema metadata of a segment says."""

    run_id: str
    continues_seq: int
    proxies: tuple[str, ...]
    metadata: dict[str, Any]
    writer: str


@dataclass(slots=True)
class LogState:
    """What a complete walk over a log has found."""

    run_id: str = ""
    proxies: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    #: events that can be read; also the number that the next event gets.
    next_seq: int = 0
    #: number of the newest segment file, readable or not.
    last_segment: int = 0
    #: whether the newest segment was closed in order.
    closed: bool = False
    #: bytes at the end of the newest segment that hold no complete batch.
    torn_bytes: int = 0


class Segment:
    """One segment file, read into memory (writers begin a new one at 64 MB)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self.torn_bytes = 0
        self._data = path.read_bytes()
        self.header = self._open()

    def _open(self) -> Header | None:
        import pyarrow as pa

        self._source = pa.BufferReader(self._data)
        try:
            self._reader = pa.ipc.open_stream(self._source)
            schema = self._reader.schema
            values = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
            version = tuple(int(part) for part in values["evonas.schema_version"].split("."))
            crc = values.pop(_CRC)
            intact = crc == _schema_crc(schema.with_metadata(values))
        except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, MemoryError) as error:
            if _frame_after(self._data, 0):
                raise self._corrupt("the schema cannot be read", 0, 0) from error
            self.torn_bytes = len(self._data)
            return None
        if version[0] > SCHEMA_VERSION[0] and intact:
            raise LogCorrupt(
                f"{self.path}: schema version {version[0]} is newer than the {SCHEMA_VERSION[0]} known here",
                hint="read it with a newer evonas: pip install --upgrade evonas",
            )
        if not intact:
            raise self._corrupt("the schema does not match its checksum", 0, 0)
        types = event_types()
        foreign = [f.name for f in schema if f.name in types and f.type != types[f.name]]
        if foreign or not {"seq", "kind"} <= set(schema.names):
            raise self._corrupt(f"not an event table (columns {foreign or schema.names})", 0, 0)
        return Header(
            values["evonas.run_id"],
            int(values["evonas.continues_seq"]),
            tuple(json.loads(values["evonas.proxies"])),
            json.loads(values["evonas.metadata"]),
            values["evonas.writer"],
        )

    def batches(self, expected: int) -> Iterator[pa.RecordBatch]:
        """Every complete batch; the first event must be number ``expected``.

        Raises:
            LogCorrupt: damage that is not a torn tail.
        """
        if self.header is None:
            return
        index = 0
        offset = self._source.tell()
        while True:
            batch = self._next(index, offset, expected)
            if batch is None:
                return
            if batch.num_rows:
                yield batch
            expected += batch.num_rows
            index += 1
            offset = self._source.tell()

    def _next(self, index: int, offset: int, expected: int) -> pa.RecordBatch | None:
        import pyarrow as pa

        try:
            batch, custom = self._reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            if _frame_after(self._data, offset):
                raise self._corrupt(
                    f"batch {index} is an end mark with batches after it", offset, expected
                ) from None
            self.torn_bytes = len(self._data) - self._source.tell()
            return None
        except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, MemoryError) as error:
            if _frame_after(self._data, offset):
                raise self._corrupt(f"batch {index} is torn, batches follow it", offset, expected) from error
            self.torn_bytes = len(self._data) - offset
            return None
        try:
            values = {k.decode(): v.decode() for k, v in (custom or {}).items()}
            batch.validate(full=True)
            end = _END in values
            intact = values.get(_CRC) == _batch_crc(batch, values.get(_FIRST, ""), end)
        except (pa.ArrowException, ValueError):
            intact = False
        if not intact:
            if _hole(self._data, offset):
                self.torn_bytes = len(self._data) - offset
                return None
            raise self._corrupt(f"batch {index} does not match its checksum", offset, expected)
        if self.closed:
            raise self._corrupt(f"batch {index} comes after the end of the segment", offset, expected)
        self.closed = end
        self._check_rows(batch, values[_FIRST], index, offset, expected)
        return batch

    def _check_rows(self, batch: pa.RecordBatch, first: str, index: int, offset: int, expected: int) -> None:
        import numpy as np

        wanted = np.arange(expected, expected + batch.num_rows)
        seq = batch.column("seq")
        if first != str(expected) or seq.null_count or not np.array_equal(seq.to_numpy(), wanted):
            raise self._corrupt(
                f"batch {index} starts with event {first} where {expected} was due", offset, expected
            )
        unknown = set(batch.column("kind").to_pylist()) - KINDS
        if unknown:
            names = ", ".join(sorted(map(repr, unknown)))
            raise LogCorrupt(
                f"{self.path}: batch {index} holds events of an unknown kind: {names}",
                hint="read it with the evonas that wrote it, or a newer one: pip install --upgrade evonas",
            )

    def _corrupt(self, what: str, offset: int, safe: int) -> LogCorrupt:
        return LogCorrupt(
            f"{self.path}: {what} (byte {offset}); the events before number {safe} are intact",
            hint=f"restore the file from a copy; or give up all later events: move the later segments "
            f"away and run: truncate -s {offset} {self.path}",
        )


def _frame_after(data: bytes, offset: int) -> bool:
    """Whether the head of one of our batches lies behind ``offset``; heads start at multiples of 8."""
    at = data.find(_MARK, offset + 1)
    while at >= 0:
        if at % 8 == 0 and at + 8 <= len(data):
            (length,) = struct.unpack_from("<i", data, at + 4)
            if 0 < length < _HEADER_LIMIT and data.find(_FIRST.encode(), at + 8, at + 8 + length) >= 0:
                return True
        at = data.find(_MARK, at + 1)
    return False


def _hole(data: bytes, offset: int) -> bool:
    """Whether the file ends in whole disk sectors of zeros that begin after ``offset``."""
    filled = max(len(data.rstrip(b"\0")), offset)
    return len(data) - -(-filled // _PAGE) * _PAGE >= _PAGE


def walk(directory: Path, state: LogState, run_id: str | None = None) -> Iterator[pa.RecordBatch]:
    """Every batch of a log in order; ``state`` is complete when the walk is.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail, a gap, or a segment of another run.
    """
    paths = segment_paths(directory / EVENTS)
    if not paths:
        raise UsageError(f"no event log in {directory}", hint="the run stopped before its first event")
    before: Path | None = None
    for number, path in paths:
        segment = Segment(path)
        header = segment.header
        state.last_segment = number
        if header is not None:
            owner = run_id if run_id is not None else state.run_id or header.run_id
            if header.run_id != owner:
                raise LogCorrupt(
                    f"{path} belongs to run {header.run_id!r}, not to {owner!r}",
                    hint="move the file back to the run that wrote it",
                )
            if header.continues_seq != state.next_seq:
                end = f"{before} ends before event {state.next_seq}" if before else "no segment is before it"
                raise LogCorrupt(
                    f"{path} goes on with event {header.continues_seq}, but {end}",
                    hint="restore the missing or damaged segment from a copy, "
                    f"or give up all later events: move {path.name} and what follows it away",
                )
            state.run_id, state.proxies, state.metadata = header.run_id, header.proxies, header.metadata
            for batch in segment.batches(state.next_seq):
                state.next_seq += batch.num_rows
                yield batch
            before = path
        state.closed, state.torn_bytes = segment.closed, segment.torn_bytes


def known_columns(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Batches as one table with exactly the columns of this version, nulls where a file has none."""
    import pyarrow as pa

    schema = event_schema()
    tables = []
    for batch in batches:
        have = set(batch.schema.names)
        columns = [
            batch.column(f.name) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema
        ]
        tables.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(tables, schema=schema)
