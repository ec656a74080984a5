"""A run, its replay and its resumption are the same function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import StopAt, decisions, free_run, free_settings, verify

from evonas.errors import UsageError, VerificationError
from evonas.run.directory import RunDirectory
from evonas.run.log import EventLog, read_events
from evonas.run.run import Run
from evonas.run.session import create_run, execute, open_settings, recorded_space, replay


def test_a_run_replays_to_its_last_event(tmp_path: Path) -> None:
    directory, status = free_run(tmp_path)
    assert status == "finished"
    events, _ = verify(directory)
    assert events == sum(1 for _ in read_events(directory.path)) > 100


def test_the_same_seed_decides_the_same_and_another_seed_does_not(tmp_path: Path) -> None:
    first, second = (free_run(tmp_path / name)[0] for name in "ab")
    assert all(a.same_decision(b) for a, b in zip(decisions(first), decisions(second), strict=True))
    other, _ = free_run(tmp_path / "c", search__seed=1)
    assert [e.genotype for e in decisions(other)] != [e.genotype for e in decisions(first)]


def test_decisions_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    digests = []
    for hash_seed in ("1", "2"):
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from pathlib import Path\nfrom support import free_run, verify\n"
            f"print(verify(free_run(Path({str(tmp_path / hash_seed)!r}))[0])[1])"
        )
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        digests.append(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        )
    assert digests[0].stdout == digests[1].stdout
    assert len(digests[0].stdout.strip()) == 32


@pytest.mark.parametrize("strategy", ["nsga2", "random"])
def test_other_strategies_replay(tmp_path: Path, strategy: str) -> None:
    settings = free_settings(search__strategy=strategy, search__control="none")
    settings = type(settings).from_dict({**settings.to_dict(), "strategy": {}})
    directory = create_run(settings, root=tmp_path)
    assert execute(directory, settings) == "finished"
    assert verify(directory)[0] > 50


@pytest.mark.parametrize("crash", [1, 2, 3, 40, 41, 97, 150, 203])
def test_a_crashed_run_resumes_to_the_same_end(tmp_path: Path, crash: int) -> None:
    whole, _ = free_run(tmp_path / "whole")
    settings = free_settings()
    directory = create_run(settings, root=tmp_path / "torn")
    with pytest.raises(StopAt.Crash):
        execute(directory, settings, observers=(StopAt(crash),))
    assert execute(directory, settings, resume=True) == "finished"
    expected, got = decisions(whole), decisions(directory)
    assert len(expected) == len(got)
    assert all(a.same_decision(b) for a, b in zip(expected, got, strict=True))
    assert verify(directory)[1] == verify(whole)[1]


def test_three_crashes_in_a_row(tmp_path: Path) -> None:
    whole, _ = free_run(tmp_path / "whole")
    settings = free_settings()
    directory = create_run(settings, root=tmp_path / "torn")
    for crash, resume in ((30, False), (45, True), (60, True)):
        with pytest.raises(StopAt.Crash):
            execute(directory, settings, resume=resume, observers=(StopAt(crash),))
    execute(directory, settings, resume=True)
    assert verify(directory)[1] == verify(whole)[1]
    assert [e.kind for e in read_events(directory.path)].count("resumed") == 3


def test_a_changed_score_makes_the_replay_name_the_first_decision_that_differs(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path / "true", search__candidates=40)
    events = list(read_events(directory.path))
    scored = [e for e in events if e.kind == "finished" and e.arm == "search" and e.outcome == "scored"]
    changed = scored[5]
    forged = create_run(free_settings(search__candidates=40), root=tmp_path / "forged")
    with EventLog.create(forged.path, forged.id, {"proxies": ["a", "b"]}) as log:
        for event in events:
            log.append(event._replace(scores=(0.999, 0.999)) if event.seq == changed.seq else event)
    with pytest.raises(VerificationError, match=r"event \d+ \((proposed|finished|rerank)") as caught:
        verify(forged)
    named = int(str(caught.value).split("event ")[1].split(" ")[0])
    assert named > (changed.seq or 0)


def test_a_forged_genotype_is_named(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path / "true")
    events = list(read_events(directory.path))
    at = next(e.seq for e in events if e.kind == "proposed" and e.arm == "search" and (e.seq or 0) > 50)
    forged = create_run(free_settings(), root=tmp_path / "forged")
    with EventLog.create(forged.path, forged.id, {"proxies": ["a", "b"]}) as log:
        for event in events:
            log.append(event._replace(genotype=b"\0" * 30) if event.seq == at else event)
    with pytest.raises(VerificationError, match=rf"event {at} .*\n.*genotype"):
        verify(forged)
    with pytest.raises(UsageError, match="cannot be resumed"):
        execute(forged, open_settings(forged), resume=True)


def test_replay_until_an_event(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path)
    settings = open_settings(directory)
    space = recorded_space(directory, settings)
    assert sum(1 for _ in replay(directory, settings, space, until=49)) == 50


def test_a_finished_run_is_not_resumed_but_can_be_extended(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path)
    settings = open_settings(directory)
    with pytest.raises(UsageError, match="is finished"):
        execute(directory, settings, resume=True)
    more = free_settings(search__candidates=30)
    assert execute(directory, more, resume=True) == "finished"
    run = Run(RunDirectory.open(directory.path))
    assert sum(1 for row in run.table().to_pylist() if row["arm"] == "search" and row["stage"] not in
               ("structural", "duplicate", "probe")) == 30  # fmt: skip
    verify(directory)


def test_a_changed_space_is_refused(tmp_path: Path) -> None:
    settings = free_settings()
    directory = create_run(settings, root=tmp_path)
    with pytest.raises(StopAt.Crash):
        execute(directory, settings, observers=(StopAt(30),))
    path = directory.path / "space.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"identity": "0" * 32, "operations": [*data["operations"], "erf"]}))
    directory = RunDirectory.open(directory.path)
    with pytest.raises(UsageError, match="operations was") as caught:
        execute(directory, settings, resume=True)
    assert "--allow-change" in str(caught.value)
    assert execute(directory, settings, resume=True, allow_change=True) == "finished"
