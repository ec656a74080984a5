"""Layers on generated kernels in Triton's interpreter against float64 autograd: how many agree. Needs no device.

    python benchmarks/kernel_fuzz.py [--graphs 1000] [--small 1000] [--zoo 4] [--bf16 300] [--first 10001]
                                     [--seconds S] [--json]

The cases are those of ``tests/kernels/interpreted/test_fuzz.py``: a layer with a drawn layout, odd shape, groups,
memory order and limits, some so small that sweeps, splits and merges happen; outputs and all gradients are judged.
Every case ends in one class: within the tolerance of its dtype (1e-5 in float32, 2e-2 in bfloat16); within eight times
the error that rounding to float32 makes, because the layer cancels digits; further off. Outputs that float32 cannot
hold are not judged; cases that have some are counted beside that.

Sets: random graphs of the sampler; ``--small``: more of them, from a million seeds further on, all with small limits
and launches that cost nothing; ``--zoo``: so many cases of every known layer, with either kind of limits; ``--bf16``:
random graphs on bfloat16 tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import count, islice
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "kernels" / "interpreted"
MILLION = 10**6


@dataclass(frozen=True)
class Set:
    """layers: "random" or "zoo". wanted: graphs, or cases of each layer of the zoo. first: seed of the first case.

    limits: "real or small", or "small" for all.
    """

    layers: str
    limits: str
    wanted: int
    first: int
    dtype: str = "float32"

    @property
    def small(self) -> bool:
        return self.limits == "small"

    def cases(self) -> Iterator[tuple[str, int]]:
        """Formula and seed of every case."""
        return zoo_cases(self.wanted, self.first) if self.layers == "zoo" else self._random()

    def _random(self) -> Iterator[tuple[str, int]]:
        from test_fuzz import random_graph

        drawn = ((random_graph(seed), seed) for seed in count(self.first))
        return islice(((str(graph), seed) for graph, seed in drawn if graph is not None), self.wanted)


def zoo_cases(each: int, first: int) -> Iterator[tuple[str, int]]:
    """So many cases of every layer of the zoo; no two have a seed in common."""
    from evonas.graph import Graph
    from evonas.layers.zoo import ZOO

    seeds = count(first)
    for entry in ZOO.values():
        for _ in range(each):
            yield str(Graph.parse(entry.formula)), next(seeds)


def fuzz(what: Set, seconds: float | None) -> dict[str, Any]:
    """Counts, with the cases that do not agree; fewer cases if the time is up."""
    import torch
    from test_fuzz import case, run

    torch.set_num_threads(1)
    started, cpu = time.monotonic(), time.process_time()
    tried, strict, tolerance = 0, 0, 0.0
    failed: list[dict[str, Any]] = []
    cancel: list[str] = []
    overflow: list[dict[str, Any]] = []
    for formula, seed in what.cases():
        if seconds is not None and time.monotonic() - started >= seconds:
            break
        tried += 1
        one = case(formula, seed, what.small)
        check = run(one, dtype=getattr(torch, what.dtype))
        tolerance = check.tolerance
        if check.failures:
            failed.append({"formula": formula, "seed": seed, "case": {n: str(v) for n, v in one.items()},
                           "outputs": sorted(check.failures), "errors": dict(check.errors),
                           "rounding": dict(check.rounding), "overflow": check.overflow})  # fmt: skip
        elif check.strict:
            strict += 1
        else:
            cancel.append(formula)
        if check.overflow:
            overflow.append({"formula": formula, "seed": seed, "outputs": check.overflow})
        if tried % 50 == 0:
            print(f"{tried} cases, {len(failed)} disagree, {len(cancel)} cancel", file=sys.stderr, flush=True)
    return {
        "layers": what.layers,
        "limits": what.limits,
        "dtype": what.dtype,
        "tolerance": tolerance,
        "wanted": what.wanted,
        "first_seed": what.first,
        "cases": tried,
        "within_tolerance": strict,
        "within_rounding": len(cancel),
        "disagree": failed,
        "overflow": overflow,
        "cancel": cancel,
        "cpu_seconds": round(time.process_time() - cpu),
    }


def print_set(result: dict[str, Any]) -> None:
    agree = f"{result['within_tolerance']} within {result['tolerance']:g}"
    print(f"{result['cases']} cases, {result['layers']}, {result['dtype']}, limits {result['limits']}: {agree}, "
          f"{result['within_rounding']} as far off as rounding explains, {len(result['disagree'])} disagree, "
          f"{len(result['overflow'])} overflow")  # fmt: skip
    for what in ("disagree", "overflow"):
        for one in result[what]:
            print(f"  {what}: {one}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--small", type=int, default=1000, help="more of them, with small limits")
    parser.add_argument("--zoo", type=int, default=4, help="cases of every known layer, per kind of limits")
    parser.add_argument("--bf16", type=int, default=300, help="random graphs in bfloat16")
    parser.add_argument("--first", type=int, default=10_001, help="seed of the first case")
    parser.add_argument("--seconds", type=float, help="stop each set after that long")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    sys.path.insert(0, str(TESTS))
    first, both = given.first, "real or small"
    sets = [
        Set("random", both, given.graphs, first),
        Set("random", "small", given.small, first + MILLION),
        Set("zoo", both, given.zoo, first + 2 * MILLION),
        Set("zoo", "small", given.zoo, first + 3 * MILLION),
        Set("random", both, given.bf16, first + 4 * MILLION, "bfloat16"),
    ]
    made = [fuzz(one, given.seconds) for one in sets if one.wanted]
    versions = {
        name: platform.python_version() if name == "python" else metadata.version(name)
        for name in ("python", "torch", "triton", "numpy", "evonas")
    }
    if given.json:
        print(json.dumps({"versions": versions, "sets": made}, indent=2))
        return
    for result in made:
        print_set(result)


if __name__ == "__main__":
    main()
