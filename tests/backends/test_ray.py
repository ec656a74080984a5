"""Slots behind Ray actors. One Ray instance for all tests here, at most four slots."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from slot_support import behave, collect, gone, wait_ready, wait_until

from evonas.errors import EnvironmentUnusable, PluginError, UsageError
from evonas.evaluation.protocol import EvaluatorSpec, Task
from evonas.plugins import describe_plugins
from evonas.run.backends import make_backend
from evonas.run.backends.ray_backend import RayBackend
from evonas.run.backends.ray_cluster import Cluster, share


def test_slots_are_shared_out_in_proportion():
    assert share(64, {"a": 2.0}) == {"a": 64}
    assert share(64, {"a": 48.0, "b": 16.0}) == {"a": 48, "b": 16}
    assert share(5, {"a": 2.0, "b": 2.0}) == {"a": 3, "b": 2}
    assert share(1, {"a": 1.0, "b": 8.0, "c": 1.0}) == {"b": 1}
    assert share(7, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 32.0}).get("d", 0) >= 6


def test_a_missing_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentUnusable, match="ray cannot be imported") as caught:
        RayBackend(behave(), 1).start()
    assert "pip install" in caught.value.hint


def test_auto_takes_ray_beyond_this_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    many = (os.cpu_count() or 1) + 1
    assert type(make_backend("auto", 1, behave())).__name__ == "LocalBackend"
    assert type(make_backend("auto", many, behave())).__name__ == "RayBackend"
    assert type(make_backend("auto", 1, behave(), address="auto")).__name__ == "RayBackend"
    with pytest.raises(UsageError, match="unknown backend 'rai'"):
        make_backend("rai", 1, behave())
    with pytest.raises(UsageError, match="at least 1"):
        make_backend("local", 0, behave())


@pytest.fixture(scope="module")
def cluster():
    """The Ray of all tests below; the backends connect to it and leave it alone."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    cluster = Cluster(None)
    started = [p.pid for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert started
    yield cluster
    cluster.close()
    assert wait_until(lambda: all(gone(pid) for pid in started), 10.0)


@pytest.fixture
def backend(cluster):
    backend = RayBackend(behave(), 3, depth=20)
    backend.start()
    yield backend
    pids = backend.describe()["pids"]
    backend.close()
    backend.close()
    assert wait_until(lambda: all(gone(pid) for pid in pids))


@pytest.mark.ray
def test_outcomes_deaths_and_deadlines(backend):
    formulas = ["free", "boom", "exit 3", "spin", *["free"] * 20, "nonsense", "sleep 0.2"]
    outcomes = collect(backend, formulas, deadline_s=1.5)
    expected = ["scored", "failed", "lost", "failed", *["scored"] * 20, "failed", "scored"]
    assert [o.status for o in outcomes] == expected
    assert "exited with code 3" in outcomes[2].reason
    assert outcomes[3].reason == "timeout"


@pytest.mark.ray
def test_a_killed_slot_is_replaced(backend):
    wait_ready(backend, 3)
    backend.submit([Task(i, "sleep 20") for i in range(3)])
    assert backend.poll(1.0) == []
    os.kill(backend.describe()["pids"][0], signal.SIGKILL)
    (outcome,) = backend.poll(10.0)
    assert outcome.status == "lost"
    assert "SIGKILL" in outcome.reason
    assert wait_until(lambda: len(backend.describe()["pids"]) == 3)


@pytest.mark.ray
def test_a_killed_actor_is_replaced_and_its_slots_end(backend):
    wait_ready(backend, 3)
    backend.submit([Task(i, "sleep 60", deadline_s=100.0) for i in range(4)])
    assert backend.poll(0.5) == []
    state = backend.describe()
    (node,) = state["nodes"].values()
    os.kill(node["owner_pid"], signal.SIGKILL)
    outcomes = []
    while len(outcomes) < 4:
        outcomes += backend.poll(10.0)
    assert {o.status for o in outcomes} == {"lost"}
    assert "actor" in outcomes[0].reason
    assert wait_until(lambda: all(gone(pid) for pid in state["pids"]))
    assert [o.status for o in collect(backend, ["free", "free"])] == ["scored", "scored"]
    assert backend.describe()["restarts"] == 1


@pytest.mark.ray
def test_an_actor_that_falls_silent_is_replaced(cluster):
    backend = RayBackend(behave(), 1, grace_s=1.0)
    backend.start()
    try:
        backend.submit([Task(0, "sleep 30")])
        assert backend.poll(0.3) == []
        (node,) = backend.describe()["nodes"].values()
        os.kill(node["owner_pid"], signal.SIGSTOP)
        start = time.monotonic()
        outcomes = backend.poll(20.0)
        assert [o.status for o in outcomes] == ["lost"]
        assert "no answer" in outcomes[0].reason
        assert time.monotonic() - start < 10.0
        assert [o.status for o in collect(backend, ["free"])] == ["scored"]
    finally:
        backend.close()


@pytest.mark.ray
def test_the_plug_in_travels_by_content(cluster, tmp_path):
    source = Path(describe_plugins([__file__])[0]["path"]).parent / "behaviours.py"
    copy = tmp_path / "travelling.py"
    copy.write_text(source.read_text().replace('"free": 0.5', '"free": 0.75'))
    backend = RayBackend(EvaluatorSpec("behave", {}, describe_plugins([copy])), 1)
    copy.unlink()
    backend.start()
    try:
        (outcome,) = collect(backend, ["free"])
        assert outcome.scores == {"free": 0.75}
    finally:
        backend.close()


@pytest.mark.ray
def test_errors_of_the_evaluator_reach_the_driver(cluster, tmp_path):
    with pytest.raises(UsageError, match="the option is wrong"):
        RayBackend(behave("refuses"), 1).start()
    with pytest.raises(EnvironmentUnusable, match="the library is missing"):
        RayBackend(behave("stillborn"), 1).start()
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(PluginError, match=r"broken\.py:1 raised ZeroDivisionError"):
        RayBackend(EvaluatorSpec("x", {}, describe_plugins([broken])), 1).start()
    changed = describe_plugins([broken])
    broken.write_text("2 / 0\n")
    with pytest.raises(PluginError, match="not the file"):
        RayBackend(EvaluatorSpec("x", {}, changed), 1)
