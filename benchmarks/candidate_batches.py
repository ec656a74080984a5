"""Many candidates in one launch against one candidate after the other.

    python benchmarks/candidate_batches.py [--candidates 1000] [--rounds 5] [--quick] [--json]

Everywhere: which random layers and gradients have a program and how long it is, what preparing a candidate costs on
the host, and what the kernel compiles to for an H100 or H200 (sm_90, no GPU needed). With a CUDA device also
candidates per second of the kernel and of torch, node by node; without one nothing is said about them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from evonas.kernels.vm import CandidateBatch, make_tile
from evonas.kernels.vm_compile import compile_report
from evonas.kernels.vm_program import REGISTER_FILES, NotExpressible, Program, compile_program

from evonas import primitives, search_spaces
from evonas.errors import EnvironmentUnusable
from evonas.evaluation.screening import numeric_probe
from evonas.graph import Graph, differentiate, get_layout
from evonas.graph.execute import ArrayOps, forward
from evonas.graph.fingerprint import make_probe, observe
from evonas.rng import Draws

LAYOUT = get_layout("nchw")
GROUPS = 2
#: The screening's probes in the layout's shape: that of the fingerprint and that of the stack.
PROBES = {"fingerprint": (4, 4, 2, 3), "stack": (8, 8, 4, 4)}
ITEM_SIZES = {"float32": 4, "float64": 8}


def draw_layers(count: int, nodes: int) -> list[Graph]:
    """Random layers as the screening meets them: new to it, simplified, with x in the output."""
    space, seen, layers = search_spaces.get("norm_act", nodes=nodes), set(), []
    trial = 0
    while len(layers) < count:
        genotype = space.random(Draws("candidate batches", nodes, trial))
        trial += 1
        digest = space.digest(genotype)
        if digest is not None and digest not in seen:
            seen.add(digest)
            layers.append(space.graph(genotype))
    return layers


def programs_of(graphs: Sequence[Graph]) -> tuple[list[Program], int]:
    """The programs, and how many graphs have none."""
    made, refused = [], 0
    for graph in graphs:
        try:
            made.append(compile_program(graph, LAYOUT))
        except NotExpressible:
            refused += 1
    return made, refused


def expressible(count: int, nodes: int) -> dict[str, Any]:
    """Of random layers and of their gradients: share with a program, by size of the register file."""
    layers = draw_layers(count, nodes)
    found: dict[str, Any] = {"nodes": nodes}
    for what, graphs in (
        ("layers", layers),
        ("gradients", [gradient for layer in layers for gradient in differentiate(layer).values()]),
    ):
        programs, refused = programs_of(graphs)
        needed = Counter(next(s for s in REGISTER_FILES if p.registers <= s) for p in programs)
        lengths = [len(p.code) for p in programs]
        found[what] = {
            "graphs": len(graphs),
            "without_program": refused,
            "by_registers": {size: needed[size] for size in REGISTER_FILES},
            "mean_instructions": statistics.fmean(lengths),
            "most_instructions": max(lengths),
        }
    return found


def per_cpu_second(action: Callable[[], Any], count: int, rounds: int) -> float:
    """Median over the rounds."""
    rates = []
    for _ in range(rounds):
        started = time.process_time()
        action()
        rates.append(count / (time.process_time() - started))
    return statistics.median(rates)


def host_rates(count: int, rounds: int) -> dict[str, float]:
    """Candidates per CPU second: what the machine needs on the host, and the screening in numpy for comparison."""
    layers = draw_layers(count, 10)
    probe = make_probe("nchw")
    seen = [observe(layer, probe) for layer in layers]
    few = max(1, count // 10)
    actions: dict[str, tuple[Callable[[], Any], int]] = {
        "programs": (lambda: CandidateBatch(layers), count),
        "symbolic_gradients": (lambda: [differentiate(layer) for layer in layers], count),
        "numpy_fingerprint": (lambda: [observe(layer, probe) for layer in layers], count),
        "numpy_stack_probe": (lambda: [numeric_probe(layers[i], seen[i], LAYOUT) for i in range(few)], few),
    }
    return {name: per_cpu_second(action, n, rounds) for name, (action, n) in actions.items()}


def compiled() -> list[dict[str, Any]]:
    """Registers and spills of each kernel that the probes use."""
    rows = []
    for probe, shape in PROBES.items():
        for dtype, itemsize in ITEM_SIZES.items():
            tile = make_tile(shape, GROUPS, "nchw", itemsize)
            for registers in REGISTER_FILES:
                report = compile_report(tile, itemsize, registers)
                rows.append(
                    {
                        "probe": probe,
                        "dtype": dtype,
                        "tile_registers": registers,
                        "threads": 32 * tile.warps,
                        "registers": report.registers,
                        "spill_bytes": report.spill_bytes,
                        "shared_bytes": report.shared_bytes,
                        "instructions": report.instructions,
                    }
                )
    return rows


def per_second(action: Callable[[], Any], count: int, rounds: int, wait: Callable[[], None]) -> float:
    """Median over the rounds, wall clock, after one round that does not count."""
    rates = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        action()
        wait()
        rates.append(count / (time.perf_counter() - started))
    return statistics.median(rates[1:])


def device_rates(
    device: str, probe: str, dtype_name: str, layers: list[Graph], rounds: int
) -> dict[str, Any]:
    """Candidates per second of the kernel and of torch node by node, on the same probe.

    Returns:
        launch: programs on the device already. batch: from graphs to values. eager: torch, one candidate after the
        other. worst_error: largest difference between the two, in units of a candidate's largest value, over the
        candidates that are finite. element_steps: elements times instructions per second of ``launch``.
    """
    import torch

    dtype, shape = getattr(torch, dtype_name), PROBES[probe]
    made = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=made, dtype=torch.float64).to(device, dtype)
    v0 = torch.randn(shape[1], generator=made, dtype=torch.float64).to(device, dtype)
    v1 = 1 + 0.5 * torch.randn(shape[1], generator=made, dtype=torch.float64).to(device, dtype)
    pair = (GROUPS, shape[1] // GROUPS)
    leaves = {
        "x": x.reshape(shape[0], *pair, *shape[2:]),
        "v0": v0.reshape(1, *pair, 1, 1),
        "v1": v1.reshape(1, *pair, 1, 1),
    }
    ops = ArrayOps(primitives.torch_namespace(), LAYOUT)
    few = layers[:: max(1, len(layers) // 64)]

    def wait() -> None:
        if x.is_cuda:
            torch.cuda.synchronize()

    def eager(layer: Graph) -> Any:
        return forward(layer, leaves, ops)[layer.output].expand(leaves["x"].shape)

    batch = CandidateBatch(layers)
    values = batch.run(x, v0, v1, groups=GROUPS)
    worst = 0.0
    for layer in few:
        want = eager(layer).reshape(shape)
        got = values[layers.index(layer)]
        size = float(want.abs().max())
        if 0 < size < 1e30:
            worst = max(worst, float((got - want).abs().max()) / size)
    launch = per_second(lambda: batch.run(x, v0, v1, groups=GROUPS), len(layers), rounds, wait)
    steps = sum(len(p.code) for p in programs_of(layers)[0])
    return {
        "probe": probe,
        "dtype": dtype_name,
        "candidates": len(layers),
        "launch": launch,
        "batch": per_second(
            lambda: CandidateBatch(layers).run(x, v0, v1, groups=GROUPS), len(layers), rounds, wait
        ),
        "eager": per_second(lambda: [eager(layer) for layer in few], len(few), rounds, wait),
        "element_steps": launch / len(layers) * steps * x.numel(),
        "worst_error": worst,
    }


def cuda_name() -> str | None:
    """The CUDA device, None if there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def print_report(report: dict[str, Any]) -> None:
    print("nodes  graphs of        count  no program  4, 8, 12 tile registers  mean, most instructions")
    for row in report["expressible"]:
        for what in ("layers", "gradients"):
            r = row[what]
            sizes = ", ".join(str(n) for n in r["by_registers"].values())
            print(
                f"{row['nodes']:>5}  {what:<14}{r['graphs']:>8}{r['without_program']:>12}  {sizes:<24} "
                f"{r['mean_instructions']:.1f}, {r['most_instructions']}"
            )
    print("\ncandidates per CPU second on the host")
    for name, rate in report["host"].items():
        print(f"  {name:<24}{rate:>10,.0f}")
    if isinstance(report["compiled"], str):
        print(f"\nnot compiled: {report['compiled']}")
    else:
        print("\nsm_90: probe        dtype    tile registers  threads  registers  spill bytes  instructions")
        for r in report["compiled"]:
            print(
                f"       {r['probe']:<13}{r['dtype']:<9}{r['tile_registers']:>14}{r['threads']:>9}"
                f"{r['registers']:>11}{r['spill_bytes']:>13}{r['instructions']:>14}"
            )
    if report["cuda"] is None:
        print("\nno CUDA device: candidates per second of the kernel are not measured here")
        return
    print(f"\n{report['cuda']['device']}: candidates per second")
    print("probe        dtype    candidates      launch       batch     eager  element-steps/s  worst error")
    for r in report["cuda"]["rates"]:
        print(
            f"{r['probe']:<13}{r['dtype']:<9}{r['candidates']:>10}{r['launch']:>12,.0f}{r['batch']:>12,.0f}"
            f"{r['eager']:>10,.0f}{r['element_steps']:>17.2e}{r['worst_error']:>13.1e}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000, help="random layers per case")
    parser.add_argument("--rounds", type=int, default=5, help="a rate is the median over so many")
    parser.add_argument("--quick", action="store_true", help="100 candidates, one round")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    count, rounds = (100, 1) if options.quick else (options.candidates, options.rounds)
    device = cuda_name()
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "candidates": count,
        "rounds": rounds,
        "expressible": [expressible(count, nodes) for nodes in (10, 20, 40)],
        "host": host_rates(count, rounds),
        "cuda": None,
    }
    try:
        report["compiled"] = compiled()
    except EnvironmentUnusable as error:
        report["compiled"] = str(error)
    if device is not None:
        rates = []
        for probe in PROBES:
            for dtype in ITEM_SIZES:
                for size in (64, count, 10 * count):
                    layers = draw_layers(min(size, count), 10)
                    layers = (layers * -(-size // len(layers)))[:size]
                    rates.append(device_rates("cuda", probe, dtype, layers, rounds))
        report["cuda"] = {"device": device, "rates": rates}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
