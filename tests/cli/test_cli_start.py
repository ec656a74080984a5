"""Starting quickly, and what is drawn on which terminal."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest
from cli_support import HASHED, environment, evonas

HEAVY = ("torch", "ray", "triton", "numpy", "pyarrow", "networkx", "optuna")
COLOUR = re.compile(r"\x1b\[[0-9;]*3\d[;m]")


def test_help_starts_quickly_and_imports_little(tmp_path):
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        done = evonas("--help", cwd=tmp_path)
        times.append(time.perf_counter() - begun)
    assert done.returncode == 0
    for verb in ("search", "resume", "status", "top", "show", "replay", "kernel", "bench", "list", "doctor"):
        assert re.search(rf"^  {verb} ", done.stdout, re.M)
    assert min(times) < 1.0
    code = "import sys; from evonas.cli.main import main; main(['--help']); print('LOADED', *sys.modules)"
    loaded = (
        subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
        )
        .stdout.split("LOADED")[1]
        .split()
    )
    assert not [name for name in HEAVY if name in loaded]


@pytest.mark.parametrize("arguments", [["search", "--help"], ["doctor", "--help"], ["top", "-h"]])
def test_every_verb_has_help(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert "Options:" in out


def test_no_arguments_show_the_help(call):
    code, out, _ = call()
    assert code == 2
    assert "Commands:" in out


def test_version(call):
    out = call("--version")[1]
    assert re.match(r"evonas \S+, torch \S+, triton \S+, ray \S+\n", out)


def on_a_terminal(root, **env):
    """A run whose stderr is a terminal; what was written to stdout and to the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "evonas.cli.main", "search", *HASHED, "--set", "evaluation.options.delay=0.1",
         "--backend", "inline", "--seed", "1", "--candidates", "2", "--no-rerank"],
        cwd=root, env=environment(**env), stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        if not data:
            break
        drawn += data
    out = process.communicate(timeout=60)[0]
    os.close(ours)
    assert process.returncode == 0
    return out, drawn.decode()


def test_a_panel_on_a_terminal(tmp_path):
    out, drawn = on_a_terminal(tmp_path, TERM="xterm-256color", COLUMNS="140", LINES="50")
    assert "evaluations/min" in drawn
    assert "structural" in drawn
    assert "\x1b[" in drawn
    assert "\x1b" not in out
    assert "Front of the search" in out


def test_no_color_and_dumb_terminals(tmp_path):
    _, plain = on_a_terminal(tmp_path, TERM="xterm-256color", NO_COLOR="1", COLUMNS="140")
    assert "structural" in plain
    assert not COLOUR.search(plain)
    _, dumb = on_a_terminal(tmp_path, TERM="dumb")
    assert "\x1b" not in dumb
    assert "search;" in dumb
