"""Runs the tests of ``interpreted/``, file by file, in processes in which Triton interprets kernels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = HERE / "interpreted"
FILES = sorted(p.name for p in FOLDER.glob("test_*.py"))


def run(file: str, *options: str) -> int:
    """Number of tests that passed."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file), *options],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed, result.stdout[-2000:]
    return int(passed[1])


@pytest.mark.parametrize("file", FILES)
def test_kernels_in_the_interpreter(file: str) -> None:
    assert run(file, "-m", "not slow") >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_graphs_in_the_interpreter() -> None:
    assert run("test_fuzz.py", "-m", "slow") >= 1
