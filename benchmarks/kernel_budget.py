"""Instructions, registers and compile time of generated kernels, from offline compilation. Needs no device.

    python benchmarks/kernel_budget.py [--json] [--only layer_norm evonorm_s0] [--part budget sweep]
                                       [--random 20 100] [--workers 2] [--dtype bf16] [--sweeps sm_90 odd ...]

Part ``budget``: thread instructions and special functions per element of known and random layers, forward and
backward, for sm_90, against those of hand-tuned spellings. Part ``sweep``: all known layers and random ones for three
targets, and for one of them in another dtype, memory order and layout, at odd sizes, and with programs that wait for
one another: do they compile, do they spill, are their loads 128 bits wide where blocks are full, how many instructions
does an element take and does the bandwidth leave time for them, how many CPU seconds does a layer take to compile,
forward and backward together.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from evonas.kernels.kernel_specs import ITEMSIZE, PASSES, PassSpecs, layer_specs, limits_on
from evonas.kernels.offline import CompileFailure, CompileResult
from evonas.kernels.pool import CompilePool
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import ISSUE_LANES, MACHINES, MUFU_LANES, pass_cost

import evonas
from evonas.graph import Graph
from evonas.layers.zoo import ZOO

IMAGES, TOKENS = (128, 256, 32, 32), (1, 16384, 4096)
GROUPS = 32
LAYER_NORM = "(x - mean[c](x)) / std[c](x)"
#: Instructions per element, forward and backward: from hand-tuned spellings of the same layers.
BUDGETS = {"layer_norm": (16, 30), "evonorm_s0": (24, 50), "gn_silu": (23, 44)}
CPU_SECONDS = 0.5  # per layer, forward and backward
#: Whose rates say what the bandwidth leaves time for. None is known for gfx942.
MACHINE_OF = {"sm_80": MACHINES["A100"], "sm_90": MACHINES["H200"]}
#: Tensors that a pass has to move: x and y; x, dy and dx.
LEAST_TENSORS = {"forward": 2, "backward": 3}


@dataclass(frozen=True)
class Sweep:
    """What all layers are compiled for. cooperative: with plans in which programs wait for one another. counted:
    whether machine code is read, which takes longer than compiling: for instructions and widths of loads."""

    target: str = "sm_90"
    dtype: str = "bf16"
    layout: str = "nchw"
    memory: str = "contiguous"
    shape: tuple[int, ...] = IMAGES
    groups: int = GROUPS
    cooperative: bool = False
    counted: bool = True


SWEEPS = {
    "sm_80": Sweep("sm_80"),
    "sm_90": Sweep(),
    "gfx942": Sweep("gfx942"),
    "fp32": Sweep(dtype="fp32"),
    "channels_last": Sweep(memory="channels_last"),
    "tokens": Sweep(layout="btc", shape=(16, 1024, 4096)),
    "odd": Sweep(shape=(61, 225, 31, 29), groups=25, counted=False),
    "cooperative": Sweep(cooperative=True, counted=False),
}


@dataclass(frozen=True)
class Case:
    name: str
    formula: str
    layout: str = "nchw"
    shape: tuple[int, ...] = IMAGES
    memory: str = "contiguous"
    groups: int = GROUPS
    cooperative: bool = False


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


def token_form(formula: str) -> str:
    """The formula for tokens, as the fuzzer spells it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels" / "interpreted"))
    from test_fuzz import to_tokens

    return to_tokens(formula)


def swept_cases(what: Sweep, count: int) -> list[Case]:
    """All known layers and so many random ones."""
    cases = [Case(name, str(Graph.parse(entry.formula))) for name, entry in ZOO.items()] + random_layers(
        count
    )
    form = token_form if what.layout == "btc" else str
    return [
        Case(one.name, form(one.formula), what.layout, what.shape, what.memory, what.groups, what.cooperative)
        for one in cases
    ]


def walls(what: Sweep) -> dict[str, dict[str, float]] | None:
    """Per pass, what an element of x leaves time for at full bandwidth if its tensors are moved once.

    instructions, mufu: that a device executes in the time; None for a target whose device has no rates here.
    """
    machine = MACHINE_OF.get(what.target)
    if machine is None:
        return None
    found = {}
    for which, tensors in LEAST_TENSORS.items():
        seconds = tensors * ITEMSIZE[what.dtype] / machine.bandwidth
        clocks = seconds * machine.processors * machine.clock
        found[which] = {"instructions": clocks * ISSUE_LANES, "mufu": clocks * MUFU_LANES}
    return found


Job = tuple[Case, PassSpecs, list["Future[CompileResult]"]]


def submit(pool: CompilePool, case: Case, dtype: str, folder: Path) -> list[Job]:
    spec = LayerSpec(case.formula, case.layout, case.memory)
    limits = replace(limits_on(pool.target), cooperative=case.cooperative)
    both = layer_specs(
        spec, case.shape, case.groups, dtype=dtype, target=pool.target, folder=folder, limits=limits
    )
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
    waits = any(launch.cooperative for launch in one.plan.launches)
    return (
        out
        | asdict(cost)
        | {"exact": exact, "warps": warps, "resident": one.plan.resident, "cooperative": waits}
    )


def compiled(
    cases: list[Case], target: str, dtype: str, workers: int, counted: bool = True
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="evonas-budget-") as name:
        folder = Path(name)
        with CompilePool(workers, folder / "cache", target, sass=counted) as pool:
            jobs = [job for case in cases for job in submit(pool, case, dtype, folder / "source")]
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
    rows = compiled(cases, "sm_90", given.dtype, given.workers)
    for one in rows:
        limit = BUDGETS.get(one["layer"])
        one["budget"] = limit[PASSES.index(one["pass"])] if limit else None
    return rows


def sweep(given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per sweep, with the names of the layers that do not do well."""
    return [sweep_row(name, SWEEPS[name], given) for name in given.sweeps]


def sweep_row(name: str, what: Sweep, given: argparse.Namespace) -> dict[str, Any]:
    cases = swept_cases(what, given.random[1])
    rows = compiled(cases, what.target, what.dtype, given.workers, what.counted)
    good = [one for one in rows if "failed" not in one]
    seconds: dict[str, float] = {}
    for one in good:
        seconds[one["layer"]] = seconds.get(one["layer"], 0.0) + one["cpu_seconds"]
    exact = [one for one in good if one["exact"]]
    wall = walls(what)
    narrow = [f"{r['layer']} {r['pass']}" for r in exact if r["wide_loads"] is False]
    return {
        "sweep": name,
        **asdict(what),
        "layers": len(cases),
        "passes": len(rows),
        "waiting": sum(one["cooperative"] for one in good),
        "failed": {f"{r['layer']} {r['pass']}": r["failed"] for r in rows if "failed" in r},
        "spilling": {f"{r['layer']} {r['pass']}": r["spill_bytes"] for r in good if r["spill_bytes"]},
        "exact": len(exact),
        "narrow_loads": narrow if what.counted else None,
        "most_registers": max(r["registers"] for r in good),
        "median_cpu_seconds": statistics.median(seconds.values()),
        "max_cpu_seconds": max(seconds.values()),
        "budget_cpu_seconds": CPU_SECONDS,
        "executed": {
            which: executed([one for one in good if one["pass"] == which], wall[which] if wall else None)
            for which in PASSES
        }
        if what.counted
        else None,
    }


def executed(rows: list[dict[str, Any]], wall: dict[str, float] | None) -> dict[str, Any]:
    """Instructions and special functions per element over all layers of one pass, and which are above the wall."""
    found = {}
    for what in ("instructions", "mufu"):
        numbers = [one[what] for one in rows]
        found[what] = {
            "median": round(statistics.median(numbers), 2),
            "max": round(max(numbers), 2),
            "wall": round(wall[what], 2) if wall else None,
            "above": [one["layer"] for one in rows if one[what] > wall[what]] if wall else None,
        }
    return {"passes": len(rows), **found}


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
        plans = "cooperative" if one["cooperative"] else "default"
        seconds = f"{one['median_cpu_seconds']:.2f} CPU-s per layer (at most {one['max_cpu_seconds']:.2f}"
        print(f"{one['target']}, {one['dtype']}, {one['layout']} {one['shape']} {one['memory']}, {plans} plans: "
              f"{one['layers']} layers, {one['passes']} passes, {len(one['failed'])} failed, "
              f"{len(one['spilling'])} spill, at most {one['most_registers']} registers, "
              f"{seconds}, budget {one['budget_cpu_seconds']})")  # fmt: skip
        for what in ("failed", "spilling"):
            for name, detail in one[what].items():
                print(f"  {what}: {name}: {detail}")
        if one["executed"] is None:
            continue
        narrow = ", ".join(one["narrow_loads"]) or "none"
        print(f"  of {one['exact']} passes with full blocks, without 128-bit loads: {narrow}")
        for which, numbers in one["executed"].items():
            for what in ("instructions", "mufu"):
                n = numbers[what]
                wall = f"{len(n['above'])} above {n['wall']}" if n["wall"] else "no wall known"
                print(f"  {which}: {what} median {n['median']}, most {n['max']}, {wall}")


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
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dtype", default="bf16", help="of the budget table")
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
