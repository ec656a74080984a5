"""Torn tails cost the torn batch alone; every other damage is refused by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from log_events import METADATA, make_event, write_log

from evonas.errors import EvonasError, LogCorrupt, UsageError
from evonas.run import segments
from evonas.run.log import EventLog, read_events, scan_log
from evonas.run.schema import event_schema

ROWS = 450  # four batches of 100 and one of 50


def boundaries(segment: Path) -> list[int]:
    """Byte offsets behind the schema and behind every batch."""
    source = pa.BufferReader(segment.read_bytes())
    reader = pa.ipc.open_stream(source)
    found = [source.tell()]
    while True:
        try:
            reader.read_next_batch()
        except StopIteration:
            return found
        found.append(source.tell())


def rows_of(folder: Path) -> list[tuple]:
    return [event[:15] for event in read_events(folder)]


def same(a: list[tuple], b: list[tuple]) -> bool:
    return repr(a) == repr(b)  # NaN scores equal each other this way


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_log(folder, ROWS)
    return folder


@pytest.fixture
def log(original: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(original / "events", tmp_path / "events")
    return tmp_path, tmp_path / "events" / "000001.arrows"


def test_every_cut_keeps_all_batches_before_it(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    ends = boundaries(segment)
    rng = random.Random(1)
    cuts = {
        *ends,
        *(e + d for e in ends for d in (-1, 1, 8)),
        *(rng.randrange(len(data)) for _ in range(150)),
    }
    for cut in sorted(cuts):
        if not 0 <= cut < len(data):
            continue
        segment.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends[1:])  # the last one is the end mark
        if cut < ends[0]:
            assert scan_log(folder).torn_bytes == cut
            continue
        state = scan_log(folder)
        assert state.next_seq == min(100 * whole, ROWS), cut
        assert state.torn_bytes == cut - max(e for e in ends if e <= cut), cut


def test_a_torn_tail_is_left_alone_and_a_new_segment_goes_on(log: tuple[Path, Path]) -> None:
    folder, segment = log
    segment.write_bytes(segment.read_bytes()[: boundaries(segment)[3] + 1001])
    torn = segment.read_bytes()
    for resume in range(3):
        with EventLog.open(folder) as writer:
            assert writer.next_seq == 300 + resume
            writer.append(make_event(300 + resume))
    assert segment.read_bytes() == torn
    assert same(rows_of(folder), [make_event(i)[:15] for i in range(303)])


def test_a_log_that_never_got_its_schema_can_be_started_again(log: tuple[Path, Path]) -> None:
    folder, segment = log
    for head in (b"", segment.read_bytes()[:100]):
        segment.write_bytes(head)
        with pytest.raises(UsageError, match="no event"):
            EventLog.open(folder)
    with EventLog.create(folder, "run-a", METADATA) as writer:
        writer.append(make_event(0))
    assert scan_log(folder).next_seq == 1


def test_a_resume_that_died_at_once_is_no_obstacle(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    (folder / "events" / "000002.arrows").write_bytes(data[:60])
    (folder / "events" / "000003.arrows").write_bytes(b"")
    with EventLog.open(folder) as writer:
        assert (writer.next_seq, writer.segment.name) == (ROWS, "000004.arrows")
        writer.append(make_event(ROWS))
    assert scan_log(folder).next_seq == ROWS + 1


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0" * 3, b"\xff" * 7, random.Random(2).randbytes(3000)])
@pytest.mark.parametrize("closed", [False, True])
def test_zeros_and_garbage_behind_the_last_batch_are_a_torn_tail(
    log: tuple[Path, Path], tail: bytes, closed: bool
) -> None:
    folder, segment = log
    data = segment.read_bytes() if closed else segment.read_bytes()[: boundaries(segment)[-2]]
    segment.write_bytes(data + tail)
    state = scan_log(folder)
    assert state.next_seq == ROWS
    assert 0 < state.torn_bytes <= len(tail)
    with EventLog.open(folder) as writer:
        writer.append(make_event(ROWS))
    assert scan_log(folder).next_seq == ROWS + 1


def test_a_last_batch_whose_sectors_never_reached_the_disk_is_a_torn_tail(log: tuple[Path, Path]) -> None:
    folder, segment = log
    ends = boundaries(segment)
    data = segment.read_bytes()[: ends[-2]]
    hole = (ends[-3] + 2048) // 512 * 512
    segment.write_bytes(data[:hole] + bytes(len(data) - hole))
    assert scan_log(folder).next_seq == 400


def test_a_torn_middle_is_refused(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    ends = boundaries(segment)
    for cut, back in ((ends[1] + 40, ends[2]), (ends[2] - 64, ends[2])):
        segment.write_bytes(data[:cut] + data[back:])
        with pytest.raises(LogCorrupt, match=r"000001.arrows: batch 1") as caught:
            scan_log(folder)
        assert "before number 100 are intact" in str(caught.value)
        assert f"truncate -s {ends[1]} {segment}" in str(caught.value)


def test_the_advice_of_the_message_works(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = bytearray(segment.read_bytes())
    end = boundaries(segment)[2]
    data[end + 1500] ^= 4
    segment.write_bytes(data)
    with pytest.raises(LogCorrupt, match="does not match its checksum"):
        EventLog.open(folder)
    segment.write_bytes(data[:end])
    assert scan_log(folder).next_seq == 200


def test_a_missing_batch_is_a_gap(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    ends = boundaries(segment)
    segment.write_bytes(data[: ends[1]] + data[ends[2] :])
    with pytest.raises(LogCorrupt, match="starts with event 200 where 100 was due"):
        scan_log(folder)


def test_a_batch_behind_the_end_of_its_segment_is_refused(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    ends = boundaries(segment)
    for end in (data[:-8], data):  # without and with Arrow's own end mark
        segment.write_bytes(end + data[ends[0] : ends[1]])
        with pytest.raises(LogCorrupt, match=r"after (it|the end of the segment)"):
            scan_log(folder)


def test_a_changed_schema_is_refused(log: tuple[Path, Path]) -> None:
    folder, segment = log
    data = segment.read_bytes()
    for old, new in ((b"mobilenet", b"mobilenat"), (b"candidate", b"condidate")):
        segment.write_bytes(data.replace(old, new, 1))
        with pytest.raises(LogCorrupt, match="schema does not match its checksum"):
            scan_log(folder)


def test_a_torn_earlier_segment_counts_only_if_the_next_one_says_so(tmp_path: Path) -> None:
    first = write_log(tmp_path, 200)
    with EventLog.open(tmp_path) as writer:
        writer.append(make_event(200))
    first.write_bytes(first.read_bytes()[: boundaries(first)[1] + 10])
    with pytest.raises(
        LogCorrupt, match=r"000002.arrows goes on with event 200, but .*000001.arrows ends before"
    ):
        scan_log(tmp_path)
    first.unlink()
    with pytest.raises(LogCorrupt, match="no segment is before it"):
        scan_log(tmp_path)


def test_a_segment_of_another_run_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 10)
    other = EventLog.create(tmp_path / "b", "run-b", METADATA)
    other.close()
    shutil.copy(other.segment, tmp_path / "a" / "events" / "000002.arrows")
    with pytest.raises(LogCorrupt, match="belongs to run 'run-b', not to 'run-a'"):
        scan_log(tmp_path / "a")
    with pytest.raises(LogCorrupt, match="belongs to run 'run-b', not to 'run-c'"):
        EventLog.open(tmp_path / "b", run_id="run-c")


def test_a_newer_major_is_refused_with_the_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(segments, "SCHEMA_VERSION", (2, 0))
        write_log(tmp_path, 3)
    with pytest.raises(LogCorrupt, match="schema version 2 is newer than the 1 known here") as caught:
        list(read_events(tmp_path))
    assert "pip install --upgrade evonas" in str(caught.value)


def extended(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes a log as a later minor version could: one more column, and events of ``kind``."""
    write_log(folder / "old", 4)
    (old,) = (
        pa.ipc.open_stream((folder / "old" / "events" / "000001.arrows").read_bytes()).read_all().to_batches()
    )
    with monkeypatch.context() as patch:
        patch.setattr(segments, "SCHEMA_VERSION", (1, 7))
        patch.setattr(
            segments,
            "event_schema",
            lambda metadata=None: (
                event_schema().append(pa.field("energy", pa.float32())).with_metadata(metadata)
            ),
        )
        schema = segments.segment_schema("run-a", 1, 0, METADATA, "evonas 9.9")
    columns = dict(zip(old.schema.names, old.columns, strict=True))
    columns["kind"] = pa.array([kind] * 4)
    columns["energy"] = pa.array([1.0] * 4, pa.float32())
    batch = pa.RecordBatch.from_arrays([columns[f.name] for f in schema], schema=schema)
    (folder / "events").mkdir()
    with pa.ipc.new_stream(str(folder / "events" / "000001.arrows"), schema) as writer:
        writer.write_batch(batch, custom_metadata=segments.batch_metadata(batch, 0))


def test_columns_of_a_newer_minor_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extended(tmp_path, "note", monkeypatch)
    assert [e.candidate for e in read_events(tmp_path)] == [0, 0, 1, 1]


def test_an_unknown_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extended(tmp_path, "teleported", monkeypatch)
    with pytest.raises(LogCorrupt, match="unknown kind: 'teleported'"):
        list(read_events(tmp_path))


@pytest.mark.parametrize("closed", [True, False])
def test_planted_bit_flips_are_seen_or_harmless(
    log: tuple[Path, Path], closed: bool, record_property: Callable[[str, object], None]
) -> None:
    """100 single bits: refused, or reported as a torn tail, or the very same rows."""
    folder, segment = log
    good = rows_of(folder)
    data = segment.read_bytes()
    ends = boundaries(segment)
    if not closed:
        data = data[: ends[-2]]
    rng = random.Random(3)
    refused = torn = harmless = 0
    places = [rng.randrange(len(data)) for _ in range(70)]  # anywhere
    places += [e + rng.randrange(0, 700) for e in (0, *ends[:4]) for _ in range(6)]  # heads
    for at in places:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.randrange(8)
        segment.write_bytes(broken)
        try:
            rows = rows_of(folder)
        except EvonasError:
            refused += 1
            continue
        if same(rows, good):
            harmless += 1
            continue
        # all that may go is the last batch of a segment that was not closed, and the state says so
        assert not closed, at
        assert same(rows, good[:400]), at
        assert at >= ends[-3], at
        assert scan_log(folder).torn_bytes == len(data) - ends[-3]
        torn += 1
    record_property("flips", {"refused": refused, "torn": torn, "harmless": harmless})
    assert refused + torn + harmless == 100
    assert refused > 70
