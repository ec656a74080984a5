"""The search core starts without torch, ray or triton."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import {module}
{more}
heavy = sorted(m for m in ("torch", "ray", "triton", "optuna", "networkx", "typer", "rich") if m in sys.modules)
print(",".join(heavy))
"""
WORK = """
from evonas import search_spaces
from evonas.graph import analyse, cost, differentiate, fingerprint
from evonas.layers import named_layer
from evonas.rng import Draws
space = search_spaces.get("norm_act")
genotype = space.encode(named_layer("evonorm_b0").graph, Draws("a"))
child = space.mutate(genotype, Draws("b"))[0]
graph = space.graph(child)
fingerprint(graph), analyse(graph), cost(graph), differentiate(graph), space.reject(child), space.identity()
"""


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("evonas.primitives", ""),
        ("evonas.graph", ""),
        ("evonas.search_spaces", ""),
        ("evonas.layers", ""),
        ("evonas.kernels.lowering", ""),
        ("evonas.kernels.traffic", ""),
        ("evonas.kernels.latency", ""),
        ("evonas.testing", ""),
        ("evonas.graph", WORK),
    ],
)
def test_imports_nothing_heavy(module, more):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module=module, more=more)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
