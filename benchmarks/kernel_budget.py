"""Instructions, registers and compile time of generated kernels, from offline compilation. Needs no device.

    python benchmarks/kernel_budget.py [--json] [--only layer_norm evonorm_s0] [--part budget sweep]
                                       [--random 20 100] [--workers 2] [--dtype bf16]

Part ``budget``: thread instructions and special functions per element of known and random layers, forward and
backward, for sm_90, against what a copy at full bandwidth leaves time for. Part ``sweep``: all known layers and
random ones for three targets: do they spill, are their loads 128 bits wide where blocks are full, how many CPU
seconds does a layer take to compile, forward and backward together.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from evonas.kernels.kernel_specs import PASSES, PassSpecs, layer_specs
from evonas.kernels.offline import CompileFailure, CompileResult
from evonas.kernels.pool import CompilePool
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import pass_cost

import evonas
from evonas.layers.zoo import ZOO

IMAGES, TOKENS = (128, 256, 32, 32), (1, 16384, 4096)
GROUPS = 32
LAYER_NORM = "(x - mean[c](x)) / std[c](x)"
#: Instructions per element, forward and backward: from hand-tuned spellings of the same layers.
BUDGETS = {"layer_norm": (16, 30), "evonorm_s0": (24, 50), "gn_silu": (23, 44)}
TARGETS = ("sm_80", "sm_90", "gfx942")
CPU_SECONDS = 0.5  # per layer, forward and backward


@dataclass(frozen=True)
class Case:
    name: str
    formula: str
    layout: str = "nchw"
    shape: tuple[int, ...] = IMAGES


def named_cases() -> list[Case]:
    return [
        Case("layer_norm", LAYER_NORM, "btc", TOKENS),
        Case("evonorm_s0", ZOO["evonorm_s0"].formula),
        Case("gn_silu", ZOO["gn_silu"].formula),
    ]


def random_layers(count: int) -> list[Case]:
    """The layers of the traffic benchmark: random, of at least five operations, with a moment of x."""
    from inductor_traffic import random_cases

    return [Case(case.name, case.formula) for case in random_cases(count)]


Job = tuple[Case, PassSpecs, list["Future[CompileResult]"]]


def submit(pool: CompilePool, case: Case, dtype: str, folder: Path) -> list[Job]:
    spec = LayerSpec(case.formula, case.layout)
    both = layer_specs(spec, case.shape, GROUPS, dtype=dtype, target=pool.target, folder=folder)
    return [(case, one, pool.submit(one.specs)) for one in both]


def row(job: Job) -> dict[str, Any]:
    """What came out of one pass of one layer."""
    case, one, futures = job
    results = [future.result() for future in futures]
    out: dict[str, Any] = {"layer": case.name, "formula": case.formula, "pass": one.which}
    failures = [r for r in results if isinstance(r, CompileFailure)]
    if failures:
        return out | {"failed": failures[0].message}
    cost = pass_cost(one.plan, [r for r in results if not isinstance(r, CompileFailure)])
    exact = all(
        launch.tiling is None or len(launch.tiling.exact) == len(launch.tiling.axes)
        for launch in one.plan.launches
    )
    warps = [launch.warps for launch in one.plan.launches]
    return out | asdict(cost) | {"exact": exact, "warps": warps, "resident": one.plan.resident}


def compiled(cases: list[Case], target: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="evonas-budget-") as name:
        folder = Path(name)
        with CompilePool(given.workers, folder / "cache", target, sass=True) as pool:
            jobs = [job for case in cases for job in submit(pool, case, given.dtype, folder / "source")]
            return [row(job) for job in jobs]


def budget(given: argparse.Namespace) -> list[dict[str, Any]]:
    cases = named_cases()
    if given.only:
        known = {case.name: case for case in cases}
        known |= {name: Case(name, entry.formula) for name, entry in ZOO.items() if name not in known}
        if any(name.startswith("random_") for name in given.only):
            known |= {case.name: case for case in random_layers(given.random[0])}
        unknown = [name for name in given.only if name not in known]
        if unknown:
            raise SystemExit(f"no layer {', '.join(unknown)}; there are {', '.join(known)}")
        cases = [known[name] for name in given.only]
    else:
        cases += random_layers(given.random[0])
    rows = compiled(cases, "sm_90", given)
    for one in rows:
        limit = BUDGETS.get(one["layer"])
        one["budget"] = limit[PASSES.index(one["pass"])] if limit else None
    return rows


def sweep(given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per target, with the names of the layers that do not do well."""
    cases = [Case(name, entry.formula) for name, entry in ZOO.items()] + random_layers(given.random[1])
    out = []
    for target in given.targets:
        rows = compiled(cases, target, given)
        good = [one for one in rows if "failed" not in one]
        seconds: dict[str, float] = {}
        for one in good:
            seconds[one["layer"]] = seconds.get(one["layer"], 0.0) + one["cpu_seconds"]
        exact = [one for one in good if one["exact"]]
        out.append(
            {
                "target": target,
                "layers": len(cases),
                "passes": len(rows),
                "failed": {f"{r['layer']} {r['pass']}": r["failed"] for r in rows if "failed" in r},
                "spilling": {f"{r['layer']} {r['pass']}": r["spill_bytes"] for r in good if r["spill_bytes"]},
                "exact": len(exact),
                "narrow_loads": [f"{r['layer']} {r['pass']}" for r in exact if r["wide_loads"] is False],
                "most_registers": max(r["registers"] for r in good),
                "median_cpu_seconds": statistics.median(seconds.values()),
                "max_cpu_seconds": max(seconds.values()),
                "budget_cpu_seconds": CPU_SECONDS,
            }
        )
    return out


def print_budget(rows: list[dict[str, Any]], dtype: str) -> None:
    print(f"sm_90, {dtype}: per element of x, all kernels of the pass together")
    print(f"{'layer':13}{'pass':10}{'instr':>7}{'budget':>8}{'mufu':>6}{'regs':>6}{'spill':>7}{'shared':>8}"
          f"{'wide':>6}{'kernels':>9}{'warps':>9}{'CPU s':>7}")  # fmt: skip
    for one in rows:
        if "failed" in one:
            print(f"{one['layer']:13}{one['pass']:10}failed: {one['failed'].splitlines()[-1]}")
            continue
        wide = {True: "yes", False: "no", None: "-"}[one["wide_loads"]]
        over = "" if not one["budget"] or one["instructions"] <= one["budget"] else "  over budget"
        print(f"{one['layer']:13}{one['pass']:10}{one['instructions']:7.1f}{one['budget'] or '-':>8}{one['mufu']:6.2f}"
              f"{one['registers']:6}{one['spill_bytes']:7}{one['shared_bytes']:8}{wide:>6}{one['kernels']:9}"
              f"{','.join(map(str, one['warps'])):>9}{one['cpu_seconds']:7.2f}{over}")  # fmt: skip
    for which in PASSES:
        random = [
            r for r in rows if r["pass"] == which and r["layer"].startswith("random_") and "failed" not in r
        ]
        if random:
            numbers = [r["instructions"] for r in random]
            middle, spill = statistics.median(numbers), sum(r["spill_bytes"] > 0 for r in random)
            print(
                f"{len(random)} random layers {which}: median {middle:.1f}, max {max(numbers):.1f} instructions, "
                f"{spill} spill"
            )


def print_sweep(rows: list[dict[str, Any]]) -> None:
    for one in rows:
        print(f"{one['target']}: {one['layers']} layers, {one['passes']} passes, {len(one['failed'])} failed, "
              f"{len(one['spilling'])} spill, {len(one['narrow_loads'])} of {one['exact']} with full blocks have no "
              f"128-bit loads, at most {one['most_registers']} registers, {one['median_cpu_seconds']:.2f} CPU-s per "
              f"layer (at most {one['max_cpu_seconds']:.2f}, budget {one['budget_cpu_seconds']})")  # fmt: skip
        for what in ("failed", "spilling"):
            for name, detail in one[what].items():
                print(f"  {what}: {name}: {detail}")
        if one["narrow_loads"]:
            print(f"  no wide loads: {', '.join(one['narrow_loads'])}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--only", nargs="+", help="these layers of the budget table; random_N are random ones"
    )
    parser.add_argument(
        "--part", nargs="+", choices=("budget", "sweep"), help="default: both, --only: budget"
    )
    parser.add_argument("--random", type=int, nargs=2, default=(20, 100), metavar=("BUDGET", "SWEEP"))
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dtype", default="bf16")
    given = parser.parse_args()
    parts = given.part or (["budget"] if given.only else ["budget", "sweep"])
    versions = {
        "python": platform.python_version(),
        "triton": metadata.version("triton"),
        "evonas": evonas.__version__,
    }
    result: dict[str, Any] = {"versions": versions, "dtype": given.dtype}
    for part in parts:
        result[part] = budget(given) if part == "budget" else sweep(given)
        if not given.json:
            print_budget(result[part], given.dtype) if part == "budget" else print_sweep(result[part])
    if given.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
