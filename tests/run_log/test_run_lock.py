"""One writer per run, and a message that tells who it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evonas.errors import EnvironmentUnusable, RunLocked
from evonas.run._files import hashed_hostname
from evonas.run.lock import LOCK, RunLock, lock_holder

HOLD = """
import sys, time
from evonas.run.lock import RunLock
lock = RunLock(sys.argv[1], attempt=3).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunLocked) as caught:
            RunLock(tmp_path).acquire()
        assert f"is being written by process {other.pid} since 20" in str(caught.value)
        assert f"kill -INT {other.pid}" in str(caught.value)
        assert caught.value.exit_code == 4
        note = lock_holder(tmp_path)
        assert note is not None
        assert (note["pid"], note["attempt"], note["host"]) == (other.pid, 3, hashed_hostname())
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        # its note is still there, and no obstacle
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid
        assert lock_holder(tmp_path) is None
        with RunLock(tmp_path):
            assert lock_holder(tmp_path)["pid"] == os.getpid()


def test_two_locks_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with RunLock(tmp_path) as held:
        assert held.acquire() is held
        with pytest.raises(RunLocked, match=rf"by process {os.getpid()} "):
            RunLock(tmp_path).acquire()
    with RunLock(tmp_path, attempt=2):
        assert lock_holder(tmp_path)["attempt"] == 2
    assert lock_holder(tmp_path) is None


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"pid": 1, "host": "0000000000000000", "x": 1}'])
def test_any_stale_content_is_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content + "#" * 500)
    assert lock_holder(tmp_path) is None
    with RunLock(tmp_path):
        assert set(json.loads((tmp_path / LOCK).read_text())) == {"pid", "host", "started", "attempt"}


def test_another_machine_is_named_by_its_hash(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / LOCK).write_text('{"pid": 12, "host": "00ff"}')
        with pytest.raises(RunLocked, match=r"process 12 on another machine \(00ff\)") as caught:
            RunLock(tmp_path).acquire()
        assert "kill" not in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"locking .*LOCK failed: No such file or directory"):
        RunLock(tmp_path / "gone").acquire()
    assert lock_holder(tmp_path / "gone") is None


def test_a_refused_lock_leaks_no_descriptor(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(RunLocked):
                RunLock(tmp_path).acquire()
        assert len(os.listdir("/proc/self/fd")) == before
