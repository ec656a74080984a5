"""Random layers on generated kernels in Triton's interpreter against float64 autograd: how many agree. Needs no device.

    python benchmarks/kernel_fuzz.py [--graphs 1000] [--small 1000] [--first 10001] [--seconds S] [--json]

The cases are those of ``tests/kernels/interpreted/test_fuzz.py``: random graphs of the sampler, layouts, odd shapes,
groups, memory orders and limits so small that sweeps, splits and merges happen, outputs and all gradients. Every graph
ends in one class: within 1e-5 of float64; within eight times the error that rounding to float32 makes, because the
layer cancels digits; further off. Outputs that float32 cannot hold are not judged and counted apart. ``--small``:
so many more, from a million seeds further on, all of them with small limits and launches that cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "kernels" / "interpreted"


def fuzz(graphs: int, first: int, seconds: float | None, small: bool = False) -> dict[str, Any]:
    """Counts, with the cases that do not agree; fewer graphs if the time is up."""
    sys.path.insert(0, str(TESTS))
    import torch
    from test_fuzz import case, random_graph, run

    torch.set_num_threads(1)
    started, cpu = time.monotonic(), time.process_time()
    tried, strict, seed = 0, 0, first - 1
    failed: list[dict[str, Any]] = []
    rough: list[str] = []
    overflow: list[str] = []
    while tried < graphs and (seconds is None or time.monotonic() - started < seconds):
        seed += 1
        graph = random_graph(seed)
        if graph is None:
            continue
        tried += 1
        check = run(case(str(graph), seed, small))
        if check.failures:
            failed.append({"seed": seed, "formula": str(graph), "errors": check.failures,
                           "eager": {n: check.eager[n] for n in check.failures}})  # fmt: skip
        elif check.strict:
            strict += 1
        else:
            rough.append(str(graph))
        if check.overflow:
            overflow.append(str(graph))
        if tried % 50 == 0:
            print(f"{tried} graphs, {len(failed)} disagree, {len(rough)} cancel", file=sys.stderr, flush=True)
    return {
        "limits": "small" if small else "real or small",
        "wanted": graphs,
        "graphs": tried,
        "first_seed": first,
        "within_1e-5": strict,
        "within_rounding": len(rough),
        "disagree": failed,
        "overflow": overflow,
        "cancel": rough,
        "cpu_seconds": round(time.process_time() - cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--small", type=int, default=1000, help="more of them, with small limits")
    parser.add_argument("--first", type=int, default=10_001, help="seed of the first case")
    parser.add_argument("--seconds", type=float, help="stop after that long")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    sets = [fuzz(given.graphs, given.first, given.seconds)]
    if given.small:
        sets.append(fuzz(given.small, given.first + 10**6, given.seconds, small=True))
    versions = {
        name: platform.python_version() if name == "python" else metadata.version(name)
        for name in ("python", "torch", "triton", "numpy", "evonas")
    }
    if given.json:
        print(json.dumps({"versions": versions, "sets": sets}, indent=2))
        return
    for result in sets:
        agree = f"{result['within_1e-5']} within 1e-5, {result['within_rounding']} as far off as rounding explains"
        wrong = f"{len(result['disagree'])} disagree, {len(result['overflow'])} overflow"
        print(f"{result['graphs']} graphs, limits {result['limits']}: {agree}, {wrong}")
        for one in result["disagree"]:
            print(f"  disagrees: {one}")


if __name__ == "__main__":
    main()
