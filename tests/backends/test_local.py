"""Slots in child processes: outcomes of bad candidates, deaths, deadlines, memory, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slot_support import BEHAVIOURS, behave, collect, gone, wait_ready, wait_until

from evonas.errors import EnvironmentUnusable, PluginError, UsageError
from evonas.evaluation.protocol import EvaluatorSpec, Task
from evonas.run.backends import make_backend
from evonas.run.backends.local import LocalBackend

pytestmark = pytest.mark.usefixtures("nothing_left")

GIB = 2**30


@pytest.fixture
def pair():
    backend = LocalBackend(behave(), 2, depth=50, memory_limit=GIB)
    backend.start()
    yield backend
    backend.close()


def test_bad_candidates_become_typed_outcomes_and_hurt_nobody_else(pair):
    formulas = ["boom", "free", "nonsense", "stranger", "unjson", "badstatus", "missing", "free"]
    outcomes = collect(pair, formulas)
    assert [o.status for o in outcomes] == ["failed", "scored", *["failed"] * 5, "scored"]
    assert "ValueError: no such luck" in outcomes[0].reason
    assert "42" in outcomes[2].reason
    assert "asked for 3" in outcomes[3].reason
    assert all(o.reason.startswith("error: ") for o in outcomes if o.status == "failed")
    assert pair.describe()["restarts"] == 0


def test_a_slot_that_dies_loses_its_own_task_alone(pair):
    formulas = ["signal SIGKILL", "free", "segfault", "free", "exit 3", "sysexit 4", *["free"] * 8]
    outcomes = collect(pair, formulas)
    assert [o.status for o in outcomes] == [
        "lost",
        "scored",
        "lost",
        "scored",
        "lost",
        "lost",
        *["scored"] * 8,
    ]
    assert "SIGKILL" in outcomes[0].reason
    assert "last words" in outcomes[0].reason
    assert "SIGSEGV" in outcomes[2].reason
    assert "exited with code 3" in outcomes[4].reason
    assert "exited with code 4" in outcomes[5].reason
    assert pair.describe()["restarts"] == 4


def test_tasks_sent_together_with_one_that_kills_the_slot_are_not_blamed(pair):
    collect(pair, ["free"] * 40)
    pair._pool.mean_s, pair._pool._peak_s = 1e-5, 0.0
    outcomes = collect(pair, [*["free"] * 30, "signal SIGKILL", *["free"] * 30])
    assert [i for i, o in enumerate(outcomes) if o.status != "scored"] == [30]
    assert outcomes[30].status == "lost"


def test_tasks_sent_together_with_a_slow_one_do_not_wait_for_it(pair):
    pair._pool.mean_s, pair._pool._peak_s = 1e-5, 0.0
    start = time.monotonic()
    pair.submit([Task(i, "sleep 30" if i == 3 else "free", deadline_s=4.0) for i in range(20)])
    done = {}
    while len(done) < 20:
        done.update({o.candidate: (o, time.monotonic() - start) for o in pair.poll(1.0)})
    assert done[3][0].reason == "timeout"
    assert max(at for i, (_, at) in done.items() if i != 3) < 3.0


def test_a_deadline_counts_from_the_start_of_the_task_not_from_its_submission(pair):
    outcomes = collect(pair, ["sleep 0.4"] * 8, deadline_s=0.9)
    assert [o.status for o in outcomes] == ["scored"] * 8


def test_a_hanging_candidate_is_killed_on_its_deadline_with_its_children(pair, tmp_path):
    file = tmp_path / "pid"
    outcomes = collect(pair, ["spin", f"child {file}", "free", "free"], deadline_s=1.0)
    assert [o.status for o in outcomes] == ["failed", "failed", "scored", "scored"]
    assert outcomes[0].reason == "timeout"
    assert 1.0 <= outcomes[0].seconds < 3.0
    assert wait_until(lambda: gone(int(file.read_text())))


def test_eating_memory_is_an_outcome(pair):
    eat, creep, free = collect(pair, ["eat 3", "creep", "free"])
    assert (eat.status, eat.reason) == ("failed", "out_of_memory")
    assert (creep.status, creep.reason) == ("failed", "out_of_memory")
    assert free.status == "scored"


def test_a_flood_on_stderr_leaves_its_tail(pair):
    (outcome,) = collect(pair, ["flood"])
    assert outcome.status == "lost"
    assert outcome.reason.endswith("the end")
    assert len(outcome.reason) < 5000


def test_a_slot_is_one_thread_in_a_session_of_its_own():
    backend = LocalBackend(behave("behave-torch"), 1)
    backend.start()
    try:
        (outcome,) = collect(backend, ["facts"])
        facts = outcome.scores
        assert backend.describe()["mode"] == "fork"
        assert facts.pop("pid") == backend.describe()["pids"][0]
        assert facts == {
            "omp": 1.0,
            "leader": 1.0,
            "ignores_sigint": 1.0,
            "oom_score_adj": 1000.0,
            "torch_loaded": 1.0,
            "threads": 1.0,
            "torch_threads": 1.0,
            "denormal": 0.0,
        }
    finally:
        backend.close()


@pytest.mark.parametrize("spec", [behave("threaded"), behave("behave", label="x")], ids=["thread", "plain"])
def test_a_server_with_threads_spawns_instead_of_forking(spec):
    backend = LocalBackend(spec, 1)
    backend.start()
    try:
        assert backend.describe()["mode"] == ("spawn" if spec.name == "threaded" else "fork")
        lost, free = collect(backend, ["exit 2", "free"])
        assert (lost.status, free.status) == ("lost", "scored")
    finally:
        backend.close()


def test_slots_that_never_become_ready_stop_the_search_with_their_last_words():
    with pytest.raises(EnvironmentUnusable, match="the library is missing"):
        LocalBackend(behave("stillborn"), 2).start()


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (behave("refuses"), UsageError, "the option is wrong"),
        (behave("behavee"), UsageError, "did you mean 'behave'"),
        (EvaluatorSpec("x", {}, ({"path": "/nowhere.py", "sha256": "0"},)), PluginError, "/nowhere.py"),
        (
            EvaluatorSpec("behave", {}, ({"path": str(BEHAVIOURS), "sha256": "0" * 64},)),
            PluginError,
            "not the file",
        ),
    ],
    ids=["options", "name", "missing file", "changed file"],
)
def test_an_evaluator_that_cannot_be_built_is_the_callers_error(spec, error, text):
    with pytest.raises(error, match=text):
        LocalBackend(spec, 1).start()


def test_the_fork_server_may_die(pair):
    wait_ready(pair, 2)
    pair.submit([Task(0, "sleep 20"), Task(1, "sleep 20"), Task(2, "free")])
    assert pair.poll(0.3) == []
    os.kill(pair.describe()["server_pid"], signal.SIGKILL)
    outcomes = {}
    while len(outcomes) < 3:
        outcomes.update({o.candidate: o.status for o in pair.poll(5.0)})
    assert outcomes == {0: "lost", 1: "lost", 2: "scored"}


def test_more_in_flight_than_agreed_is_an_error_of_the_caller():
    backend = LocalBackend(behave(), 1, depth=2)
    backend.start()
    try:
        with pytest.raises(ValueError, match="takes 2"):
            backend.submit([Task(i, "free") for i in range(3)])
    finally:
        backend.close()


def test_seeds_and_modes_come_back_with_the_outcome(pair):
    pair.submit([Task(7, "free", seed=s, mode="train", arm="baseline") for s in range(5)])
    seen = []
    while len(seen) < 5:
        seen += [(o.candidate, o.seed, o.mode, o.arm) for o in pair.poll(1.0)]
    assert sorted(seen) == [(7, s, "train", "baseline") for s in range(5)]


def test_inline_gives_the_same_outcomes():
    backend = make_backend("inline", 1, behave(), depth=10)
    backend.start()
    outcomes = collect(backend, ["free", "boom", "nonsense"])
    assert [o.status for o in outcomes] == ["scored", "failed", "failed"]
    backend.close()


DRIVER = """
import sys
sys.path.insert(0, {folder!r})
from slot_support import behave
from evonas.evaluation.protocol import Task
from evonas.run.backends.local import LocalBackend
backend = LocalBackend(behave(), 3)
backend.start()
while backend.describe()["ready"] < 3:
    backend.poll(0.02)
backend.submit([Task(i, "spin", deadline_s=600.0) for i in range(3)])
backend.poll(0.2)
state = backend.describe()
print(state["server_pid"], *state["pids"], flush=True)
backend.poll(600.0)
"""


def test_a_killed_driver_leaves_no_orphans():
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(folder=str(Path(__file__).parent))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    pids = [int(p) for p in driver.stdout.readline().split()]
    assert len(pids) == 4
    driver.kill()
    driver.wait()
    assert wait_until(lambda: all(gone(p) for p in pids), 2.0)
