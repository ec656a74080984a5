"""Bytes between processes and the slots' shared notes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonas.evaluation.protocol import Outcome, StageReport, Task
from evonas.run.backends import wire
from evonas.run.backends.note import StartNote

RECORDS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.floats(allow_nan=False), st.binary(max_size=50)), max_size=8
)


@given(RECORDS)
def test_records_round_trip(records):
    assert wire.unpack_records(wire.pack_records(records)) == records


@given(
    st.lists(st.tuples(st.sampled_from([wire.TASKS, wire.ANSWERS]), st.binary(max_size=40))),
    st.integers(1, 9),
)
def test_frames_survive_any_cut(frames, step):
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    reader = wire.FrameReader()
    got = [f for at in range(0, len(stream), step) for f in reader.feed(stream[at : at + step])]
    assert got == frames


def test_bytes_that_are_no_frame_are_refused():
    with pytest.raises(wire.WireError):
        list(wire.FrameReader().feed(b"hello, world"))
    with pytest.raises(wire.WireError):
        wire.unpack_records(wire.pack_records([(1, 1.0, b"body")])[:-1])


@pytest.mark.parametrize(
    "task",
    [
        Task(1, "x"),
        Task(
            2,
            "x",
            attempt=2,
            arm="random",
            seed=9,
            mode="train",
            budget=2.0,
            bar={"a": 0.5},
            deadline_s=1.0,
            lr={"a": 0.5},
            lr_factors=(0.5, 2.0),
            data_shares=(0.25,),
        ),
    ],
)
def test_tasks_round_trip(task):
    ticket, deadline, body = wire.encode_task(5, task)
    assert (ticket, deadline, wire.decode_task(body)) == (5, task.deadline_s, task)
    assert Task.from_dict(task.to_dict()) == task


def test_the_tasks_of_that_test_leave_no_field_out():
    """Of the second one every field differs from its default, so that a new one cannot be forgotten on the way."""
    task = test_tasks_round_trip.pytestmark[0].args[1][1]
    plain = Task(1, "y")
    same = [f.name for f in fields(Task) if getattr(task, f.name) == getattr(plain, f.name)]
    assert same == []


def test_a_measured_latency_travels():
    task = Task(3, "x")
    outcome = Outcome(3, "scored", scores={"a": 0.5}, latency_us=12.5, latency_source="measured")
    back = wire.decode_outcome(task, wire.encode_outcome(outcome))
    assert (back.latency_us, back.latency_source) == (12.5, "measured")


def test_outcomes_round_trip_with_numpy_values():
    task = Task(3, "x", attempt=2, seed=4, mode="train", arm="baseline")
    report = StageReport("probe", False, 0.5, "tiny", "exploded", {"norms": np.arange(3.0)})
    outcome = Outcome(3, "rejected", 2, "probe", "why", {"a": np.float32(0.5)}, [report], 0.1, 10)
    back = wire.decode_outcome(task, wire.encode_outcome(outcome))
    assert (back.status, back.stage, back.reason, back.scores) == ("rejected", "probe", "why", {"a": 0.5})
    assert back.reports[0].evidence == {"norms": [0.0, 1.0, 2.0]}
    assert (back.seed, back.mode, back.arm) == (4, "train", "baseline")
    assert Outcome.from_dict(back.to_dict()) == back


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"candidate": 4, "status": "scored"}', b"\xff"]
)
def test_unreadable_answers_are_failed_outcomes(body):
    outcome = wire.decode_outcome(Task(3, "x"), body)
    assert (outcome.candidate, outcome.status) == (3, "failed")
    assert outcome.reason.startswith("error: ")


def test_not_a_number_travels():
    body = wire.encode_outcome(Outcome(1, "scored", scores={"a": math.nan}))
    assert math.isnan(wire.decode_outcome(Task(1, "x"), body).scores["a"])


def test_a_note_is_shared_with_another_process():
    note = StartNote()
    fd = note.fileno()
    code = f"from evonas.run.backends.note import StartNote; n = StartNote({fd}); n.begin(); n.begin()"
    subprocess.run([sys.executable, "-c", code], check=True, pass_fds=[fd])
    begun, at = note.read()
    assert begun == 2
    assert at > 0
    note.close()
