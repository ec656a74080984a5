"""One row per candidate: a view on the events that can be deleted and built again at will."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.run._files import write_atomic
from evonas.run.schema import batch_events, event_types
from evonas.run.segments import LogState, walk

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES = "candidates.parquet"
_PLAIN = (
    "candidate",
    "arm",
    "origin",
    "parent",
    "formula",
    "genotype",
    "digest",
    "outcome",
    "stage",
    "reason",
)


def candidate_table(directory: str | os.PathLike[str]) -> pa.Table:
    """One row per arm and candidate, in the order of their proposal.

    Columns: candidate, arm, origin, parent, formula, genotype, digest, outcome, stage, reason,
    ``score_<proxy>`` for every proxy (null: not measured), mean_score (null unless all were measured),
    latency_us (microseconds; null unless latency is an objective), seconds (work time over all attempts) and
    attempts. ``outcome`` is the last one known, so a candidate whose evaluation never ended says "dispatched".
    Trainings for the re-ranking are rows of the arm rerank.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail.
    """
    import pyarrow as pa

    state = LogState()
    rows: dict[tuple[str | None, int], dict[str, Any]] = {}
    for batch in walk(Path(directory), state):
        for event in batch_events(batch):
            if event.candidate is None or event.kind not in ("proposed", "finished", "attempt_lost"):
                continue
            row = rows.setdefault((event.arm, event.candidate), {"seconds": 0.0, "attempts": 0})
            for name in _PLAIN:
                value = getattr(event, name)
                if value is not None:
                    row[name] = value
            if event.outcome is not None:  # the verdict is the last one's alone
                row["stage"], row["reason"] = event.stage, event.reason
            if event.scores is not None:
                row["scores"] = event.scores
            if event.detail and '"latency_us"' in event.detail:
                row["latency_us"] = event.details().get("latency_us", row.get("latency_us"))
            row["seconds"] += event.seconds or 0.0
            if event.attempt is not None:
                row["attempts"] = max(row["attempts"], event.attempt)
    found = list(rows.values())
    types = event_types()
    columns = {name: pa.array([row.get(name) for row in found], types[name]) for name in _PLAIN}
    scores = [_padded(row.get("scores"), len(state.proxies)) for row in found]
    for at, proxy in enumerate(state.proxies):
        columns[f"score_{proxy}"] = pa.array([values[at] for values in scores], pa.float64())
    columns["mean_score"] = pa.array([_mean(values) for values in scores], pa.float64())
    columns["latency_us"] = pa.array([row.get("latency_us") for row in found], pa.float64())
    columns["seconds"] = pa.array([row["seconds"] for row in found], pa.float64())
    columns["attempts"] = pa.array([row["attempts"] for row in found], pa.int16())
    return pa.table(columns)


def write_candidates(directory: str | os.PathLike[str]) -> Path:
    """Builds candidates.parquet from the events, all or nothing, and returns its path.

    Raises:
        UsageError: no log there.
        LogCorrupt: damage that is not a torn tail.
        EnvironmentUnusable: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    table = candidate_table(directory)
    path = Path(directory) / CANDIDATES
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return path


def _padded(scores: tuple[float | None, ...] | None, proxies: int) -> list[float | None]:
    values = list(scores or ())[:proxies]
    return values + [None] * (proxies - len(values))


def _mean(scores: list[float | None]) -> float | None:
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None
