"""The benchmark of linear attention runs where there is no GPU, and its device part runs on any device."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_device_part_compares_what_agrees() -> None:
    spec = importlib.util.spec_from_file_location("attention_times", FOLDER / "_attention_times.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    cpu = torch.device("cpu")
    found = module.measure(cpu, [(1, 2, 100, 16)], rounds=2, dtype=torch.float32)
    (row,) = found["rows"]
    assert set(row["times"]) >= {"evonas", "torch softmax"}
    assert row["times"]["evonas"]["forward"]["us"] > 0
    assert not row["left_out"]
    wrong = module.disagreement(lambda q, k, v: v, 2, 16, cpu, torch.float32)
    assert wrong > module.AGREEMENT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_it_waits_for_a_gpu() -> None:
    script = str(FOLDER / "linear_attention.py")
    done = subprocess.run(
        [sys.executable, script, "--json", "--only", "gpu"], check=True, capture_output=True, text=True
    )
    assert "waits for a GPU" in json.loads(done.stdout)["gpu"]["waits"]
