"""The run folder: complete, readable without evonas, found again by any reasonable name."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import METADATA, make_event

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.run._toml import dump_toml, load_toml, tomllib
from evonas.run.candidates import candidate_table, write_candidates
from evonas.run.directory import RunDirectory, find_run, list_runs
from evonas.run.environment import git_state
from evonas.run.log import EventLog, read_events
from evonas.run.run import Run

CONFIG = {"space": "norm_act", "search": {"workers": 2, "seed": 7, "share": 0.05, "note": None}}


def new_run(root: Path, short_id: str = "ab12", **more: Any) -> RunDirectory:
    return RunDirectory.create(root, "norm_act", short_id, seed=7, config=CONFIG, **more)


def test_a_new_run_is_complete(tmp_path: Path) -> None:
    run = new_run(
        tmp_path,
        origins={"space": "flag", "search.workers": "EVONAS_WORKERS", "search.note": "default"},
        space_description={"name": "norm_act", "primitives": ["add", "mul"]},
        command=["evonas", "search", "--space", "norm act"],
    )
    assert re.fullmatch(r"\d{8}T\d{6}Z-norm_act-ab12", run.path.name)
    names = {p.name for p in run.path.iterdir()}
    assert names == {
        *("run.json", "config.toml", "environment.json", "space.json", "command.txt"),
        *("events", "exports", "report", "logs"),
    }
    text = (run.path / "config.toml").read_text()
    assert 'space = "norm_act"  # flag' in text
    assert "workers = 2  # EVONAS_WORKERS" in text
    assert "# note is not set  # default" in text
    assert run.config == {"space": "norm_act", "search": {"workers": 2, "seed": 7, "share": 0.05}}
    assert run.space["primitives"] == ["add", "mul"]
    assert shlex.split((run.path / "command.txt").read_text())[-1] == "norm act"
    info = json.loads((run.path / "run.json").read_text())
    assert (info["id"], info["status"], info["seed"]) == (run.path.name, "created", 7)
    assert info["schema_version"] == "1.0"
    assert info["versions"]["pyarrow"]


def test_the_environment_names_no_machine(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    text = (run.path / "environment.json").read_text()
    environment = json.loads(text)
    assert environment["cpus"] >= 1
    assert environment["memory_bytes"] > 1 << 28
    assert re.fullmatch("[0-9a-f]{16}", environment["host"])
    assert f'"{socket.gethostname()}"' not in text
    assert environment["packages"]["numpy"]
    state = git_state()
    assert environment["git"] == state
    assert state is None or re.fullmatch("[0-9a-f]{40}", state["commit"])


def test_status_is_written_at_once_and_read_back(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.set_status("running", attempts=1)
    again = RunDirectory.open(run.path)
    assert (again.id, again.status, again.info["attempts"]) == (run.id, "running", 1)
    assert again.lock().attempt == 2
    with pytest.raises(ValueError, match="unknown status 'sleeping'"):
        run.set_status("sleeping")
    assert not list(run.path.glob(".*"))  # no temporary file is left


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path)
    before = (run.path / "run.json").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentUnusable, match=r"run.json failed: No space left on device"):
            run.set_status("running")
    assert (run.path / "run.json").read_bytes() == before
    assert run.status == "created"
    assert not list(run.path.glob(".*"))


def test_what_can_be_rebuilt_can_be_deleted(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with EventLog.create(run.path, run.id, METADATA) as log:
        for i in range(20):
            log.append(make_event(i))
    table = candidate_table(run.path)
    write_candidates(run.path).unlink()
    for name in ("report", "logs", "exports"):
        shutil.rmtree(run.path / name)
    again = find_run(str(run.path))
    again.set_status("interrupted")
    with EventLog.open(again.path, run_id=again.id) as log:
        assert log.next_seq == 20
    assert sum(1 for _ in read_events(again.path)) == 20
    write_candidates(run.path)
    assert repr(candidate_table(run.path).to_pylist()) == repr(table.to_pylist())
    assert again.folder("report").is_dir()


def test_runs_are_found_by_any_reasonable_name(tmp_path: Path) -> None:
    for number, short in enumerate(("aa11", "bb22", "bb33")):
        run = new_run(tmp_path, short)
        info = {**run.info, "created": f"2026-01-0{number + 1}T00:00:00+00:00"}
        (run.path / "run.json").write_text(json.dumps(info))
    (tmp_path / "README.md").write_text("not a run")
    (tmp_path / "empty").mkdir()
    runs = list_runs(tmp_path)
    assert [p.name[-4:] for p in runs] == ["aa11", "bb22", "bb33"]
    for spec, short in (("latest", "bb33"), ("aa", "aa11"), ("bb2", "bb22"), (runs[0].name, "aa11")):
        assert find_run(spec, tmp_path).path.name.endswith(short)
    assert find_run(str(runs[1]), tmp_path / "elsewhere").path == runs[1]
    with pytest.raises(UsageError, match=r"'bb' fits 2 runs: .*bb22, .*bb33"):
        find_run("bb", tmp_path)
    with pytest.raises(UsageError, match="fits 3 runs"):
        find_run(runs[0].name[:8], tmp_path)
    with pytest.raises(UsageError, match=r"did you mean .*aa11"):
        find_run(runs[0].name.replace("aa11", "aa99"), tmp_path)
    with pytest.raises(UsageError, match="holds no runs"):
        find_run("latest", tmp_path / "elsewhere")


def test_folders_that_are_called_like_what_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("latest", "abc"):
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match="runs holds no runs"):
            find_run(name)
    run = new_run(tmp_path / "runs")
    assert find_run("latest").path.name == run.path.name
    with pytest.raises(UsageError, match="no run 'abc' in runs") as raised:
        find_run("abc")
    assert run.id in str(raised.value.hint)
    with pytest.raises(UsageError, match="runs is no run but a folder of runs"):
        find_run("runs", "elsewhere")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["/opt/my env/bin/evonas", "search", "--set", "a='b c'"], ["evonas", "search", "--set", "a='b c'"]),
        (["evonas"], ["evonas"]),
        (["python", "script with spaces.py"], ["python", "script with spaces.py"]),
    ],
)
def test_the_command_as_it_can_be_typed(tmp_path: Path, typed: list[str], shown: list[str]) -> None:
    command = Run(new_run(tmp_path, command=typed)).command
    assert command is not None
    assert shlex.split(command) == shown


def test_a_command_that_is_cut_off_or_not_there(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert Run(run).command is None
    (run.path / "command.txt").write_text("/bin/evonas search --set 'a")
    assert Run(run).command == "/bin/evonas search --set 'a"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "x", "status": "created", "schema_version": 1}'])
def test_a_damaged_run_json_is_a_usage_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match="is damaged"):
        RunDirectory.open(tmp_path)


def test_a_run_of_a_newer_major_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"id": "x", "status": "created", "schema_version": "2.0"}')
    with pytest.raises(UsageError, match="newer than 1"):
        RunDirectory.open(tmp_path)


def test_a_name_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        RunDirectory.create(tmp_path, "../evil", "ab12", seed=1, config={})
    assert list(tmp_path.iterdir()) == []


_SCALARS = (
    st.text(max_size=20, alphabet=st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
)
_KEYS = st.text(min_size=1, max_size=8, alphabet=st.characters(exclude_categories=["Cs"]))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_toml_round_trip(values: dict[str, Any]) -> None:
    assert tomllib.loads(dump_toml(values)) == values


def test_toml_corners(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(dump_toml({"a": float("nan"), "b": [1, {"c": None, "d": (True, 1e-7)}], "e.f": None}))
    back = load_toml(path)
    assert math.isnan(back["a"])
    assert back["b"] == [1, {"d": [True, 1e-7]}]
    with pytest.raises(UsageError, match=r"setting x.y = b'raw' cannot be written"):
        dump_toml({"x": {"y": b"raw"}})
    path.write_text("a = = 1")
    with pytest.raises(UsageError, match="is not TOML"):
        load_toml(path)
