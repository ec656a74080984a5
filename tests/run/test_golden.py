"""The committed run is replayed decision by decision: a failure means that evonas searches differently now."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import verify

from evonas.run.directory import RunDirectory
from evonas.run.log import scan_log

RUNS = Path(__file__).parents[2] / "runs"
#: images, language models, both at once
KINDS = ("golden", "language", "worlds")
GOLDEN = sorted(p.parent for kind in KINDS for p in (RUNS / kind).glob("*/run.json"))


def test_there_is_a_run_of_each_kind() -> None:
    assert sorted(path.parent.name for path in GOLDEN) == sorted(KINDS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.name)
def test_golden_run_replays_to_its_last_event(path: Path) -> None:
    directory = RunDirectory.open(path)
    assert directory.status == "finished"
    assert verify(directory)[0] == scan_log(path).next_seq
