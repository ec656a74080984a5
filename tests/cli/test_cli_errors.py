"""Bad input: what is said, with which exit code, and that nothing is lost."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import HASHED, PLUGINS, QUICK, evonas, only_run

from evonas.run.directory import RunDirectory


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serch"], 2, ["no such command 'serch'", "did you mean search?"]),
        (["search", "--candidate", "3"], 2, ["no such option: --candidate", "did you mean --candidates?"]),
        (["search", "--candidates", "many"], 2, ["--candidates", "integer"]),
        (["search", "--candidates", "0"], 2, ["search.candidates = 0", "at least 1"]),
        (["search", "--workers", "0"], 2, ["workers.count = 0"]),
        (["search", "--space", "norm_ct"], 2, ["unknown space 'norm_ct'", "did you mean 'norm_act'?"]),
        (["search", "--strategy", "aging"], 2, ["unknown strategy 'aging'", "'ageing'"]),
        (["search", "--control", "rndom"], 2, ["unknown control strategy", "'random'"]),
        (["search", "--proxies", "resnet,mobilnet"], 2, ["unknown proxy 'mobilnet'", "'mobilenet'"]),
        (["search", "--proxies", "resnet,resnet"], 2, ["each once"]),
        (["search", "--scale", "tny"], 2, ["unknown scale 'tny'", "'tiny'"]),
        (["search", "--data", "cifar11"], 2, ["unknown data set 'cifar11'", "'cifar10'"]),
        (["search", "--data", "cifar10", "--data-path", "nowhere"], 2, ["nowhere"]),
        (["search", "--device", "gpu"], 2, ["unknown device 'gpu'", "cuda"]),
        (["search", "--backend", "rai"], 2, ["unknown backend 'rai'", "'ray'"]),
        (["search", "--max-time", "3x"], 2, ["'3x' is not a time", "10m"]),
        (["search", "--set", "search.candidats=3"], 2, ["'candidats'", "did you mean 'candidates'?"]),
        (["search", "--set", "serch.seed=3"], 2, ["unknown section 'serch'", "'search'"]),
        (["search", "--set", "search.seed"], 2, ["has no value"]),
        (["search", "--set", "search.seed=1.5"], 2, ["search.seed = 1.5", "a whole number"]),
        (["search", "--set", "space.nods=3"], 2, ["unknown space option 'nods'", "'nodes'"]),
        (["search", "--set", "strategy.windw=3"], 2, ["'windw'", "'window'"]),
        (["search", "--set", "evaluation.changes.step=3"], 2, ["no field 'step'", "steps"]),
        (["search", "--set", 'evaluation.changes.steps="abc"'], 2, ["steps is 'abc'", "whole number"]),
        (["search", "--set", "evaluation.changes.quality_steps=-5"], 2, ["quality_steps is -5"]),
        (
            ["search", "--set", "evaluation.changes.depth=[1]"],
            2,
            ["depth is (1,)", "7 whole numbers: mobilenet"],
        ),
        (
            ["search", "--set", 'evaluation.changes.network="foo"'],
            2,
            ["network is 'foo'", "cannot be changed"],
        ),
        (["search", "--config", "absent.toml"], 2, ["no such file: absent.toml"]),
        (["search", "--config", "/"], 2, ["cannot read '/'", "Is a directory"]),
        (["search", "--seed-layer", "max(x, 0"], 2, ["column 4", "never closed"]),
        (["search", "--seed-layer", "max(x, erf(x))"], 2, ["erf", "not part of space"]),
        (["search", "--plugin", "absent.py"], 2, ["cannot read the plug-in 'absent.py'"]),
        (["search", "--resume", "nowhere"], 2, ["no run 'nowhere'"]),
        (["resume", "nowhere"], 2, ["no run 'nowhere'"]),
        (["status", "nowhere"], 2, ["no run 'nowhere'"]),
        (["top", "nowhere"], 2, ["no run 'nowhere'"]),
        (["replay"], 2, ["missing argument"]),
        (["show", "x * sigmod(x)"], 2, ["sigmod", "'sigmoid'"]),
        (["show", "evonrm_s0"], 2, ["unknown layer 'evonrm_s0'", "'evonorm_s0'"]),
        (["show", "relu", "--shape", "1,2"], 2, ["'1,2' is not a shape", "1,64,56,56"]),
        (["show", "absent.json"], 2, ["cannot read a layer from absent.json"]),
        (["show", "(" * 300], 2, ["too many nested parentheses"]),
        (["show", "./" + "a" * 300], 2, ["cannot read a layer", "ile name too long"]),
        (["top", "(" * 300], 2, ["no run", "ile name too long"]),
        (["resume", "a" * 300], 2, ["no run", "ile name too long"]),
        (["list", "space"], 2, ["'space'", "'spaces'"]),
    ],
)
def test_usage_errors(call, tmp_path, arguments, code, words):
    got, out, err = call(*arguments)
    assert got == code
    assert err.startswith("error: ")
    assert all(w in err for w in words), err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_file_is_named_with_its_place(call, tmp_path):
    (tmp_path / "bad.toml").write_text("[search]\ncandidates = \n")
    code, _, err = call("search", "--config", "bad.toml")
    assert code == 2
    assert "bad.toml is not TOML" in err
    assert "line 2" in err
    (tmp_path / "flat.toml").write_text("candidates = 3\n")
    assert "outside a table" in call("search", "--config", "flat.toml")[2]


def test_an_environment_variable_that_is_no_setting(call, monkeypatch):
    monkeypatch.setenv("EVONAS_CANDIDATES", "3")
    code, _, err = call("search", "--dry-run")
    assert code == 2
    assert "EVONAS_CANDIDATES is not a setting" in err


def test_a_plugin_that_raises(call):
    code, _, err = call("search", "--plugin", PLUGINS / "raises.py")
    assert code == 2
    assert "raises.py:3 raised RuntimeError: no such luck" in err
    assert "Traceback" not in err


def test_a_plugin_that_lies_about_its_shape(tmp_path):
    done = evonas("search", "--plugin", PLUGINS / "lies.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "acme_liar" in done.stderr
    assert "shape" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_set_with_nan(call):
    code, _, err = call("search", "--plugin", PLUGINS / "nan_data.py", "--data", "acme_nan")
    assert code == 2
    assert "value nan at index (7, 0, 3, 3)" in err


def test_a_broken_installed_plugin_breaks_nothing_else(tmp_path):
    site = tmp_path / "site" / "acme_broken-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[evonas.primitives]\nacme = acme_absent:thing\n")
    env = {"PYTHONPATH": str(site.parent)}
    assert "Commands:" in evonas("--help", cwd=tmp_path, env=env).stdout
    shown = evonas("list", "plugins", cwd=tmp_path, env=env).stdout
    assert "acme" in shown
    assert "broken" in shown
    assert "acme_absent" in shown
    assert evonas("search", *QUICK, "--no-rerank", cwd=tmp_path, env=env).returncode == 0


@pytest.mark.parametrize("out", ["file/runs", "/proc/evonas-runs"])
def test_a_folder_that_cannot_be_written(call, tmp_path, out):
    (tmp_path / "file").write_text("")
    code, _, err = call("search", *QUICK, "--out", out)
    assert code == 4
    assert err.startswith("error: creating ")
    assert "--out" in err or "folder" in err


def test_a_full_disk_loses_nothing_that_was_said(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    full = evonas("search", *QUICK, "--candidates", "10", "--no-rerank", cwd=tmp_path, preexec_fn=limit)
    assert full.returncode == 4, full.stderr
    assert "events are safe" in full.stderr
    assert "evonas resume" in full.stderr
    assert "Traceback" not in full.stderr
    run = only_run(tmp_path)
    went_on = evonas("resume", run, cwd=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    assert evonas("replay", run, "--verify", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("verb", ["top", "status", "resume", "replay"])
def test_a_damaged_value_among_the_settings_of_a_run(call, run_copy, verb):
    path = run_copy / "config.toml"
    text, count = re.subn(r"(?m)^candidates = \d+", 'candidates = "six"', path.read_text())
    assert count == 1
    path.write_text(text)
    code, out, err = call(verb, str(run_copy))
    assert (code, out) == (2, "")
    assert "search.candidates" in err
    assert "Traceback" not in err


def test_a_second_writer_is_turned_away(call, run_copy):
    with RunDirectory.open(run_copy).lock():
        code, _, err = call("resume", run_copy, "--candidates", "20", "--quiet")
        shown = call("status", run_copy)[1]
    assert code == 4
    assert f"is being written by process {os.getpid()}" in err
    assert f"writer  process {os.getpid()}" in shown


def test_a_finished_run_has_nothing_to_resume(call, run_copy):
    code, _, err = call("resume", run_copy, "--quiet")
    assert code == 2
    assert "is finished: 8 candidates per arm" in err
    assert "--candidates 16" in err


def test_an_internal_error_leaves_its_traceback_in_a_file(call, run_copy, monkeypatch):
    import evonas.cli.search as verb

    def broken(*arguments, **options):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(verb, "execute", broken)
    code, _, err = call("resume", run_copy, "--candidates", "20", "--quiet")
    assert code == 1
    assert "internal error, ZeroDivisionError: planted" in err
    assert "Traceback" not in err
    (file,) = (run_copy / "logs").iterdir()
    assert str(file) in err
    assert "ZeroDivisionError: planted" in file.read_text()


def test_a_closed_pipe_is_no_error(finished):
    command = [sys.executable, "-m", "evonas.cli.main", "top", finished[0], "--arm", "all"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_plugin_of_a_run_must_be_the_one_it_began_with(tmp_path):
    plugin = Path(shutil.copy(PLUGINS / "hashed.py", tmp_path / "mine.py"))
    arguments = ["--plugin", plugin, *HASHED[2:], "--backend", "inline", "--seed", "1", "--candidates", "4"]
    assert evonas("search", *arguments, cwd=tmp_path).returncode == 0
    run = only_run(tmp_path)
    plugin.write_text(plugin.read_text() + "\n# changed\n")
    refused = evonas("resume", run, "--candidates", "6", cwd=tmp_path)
    assert refused.returncode == 2
    assert "is not the file that the run names" in refused.stderr
    went_on = evonas("resume", run, "--candidates", "6", "--allow-change", cwd=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
