"""What is appended is what is read, across groups, segments and resumes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import EVENTS, METADATA, NAMES, make_event, write_log

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.run.log import GROUP, EventLog, read_events, read_table, scan_log
from evonas.run.schema import Event, pack


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.sampled_from(["", "", "", "flush", "reopen", "close"])), max_size=30))
def test_every_event_comes_back_in_order(tmp_path_factory: pytest.TempPathFactory, plan: list) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = EventLog.create(folder, "run-a", METADATA)
    for number, (event, then) in enumerate(plan):
        assert log.append(event) == number
        if then == "flush":
            log.flush()
        elif then:
            if then == "close":
                log.close()
            else:
                log.flush()
            log = EventLog.open(folder, run_id="run-a")
            assert log.next_seq == number + 1
    log.close()
    back = list(read_events(folder))
    assert [e.seq for e in back] == list(range(len(plan)))
    for (sent, _), got in zip(plan, back, strict=True):
        assert sent.same_decision(got), sent.differences(got)
        assert got.seconds == sent.seconds
        assert got.detail == sent.detail
    table = read_table(folder)
    assert table.schema.names == NAMES
    assert table.num_rows == len(plan)


def test_a_group_is_durable_without_a_flush(tmp_path: Path) -> None:
    log = EventLog.create(tmp_path, "run-a", METADATA)
    for i in range(GROUP - 1):
        log.append(make_event(i))
    assert scan_log(tmp_path).next_seq == 0
    log.append(make_event(GROUP - 1))
    assert scan_log(tmp_path).next_seq == log.safe_events == GROUP
    assert not scan_log(tmp_path).closed
    log.close()
    assert scan_log(tmp_path).closed


def test_metadata_comes_back_after_a_resume(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    with EventLog.open(tmp_path) as log:
        assert (log.run_id, log.metadata, log.next_seq) == ("run-a", METADATA, 3)
    state = scan_log(tmp_path)
    assert state.proxies == ("resnet", "mobilenet", "efficientnet")
    assert (state.last_segment, state.closed, state.torn_bytes) == (2, True, 0)


def test_segments_rotate_by_size(tmp_path: Path) -> None:
    write_log(tmp_path, 1000, segment_bytes=60_000)
    sizes = [p.stat().st_size for p in sorted((tmp_path / "events").iterdir())]
    assert len(sizes) > 3
    assert max(sizes) < 60_000 + 40_000
    assert [e.candidate for e in read_events(tmp_path)] == [i // 2 for i in range(1000)]


def test_a_segment_is_a_plain_arrow_stream(tmp_path: Path) -> None:
    segment = write_log(tmp_path, 250)
    table = pa.ipc.open_stream(segment.read_bytes()).read_all()
    assert table.num_rows == 250
    assert table.schema.names == NAMES
    assert not any(pa.types.is_dictionary(t) for t in table.schema.types)


def test_create_refuses_a_used_folder(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    with pytest.raises(UsageError, match="holds an event log already"):
        EventLog.create(tmp_path, "run-b", METADATA)


def test_open_needs_a_log(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no event log"):
        EventLog.open(tmp_path)
    (tmp_path / "events").mkdir()
    with pytest.raises(UsageError, match="no event log"):
        EventLog.open(tmp_path)


def test_an_unknown_kind_is_refused_at_once(tmp_path: Path) -> None:
    with EventLog.create(tmp_path, "run-a", METADATA) as log:
        with pytest.raises(ValueError, match="unknown event kind 'guessed'"):
            log.append(Event("guessed"))
        assert log.append(Event("note")) == 0


@pytest.mark.parametrize(
    ("event", "column"),
    [
        (Event("note", candidate=2**31), "candidate"),
        (Event("note", digest=b"short"), "digest"),
        (Event("note", attempt="one"), "attempt"),  # type: ignore[arg-type]
        (Event("note", scores=("high",)), "scores"),  # type: ignore[arg-type]
    ],
)
def test_a_malformed_event_is_named_and_harms_nothing(tmp_path: Path, event: Event, column: str) -> None:
    log = EventLog.create(tmp_path, "run-a", METADATA)
    log.append(make_event(0))
    log.flush()
    log.append(event)
    with pytest.raises(ValueError, match=f"does not fit column '{column}'"):
        log.flush()
    with pytest.raises(EnvironmentUnusable, match="malformed event"):
        log.append(make_event(1))
    log.close()
    assert scan_log(tmp_path).next_seq == 1


def test_undecodable_text_is_kept_readable(tmp_path: Path) -> None:
    stderr = b"died \xff here".decode("utf-8", "surrogateescape")
    with EventLog.create(tmp_path, "run-a", METADATA) as log:
        log.append(Event("note", reason=stderr))
        log.append(Event("note"))
    assert [e.reason for e in read_events(tmp_path)] == ["died \\udcff here", None]


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = EventLog.create(tmp_path, "run-a", METADATA)
    log.close()
    log.close()
    with pytest.raises(EnvironmentUnusable, match="is closed"):
        log.append(make_event(0))


def test_an_exception_keeps_the_events_and_leaves_no_end_mark(tmp_path: Path) -> None:
    def interrupted() -> None:
        with EventLog.create(tmp_path, "run-a", METADATA) as log:
            log.append(make_event(0))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    state = scan_log(tmp_path)
    assert (state.next_seq, state.closed) == (1, False)


def test_the_writer_does_not_grow(tmp_path: Path) -> None:
    event = make_event(1)
    with EventLog.create(tmp_path, "run-a", METADATA) as log:
        for _ in range(1000):
            log.append(event)
        arrow = pa.total_allocated_bytes()
        tracemalloc.start()
        for _ in range(10_000):
            log.append(event)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 64 << 10
        assert pa.total_allocated_bytes() - arrow < 64 << 10


def test_same_decision_looks_at_decisions_alone() -> None:
    event = make_event(1)
    slower = event._replace(
        seq=9,
        ts=9,
        seconds=9.0,
        detail=pack({"stages": [{"stage": "quality", "passed": False, "seconds": 9}]}),
    )
    assert event.same_decision(slower)
    assert event.differences(event._replace(scores=(0.5, None, float("nan")))) == ["scores"]
    assert event.differences(event._replace(scores=None)) == ["scores"]
    assert event.differences(event._replace(parent=5, detail=None)) == ["parent", "detail"]


def test_pack_names_what_json_cannot_hold() -> None:
    assert pack({"a": [float("nan"), float("inf")], "b": {"c": -float("inf"), "d": 0.5}}) == (
        '{"a":["NaN","Infinity"],"b":{"c":"-Infinity","d":0.5}}'
    )
    with pytest.raises(TypeError):
        pack({"a": object()})
