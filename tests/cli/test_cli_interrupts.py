"""Ctrl-C and SIGTERM, in processes of their own: what is printed, the exit code, and that the run goes on."""

import re
import signal
import time

import pytest
from cli_support import HASHED, evonas, only_run, start

SLOW = (
    *HASHED,
    "--set",
    "evaluation.options.delay=0.4",
    "--seed",
    "3",
    "--candidates",
    "40",
    "--workers",
    "2",
)


def begin(root):
    """A search of which at least one evaluation has come back."""
    process = start("search", *SLOW, "--backend", "local", cwd=root)
    for _ in range(300):
        logs = list((root / "runs").glob("*/events/*.arrows"))
        if logs and logs[0].stat().st_size > 12_000:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("the search does not start")


def end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(tmp_path, number):
    process = begin(tmp_path)
    process.send_signal(number)
    code, _, err = end(process)
    run = only_run(tmp_path)
    assert code == 75
    assert "stopping: what is in flight comes back first" in err
    assert f"go on with: evonas resume runs/{run.name}" in err
    assert "Traceback" not in err
    shown = evonas("status", run, cwd=tmp_path).stdout
    assert "status  interrupted" in shown
    assert "0 in flight" in shown
    went_on = evonas(
        "resume", run, "--backend", "inline", "--max-time", "4", "--set", "workers.depth=2", cwd=tmp_path
    )
    assert went_on.returncode == 0, went_on.stderr
    assert re.search(r"recovered \d+ events, \d+ scored candidates; 0 in flight", went_on.stdout)
    assert evonas("replay", run, "--verify", cwd=tmp_path).returncode == 0


def test_the_second_stops_now(tmp_path):
    process = begin(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    run = only_run(tmp_path)
    assert code == 130
    assert "interrupted (stopped at once)" in err
    assert "Traceback" not in err
    assert "status  interrupted" in evonas("status", run, cwd=tmp_path).stdout
    assert evonas("replay", run, "--verify", cwd=tmp_path).returncode == 0
