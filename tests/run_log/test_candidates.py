"""candidates.parquet says per candidate what the events say, and only that."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evonas.errors import UsageError
from evonas.run.candidates import candidate_table, write_candidates
from evonas.run.log import EventLog
from evonas.run.schema import Event


@pytest.fixture
def run(tmp_path: Path) -> Path:
    def ask(candidate: int, outcome: str, **more: object) -> Event:
        fields = {"arm": "search", "origin": "random", "genotype": b"\1\2\3", **more}
        return Event("proposed", candidate=candidate, outcome=outcome, **fields)  # type: ignore[arg-type]

    with EventLog.create(tmp_path, "run-a", {"proxies": ["resnet", "mobilenet"]}) as log:
        log.append(Event("run_started"))
        log.append(ask(0, "dispatched", attempt=1, formula="x", digest=bytes(16)))
        log.append(ask(1, "rejected", stage="structural", reason="the output does not depend on x"))
        log.append(ask(0, "dispatched", attempt=1, arm="control", formula="max(x, 0)"))
        log.append(ask(2, "dispatched", attempt=1, parent=0, origin="mutation"))
        log.append(
            Event("attempt_lost", "search", 0, attempt=1, outcome="lost", reason="signal 9", seconds=2.0)
        )
        log.append(
            Event(
                "finished",
                "search",
                0,
                attempt=2,
                outcome="scored",
                stage="train",
                scores=(0.5, 0.7),
                seconds=3.0,
            )
        )
        log.append(
            Event(
                "finished",
                "control",
                0,
                attempt=1,
                outcome="rejected",
                stage="train",
                scores=(0.2, None),
                seconds=1.0,
            )
        )
        log.append(Event("rerank_finished", "rerank", 0, attempt=1, outcome="scored", scores=(0.9, 0.9)))
        log.append(Event("run_finished"))
    return tmp_path


def test_one_row_per_arm_and_candidate(run: Path) -> None:
    rows = candidate_table(run).to_pylist()
    assert [(r["arm"], r["candidate"]) for r in rows] == [
        ("search", 0),
        ("search", 1),
        ("control", 0),
        ("search", 2),
    ]
    first, second, control, pending = rows
    assert (first["outcome"], first["stage"], first["attempts"]) == ("scored", "train", 2)
    assert first["mean_score"] == pytest.approx(0.6)
    assert (first["score_resnet"], first["score_mobilenet"], first["seconds"]) == (0.5, 0.7, 5.0)
    assert (second["outcome"], second["stage"], second["attempts"]) == ("rejected", "structural", 0)
    assert second["mean_score"] is None
    assert (control["score_resnet"], control["score_mobilenet"], control["mean_score"]) == (0.2, None, None)
    assert (pending["outcome"], pending["parent"], pending["origin"]) == ("dispatched", 0, "mutation")


def test_a_retry_that_succeeded_keeps_no_old_reason(run: Path) -> None:
    assert candidate_table(run).to_pylist()[0]["reason"] is None


def test_the_file_is_the_table_and_replaces_the_old_one(run: Path) -> None:
    path = write_candidates(run)
    assert pq.read_table(path).equals(candidate_table(run))
    with EventLog.open(run) as log:
        log.append(Event("proposed", "search", 3, 1, outcome="dispatched"))
    assert pq.read_table(path).num_rows == 4
    write_candidates(run)
    assert pq.read_table(path).num_rows == 5
    assert [p.name for p in run.iterdir() if p.is_file()] == ["candidates.parquet"]


def test_a_run_without_candidates_has_the_columns(tmp_path: Path) -> None:
    with EventLog.create(tmp_path, "run-a", {"proxies": ["resnet"]}) as log:
        log.append(Event("run_started"))
    table = candidate_table(tmp_path)
    assert table.num_rows == 0
    assert {"candidate", "score_resnet", "mean_score", "attempts"} <= set(table.schema.names)


def test_no_log_no_view(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no event log"):
        write_candidates(tmp_path)
    assert list(tmp_path.iterdir()) == []
