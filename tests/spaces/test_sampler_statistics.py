"""The sampler's base rates fall inside the bands of an independent implementation of the same description."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evonas import search_spaces

SCRIPT = Path(__file__).parents[2] / "scripts" / "sampler_statistics.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sampler_statistics", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sampler_statistics"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sampler_statistics"]


#: Low and high: the reference's band, widened by three standard errors of 4,000 graphs.
ROW = {
    "no x in the graph": (0.62, 0.675),
    "at start: constant in x": (0.04, 0.07),
    "at start: constant over space": (0.076, 0.112),
    "at start: not finite": (0.0, 0.006),
    "at start: remaining": (0.175, 0.225),
    "remaining, with batch statistics": (0.003, 0.012),
    "of these, explode in a stack": (0.17, 0.29),
    "of these, usable in a stack": (0.47, 0.66),
    "of these, repeat a function": (0.35, 0.63),
    "active operations, mean": (2.35, 2.65),
    "active operations, median": (2, 2),
    "active operations, 95th percentile": (5, 5),
}
CONCRETE = {
    "no x in the graph": (0.66, 0.72),
    "at start: remaining": (0.07, 0.11),
    "at start: constant over space": (0.14, 0.22),
}


@pytest.mark.parametrize(
    ("op_draw", "bands"), [("row", ROW), ("concrete", CONCRETE)], ids=["row", "concrete"]
)
def test_rates_of_random_graphs(script, op_draw, bands):
    rates = script.sample_statistics(search_spaces.get("norm_act", op_draw=op_draw), 4000, seed=0)
    outside = {name: rates[name] for name, (low, high) in bands.items() if not low <= rates[name] <= high}
    assert outside == {}
    parts = [
        rates[f"at start: {kind}"]
        for kind in ("constant in x", "constant over space", "not finite", "remaining")
    ]
    assert sum(parts) + rates["no x in the graph"] == pytest.approx(1)
    fates = sum(rates[f"of these, {fate} in a stack"] for fate in ("explode", "collapse", "usable"))
    assert fates == pytest.approx(1)


def test_functions_that_random_graphs_hit(script):
    hits = script.count_hits(search_spaces.get("norm_act"), 10_000)
    assert 35 <= hits["at start: hits of relu"] <= 95
    assert 0 < hits["hits of relu"] < hits["at start: hits of relu"]
    assert hits["hits of S0, S1 or S2"] == 0


def test_mutations_of_s0(script):
    fates = script.mutate_s0(search_spaces.get("norm_act"), 2000)
    assert fates["mutations of S0: neutral"] == pytest.approx(0.495, abs=0.035)
    assert fates["mutations of S0: x is lost"] == pytest.approx(0.036, abs=0.015)
    assert fates["mutations of S0: x is lost after simplification"] >= fates["mutations of S0: x is lost"]


def test_the_script_prints_its_table_and_json():
    command = [sys.executable, str(SCRIPT), "--graphs", "200", "--seeds", "2", "--hits", "200"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| no x in the graph " in table
    assert "64-66 %" in table
    found = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    )
    assert found["graphs"] == 200
    assert len(found["row"]["no x in the graph"]) == 2
    assert 0.5 < found["concrete"]["no x in the graph"][0] < 0.85
