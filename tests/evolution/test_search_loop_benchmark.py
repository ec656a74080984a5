"""The benchmark's own parts: the yardsticks do their duty, a case runs, the verdicts follow the numbers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_both_keys_of_the_yardstick_tell_the_same_graphs_apart() -> None:
    import _yardsticks as y

    rng = random.Random(3)
    genomes = [y.random_genome(rng) for _ in range(3000)]
    short: dict[int, bytes] = {}
    for genome in genomes:
        assert short.setdefault(y.hash_key(genome), y.digest_key(genome)) == y.digest_key(genome)
    assert len(set(short.values())) == len(short) > 1000
    *rest, (_, a, b) = genomes[0]
    assert y.digest_key((*rest, (0, a, b))) == y.digest_key((*rest, (0, b, a)))
    assert (y.digest_key((*rest, (1, a, b))) == y.digest_key((*rest, (1, b, a)))) == (a == b)


@pytest.mark.parametrize("case", ["evonas", "plain_full"])
def test_a_case_runs_in_its_own_process_and_writes_its_log(case: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "search_loop.py"), "--case", case, "--candidates", "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["n"] == 400
    assert result["rate"] > 0
    assert 50 < result["disk_per_candidate"] < 1000
    if case == "evonas":
        assert sum(result["notes"].values()) == 400


def test_a_missed_target_is_said_to_be_missed() -> None:
    import search_loop

    def row(case: str, rate: float) -> dict[str, object]:
        return {
            "case": case,
            "n": 100,
            "rate": rate,
            "wall": 1.0,
            "bytes_per_candidate": 0.0,
            "disk_per_candidate": 0.0,
            "notes": {},
        }

    for rate, met in ((60.0, True), (40.0, False)):
        summary = search_loop.summarise({"evonas": [row("evonas", rate)], "plain_full": [row("x", 100.0)]})
        assert [t["met"] for t in summary["targets"]] == [met]
        assert ("**no**" in search_loop.table(summary)) is not met
