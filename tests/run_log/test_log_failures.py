"""Kills, full disks, read-only and vanished folders: what was acknowledged stays, the message helps."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from log_events import METADATA, make_event, write_log

from evonas.errors import EnvironmentUnusable
from evonas.run.log import EventLog, read_events, scan_log

HERE = Path(__file__).parent

# One process loads pyarrow and forks writers, so that 20 kills take a second or two. Each writer tells
# the number of flushed events after every flush and is killed at a random moment.
NURSERY = """
import json, os, random, signal, sys, time
from pathlib import Path
from evonas.run.log import EventLog
from log_events import METADATA, make_event

import pyarrow

def write(folder, rng, ack):
    log = EventLog.create(folder, "run-a", METADATA, segment_bytes=200_000)
    while True:
        for _ in range(rng.randrange(1, 150)):
            log.append(make_event(log.next_seq))
        log.flush()
        os.write(ack, log.safe_events.to_bytes(8, "little"))

acknowledged = []
for number in range(int(sys.argv[2])):
    rng = random.Random(number)
    folder = Path(sys.argv[1]) / str(number)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        write(folder, rng, writer)
    os.close(writer)
    last = os.read(reader, 8)  # the first group is on the disk
    time.sleep(rng.random() * 0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as rest:
        last += rest.read()
    whole = len(last) // 8 * 8
    acknowledged.append(int.from_bytes(last[whole - 8 : whole], "little"))
print(json.dumps(acknowledged))
"""

FULL_DISK = """
import json, resource, sys
from evonas.errors import EnvironmentUnusable
from evonas.run.log import EventLog
from log_events import METADATA, make_event

log = EventLog.create(sys.argv[1], "run-a", METADATA)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
refusals = []
for _ in range(3):
    try:
        while True:
            log.append(make_event(log.next_seq))
    except EnvironmentUnusable as error:
        refusals.append(str(error))
print(json.dumps({"safe": log.safe_events, "refusals": refusals}))
"""

READ_ONLY = """
import contextlib, json, os, sys
from pathlib import Path
import pyarrow.parquet
from evonas.errors import EvonasError
from evonas.run.candidates import write_candidates
from evonas.run.directory import RunDirectory
from evonas.run.lock import RunLock, lock_holder
from evonas.run.log import EventLog, read_events
from log_events import METADATA

run = Path(sys.argv[1])
RunDirectory.create(run.parent, "norm_act", "warm", seed=1, config={})  # imports what it needs
with contextlib.suppress(ImportError):
    import pandas  # pyarrow looks for it when it makes a table
if os.geteuid() == 0:  # rights do not bind root; nobody may not even read some Python installations
    os.setgid(65534)
    os.setuid(65534)
said = {}
for name, action in {
    "log": lambda: EventLog.open(run),
    "new log": lambda: EventLog.create(run / "other", "run-b", METADATA),
    "lock": lambda: RunLock(run).acquire(),
    "view": lambda: write_candidates(run),
    "run": lambda: RunDirectory.create(run, "norm_act", "ab12", seed=1, config={}),
}.items():
    try:
        action()
    except EvonasError as error:
        said[name] = [error.exit_code, str(error)]
said["rows"] = sum(1 for _ in read_events(run))
said["holder"] = lock_holder(run)
print(json.dumps(said))
"""


def append_many(log: EventLog, count: int) -> None:
    for i in range(count):
        log.append(make_event(i))


def script(text: str, *args: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twenty_kills_lose_no_acknowledged_event(tmp_path: Path) -> None:
    acknowledged = json.loads(script(NURSERY, tmp_path, 20))
    assert min(acknowledged) > 0
    for number, count in enumerate(acknowledged):
        folder = tmp_path / str(number)
        with EventLog.open(folder) as log:  # reopens without a hand
            found = log.next_seq
            assert found >= count
            log.append(make_event(found))
        rows = list(read_events(folder))
        assert len(rows) == found + 1
        assert all(row.same_decision(make_event(i)) for i, row in enumerate(rows))


def test_a_full_disk_keeps_what_was_flushed(tmp_path: Path) -> None:
    said = json.loads(script(FULL_DISK, tmp_path))
    assert said["safe"] > 100
    assert len(said["refusals"]) == 3
    for refusal in said["refusals"]:
        assert "000001.arrows failed: File too large" in refusal
        assert f"{said['safe']:,} events are safe" in refusal
        assert f"evonas resume {tmp_path}" in refusal
    state = scan_log(tmp_path)
    assert (state.next_seq, state.torn_bytes) == (said["safe"], 0)
    with EventLog.open(tmp_path) as log:
        log.append(make_event(said["safe"]))
    assert all(row.same_decision(make_event(i)) for i, row in enumerate(read_events(tmp_path)))


def test_no_space_at_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog.create(tmp_path, "run-a", METADATA)
    log.append(make_event(0))
    log.flush()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log.append(make_event(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentUnusable, match="No space left on device; 1 events are safe") as caught:
            log.flush()
    assert "free some space" in str(caught.value)
    for _ in range(2):  # the space is back, but this writer no longer knows what the disk holds
        with pytest.raises(EnvironmentUnusable, match="No space left"):
            log.append(make_event(1))
        with pytest.raises(EnvironmentUnusable, match="No space left"):
            log.flush()
    log.close()
    assert scan_log(tmp_path).next_seq == 1
    with EventLog.open(tmp_path) as again:
        assert again.append(make_event(1)) == 1
    assert scan_log(tmp_path).next_seq == 2


def test_a_full_disk_at_the_next_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog.create(tmp_path, "run-a", METADATA, segment_bytes=10_000)
    real = os.open

    def full(path: object, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(EnvironmentUnusable, match=r"creating .*000002.arrows failed: No space left"):
        append_many(log, 200)
    assert scan_log(tmp_path).next_seq == log.safe_events == 100


@pytest.mark.parametrize("what", ["run", "segment"])
def test_a_vanished_folder_is_noticed_at_the_next_flush(tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    log = EventLog.create(run, "run-a", METADATA)
    log.append(make_event(0))
    log.flush()
    if what == "run":
        shutil.rmtree(run)
    else:
        log.segment.unlink()
    log.append(make_event(1))
    with pytest.raises(EnvironmentUnusable, match="deleted while it was being written"):
        log.flush()


def test_a_read_only_run_reads_and_says_why_it_cannot_be_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_log(run, 5)
    (run / "LOCK").write_text("{}")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
        if folder.name.startswith("pytest-of"):
            break
    for path in (run / "events" / "000001.arrows", run / "LOCK"):
        path.chmod(0o444)
    for path in (run / "events", run):
        path.chmod(0o555)
    try:
        said = json.loads(script(READ_ONLY, run))
    finally:
        for path in (run / "events", run):
            path.chmod(0o755)
    assert said["rows"] == 5
    assert said["holder"] is None
    for name in ("log", "new log", "lock", "view", "run"):
        code, message = said[name]
        assert code == 4, (name, message)
        assert "Permission denied" in message
        assert "give this user the right to write there" in message
