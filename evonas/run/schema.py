"""The one table of the event log: its columns, its vocabulary and the record that travels in Python."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

#: (major, minor). A reader refuses a newer major; a newer minor only adds columns, which are ignored.
SCHEMA_VERSION = (1, 0)

#: Closed vocabulary of ``kind``.
KINDS = frozenset(
    {
        "run_started",
        "proposed",
        "finished",
        "attempt_lost",
        "stopping",
        "interrupted",
        "resumed",
        "rerank_planned",
        "rerank_finished",
        "run_finished",
        "note",
    }
)

#: Who asked for a candidate.
ARMS = ("search", "control", "baseline", "rerank")

#: Keys of ``detail``, at any depth, that tell about the machine and never take part in a comparison. Latencies are
#: among them like scores are: what was logged counts, even if a later version's model says something else.
INFORMATIVE = frozenset(
    {
        "evidence",
        "latency_us",
        "latency_source",
        "seconds",
        "peak_rss",
        "pid",
        "host",
        "slot",
        "worker",
        "node",
        "stderr",
        "time",
        "versions",
        "command",
    }
)


class Column(NamedTuple):
    """One column: its name, its Arrow type and what it says."""

    name: str
    type: str
    meaning: str


#: In file order. ``seq`` and ``ts`` are given by the writer.
COLUMNS = (
    Column("seq", "int64", "position in the log, from 0 without gaps; the total order of all decisions"),
    Column("ts", "timestamp[us, UTC]", "when the event was appended; informative, no decision reads it"),
    Column("kind", "string", "what happened, one of the kinds below"),
    Column("arm", "string", "who asked: search, control, baseline or rerank; null for events of the run"),
    Column("candidate", "int32", "candidate id, unique within its arm at least; null for events of the run"),
    Column("attempt", "int16", "1 for the first evaluation of the candidate, 2 after a lost attempt, ..."),
    Column("parent", "int32", "candidate id that was mutated; null for a fresh one"),
    Column(
        "origin",
        "string",
        "how it arose: random, mutation, insert, remove, rewire, seed, baseline, sweep, rerank",
    ),
    Column("genotype", "binary", "the graph with its inactive nodes, as its space writes it"),
    Column("digest", "fixed_size_binary[16]", "digest of the canonical active graph"),
    Column("formula", "string", "the active graph as a formula; null where a cheap stage said no"),
    Column("outcome", "string", "dispatched, rejected, scored, failed or lost; of a run: valid or empty"),
    Column("stage", "string", "stage of the funnel that decided; null if none did"),
    Column("reason", "string", "why it was rejected, failed or lost, in a few words"),
    Column(
        "scores",
        "list<double>",
        "validation scores in [0, 1], one per proxy in the order of `evonas.proxies`: accuracies, for text "
        "1 - bits per byte / 8; null: not measured, NaN: measured as NaN",
    ),
    Column("seconds", "double", "work time of the evaluation in its slot, in seconds; informative"),
    Column("detail", "string", "a JSON object with the evidence: stage reports, bars, counters"),
)


class Event(NamedTuple):
    """One event. ``seq`` and ``ts`` (microseconds since the epoch, UTC) are None until it is read back."""

    kind: str
    arm: str | None = None
    candidate: int | None = None
    attempt: int | None = None
    parent: int | None = None
    origin: str | None = None
    genotype: bytes | None = None
    digest: bytes | None = None
    formula: str | None = None
    outcome: str | None = None
    stage: str | None = None
    reason: str | None = None
    scores: tuple[float | None, ...] | None = None
    seconds: float | None = None
    detail: str | None = None
    seq: int | None = None
    ts: int | None = None

    def details(self) -> dict[str, Any]:
        """``detail`` as a dictionary, empty where there is none."""
        return json.loads(self.detail) if self.detail else {}

    def differences(self, other: Event) -> list[str]:
        """Names of the fields in which two events are different decisions.

        ``seq``, ``ts``, ``seconds`` and the keys of ``INFORMATIVE`` in ``detail`` are left out; NaN
        scores equal each other.
        """
        names = [name for name in _EXACT if getattr(self, name) != getattr(other, name)]
        if not _same_scores(self.scores, other.scores):
            names.append("scores")
        if self.detail != other.detail and _decided(self.details()) != _decided(other.details()):
            names.append("detail")
        return names

    def same_decision(self, other: Event) -> bool:
        """Whether both say the same, apart from when and how fast it happened."""
        return not self.differences(other)


_EXACT = tuple(f for f in Event._fields if f not in ("scores", "seconds", "detail", "seq", "ts"))


def _same_scores(a: tuple[float | None, ...] | None, b: tuple[float | None, ...] | None) -> bool:
    if a is None or b is None:
        return a is b
    return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def _decided(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _decided(v) for k, v in value.items() if k not in INFORMATIVE}
    if isinstance(value, list):
        return [_decided(v) for v in value]
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def pack(detail: Mapping[str, Any]) -> str:
    """A mapping as the JSON text of ``detail``; NaN and infinities become the strings that name them.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    try:
        return _encode(detail)
    except ValueError:
        return _encode(_finite(detail))


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@functools.cache
def event_types() -> dict[str, pa.DataType]:
    """Arrow type of every column, in file order."""
    import pyarrow as pa

    types = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "int16": pa.int16(),
        "double": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "fixed_size_binary[16]": pa.binary(16),
        "list<double>": pa.list_(pa.float64()),
        "timestamp[us, UTC]": pa.timestamp("us", "UTC"),
    }
    return {column.name: types[column.type] for column in COLUMNS}


def event_schema(metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of a segment. ``metadata`` is written as given, see ``evonas.run.segments``."""
    import pyarrow as pa

    return pa.schema(list(event_types().items()), metadata=dict(metadata) if metadata else None)


def batch_events(batch: pa.RecordBatch) -> list[Event]:
    """The rows of a batch. Columns that this version does not know are left out, missing ones are None."""
    import pyarrow as pa

    rows = batch.num_rows
    known = set(batch.schema.names)
    columns: list[list[Any]] = []
    for name in Event._fields:
        if name not in known:
            columns.append([None] * rows)
            continue
        array = batch.column(name)
        if name == "ts":
            array = array.view(pa.int64())
        values = array.to_pylist()
        if name == "scores":
            values = [None if v is None else tuple(v) for v in values]
        columns.append(values)
    return list(map(Event._make, zip(*columns, strict=True)))
