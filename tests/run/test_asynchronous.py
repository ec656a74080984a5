"""Runs on several slots, with kills: whatever the timing, the log replays."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support import SESSION, decisions, free_run, free_settings, spawn, verify

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.run.directory import RunDirectory
from evonas.run.drive import Driver
from evonas.run.log import read_events
from evonas.run.run import Run
from evonas.run.schema import Event
from evonas.run.session import create_run, execute

LOCAL = {"workers__backend": "local", "workers__count": 4}


def test_local_slots_replay(tmp_path: Path) -> None:
    directory, status = free_run(tmp_path, **LOCAL, evaluation__options={"sleep_s": 0.01})
    assert status == "finished"
    verify(directory)
    order = [e.candidate for e in read_events(directory.path) if e.kind == "finished"]
    assert order != sorted(order), "the answers came in order: this run was not asynchronous"


def test_killed_slots_lose_nothing(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    directory, status = free_run(tmp_path / "runs", **LOCAL, evaluation__options={"kill_first": str(marks)})
    assert status == "finished"
    events = list(read_events(directory.path))
    lost = [e for e in events if e.kind == "attempt_lost"]
    assert len(lost) == len(list(marks.iterdir())) > 3
    answered = {e.candidate for e in events if e.kind == "finished"}
    assert answered == {e.candidate for e in events if e.kind == "proposed" and e.outcome == "dispatched"}
    assert all(e.outcome != "failed" for e in events)
    verify(directory)


@pytest.mark.ray
def test_sixteen_ray_slots_replay(tmp_path: Path) -> None:
    directory, status = free_run(
        tmp_path,
        workers__backend="ray",
        workers__count=16,
        search__candidates=60,
        evaluation__options={"sleep_s": 0.01},
    )
    assert status == "finished"
    events, _ = verify(directory)
    assert events == sum(1 for _ in read_events(directory.path))


def begun(path: str, resumes: int) -> bool:
    """Whether the driver that resumes for that many times has logged its first event."""
    try:
        kinds = [e.kind for e in read_events(path)]
    except UsageError:  # no segment yet
        return False
    return bool(kinds) and kinds.count("resumed") == resumes


def kill_and_resume(root: Path, kills: int, options: dict[str, object]) -> RunDirectory:
    """A run whose driver is killed so many times at random moments after its first events, then driven to its end."""
    moments = random.Random(7)
    process = spawn("new", str(root), json.dumps(options))
    assert process.stdout is not None
    path = process.stdout.readline().strip()
    for kill in range(kills):
        while process.poll() is None and not begun(path, kill):
            time.sleep(0.01)
        time.sleep(moments.uniform(0.05, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = spawn("resume", path)
        assert process.stdout is not None
        process.stdout.readline()
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert out.strip().endswith("finished"), error
    return RunDirectory.open(path)


def test_sigkilled_and_resumed_three_times(tmp_path: Path) -> None:
    options = {"evaluation__options": {"sleep_s": 0.04}}
    directory = kill_and_resume(tmp_path / "killed", 3, options)
    assert sum(e.kind == "resumed" for e in read_events(directory.path)) == 3
    whole, _ = free_run(tmp_path / "whole")
    assert verify(directory)[1] == verify(whole)[1]
    expected = [(e.kind, e.candidate, e.genotype, e.scores) for e in decisions(whole)]
    assert [(e.kind, e.candidate, e.genotype, e.scores) for e in decisions(directory)] == expected


@pytest.mark.slow
def test_sigkilled_twenty_times(tmp_path: Path) -> None:
    options = {"evaluation__options": {"sleep_s": 0.05}, "search__candidates": 60, **LOCAL}
    directory = kill_and_resume(tmp_path, 20, options)
    verify(directory)
    events = [e for e in read_events(directory.path) if e.kind not in SESSION]
    finished = [(e.candidate, e.attempt) for e in events if e.kind == "finished"]
    assert len(finished) == len(set(finished)), "an answered candidate was evaluated again"


class After:
    """Calls the driver's ``interrupt`` once so many candidates have come back."""

    def __init__(self, finished: int, times: int = 1) -> None:
        self.left = finished
        self.times = times

    def event(self, event: Event) -> None:
        self.left -= event.kind == "finished"

    def tick(self, driver: Driver) -> None:
        if self.left <= 0 and self.times:
            self.times -= 1
            driver.interrupt()


def test_an_interrupt_drains_and_a_second_one_does_not(tmp_path: Path) -> None:
    for times, open_flights in ((1, False), (2, True)):
        settings = free_settings(**LOCAL, evaluation__options={"sleep_s": 0.3 if times == 2 else 0.02})
        directory = create_run(settings, root=tmp_path)
        assert execute(directory, settings, observers=(After(8, times),)) == "interrupted"
        last = list(read_events(directory.path))[-1]
        assert last.kind == "interrupted"
        assert bool(last.details()["in_flight"]) == open_flights
        assert RunDirectory.open(directory.path).status == "interrupted"
        fast = free_settings(**LOCAL)
        assert execute(directory, fast, resume=True) == "finished"
        verify(directory)


def test_a_time_limit_keeps_time_for_the_ranking(tmp_path: Path) -> None:
    started = time.monotonic()
    directory, status = free_run(
        tmp_path, search__candidates=10_000, search__max_time_s=3.0, evaluation__options={"sleep_s": 0.02}
    )
    assert status == "finished"
    assert time.monotonic() - started < 15
    stops = [e for e in read_events(directory.path) if e.kind == "stopping"]
    assert stops[0].stage == "search"
    assert stops[0].reason == "time limit"
    run = Run(directory)
    assert run.ranking()
    assert run.ranking()[0]["n"] >= 1
    verify(directory)


def test_a_space_without_new_layers_ends(tmp_path: Path) -> None:
    settings = free_settings(search__space="activation", search__candidates=500, search__exhausted_after=300)
    settings = type(settings).from_dict({**settings.to_dict(), "space": {"nodes": 1}})
    directory = create_run(settings, root=tmp_path)
    assert execute(directory, settings) == "finished"
    stops = [e for e in read_events(directory.path) if e.kind == "stopping"]
    assert {e.arm for e in stops} == {"search", "control"}
    verify(directory)


def test_a_machine_on_which_everything_fails_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"each of the first 10 evaluations failed.*always"):
        free_run(tmp_path, evaluation__options={"fail": True})
    [path] = list(tmp_path.iterdir())
    assert RunDirectory.open(path).status == "failed"
    directory = RunDirectory.open(path)
    assert execute(directory, free_settings(), resume=True) == "finished"


def test_two_writers(tmp_path: Path) -> None:
    options = {"evaluation__options": {"sleep_s": 0.2}}
    process = spawn("new", str(tmp_path), json.dumps(options))
    assert process.stdout is not None
    path = process.stdout.readline().strip()
    try:
        deadline = time.monotonic() + 30
        while not any((Path(path) / "events").glob("*.arrows")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = spawn("resume", path)
        _, error = second.communicate(timeout=60)
        assert second.returncode != 0
        assert "RunLocked" in error
        assert str(process.pid) in error
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
