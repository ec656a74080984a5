"""Training steps of the tiny proxies with generated C in place of the eager layers, on one thread.

    python benchmarks/c_backend.py [--rounds 15] [--steps 3] [--proxies resnet mobilenet] [--quick] [--json]

Milliseconds per step are medians over rounds; within a round every variant takes its turn, and ratios are
medians of the ratios within one round. Compiling is timed apart, in an empty folder, and turned into the number of
steps after which generated C has paid for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evonas.kernels.c_operator import kernels
from evonas.kernels.c_runtime import compiler
from evonas.kernels.programs import LayerSpec
from torch import nn

from evonas import proxies, search_spaces
from evonas.graph import Graph
from evonas.layers.c_layer import CGraphLayer
from evonas.layers.module import GraphLayer
from evonas.layers.zoo import ZOO
from evonas.proxies.trainer import Trainer, configure_process
from evonas.rng import Draws

#: A rate at which no variant diverges: what a step costs does not depend on it.
RATE = 1e-5
LAYERS = ("evonorm_s0", "evonorm_b0", "random")


def random_layer(steps: int, operations: int = 8) -> Graph:
    """The first random layer of norm_act with a moment and that many operations whose gradients do not explode."""
    space = search_spaces.get("norm_act")
    proxy = proxies.get("resnet", "tiny", lr=RATE)
    trial = 0
    while True:
        genotype = space.random(Draws("c backend", trial))
        trial += 1
        if space.digest(genotype) is None:
            continue
        graph = space.graph(genotype)
        if graph.index_sets and len(graph.active()) >= operations and "x" in graph.leaves:
            trainer = Trainer(
                proxy,
                lambda channels, graph=graph: GraphLayer(graph, channels),
                budget=steps / proxy.spec.steps,
            )
            trainer.run(1)
            steep = max(float(p.grad.abs().max()) for p in trainer.network.parameters() if p.grad is not None)
            trainer.run()
            if trainer.diverged_at is None and steep < 100:
                return graph


def native(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def _processor_seconds() -> float:
    """Of this process and of the compilers that it has waited for."""
    return sum(
        u.ru_utime + u.ru_stime
        for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def compile_seconds(graph: Graph, repeats: int) -> dict[str, float]:
    """Lowering, compiling and loading both passes: wall clock and processor, medians over fresh folders."""
    times, busy = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["EVONAS_KERNEL_DIR"] = folder
            kernels.cache_clear()
            started, used = time.perf_counter(), _processor_seconds()
            kernels(LayerSpec(str(graph)))
            times.append(time.perf_counter() - started)
            busy.append(_processor_seconds() - used)
    kernels.cache_clear()
    return {"wall": statistics.median(times), "processor": statistics.median(busy)}


def measure(proxy_name: str, graphs: dict[str, Graph], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Per variant: milliseconds per step, and the ratio to eager within a round."""
    proxy = proxies.get(proxy_name, "tiny", lr=RATE)
    makers: dict[str, Callable[[int], nn.Module]] = {"bn_relu native": native}
    for name, graph in graphs.items():
        makers[f"{name} eager"] = lambda channels, graph=graph: GraphLayer(graph, channels)
        makers[f"{name} C"] = lambda channels, graph=graph: CGraphLayer(graph, channels, strict=True)
    budget = (rounds + 2) * steps / proxy.spec.steps
    trainers = {name: Trainer(proxy, make, budget=budget) for name, make in makers.items()}
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 1):  # the first one warms up, and compiles
        for name, trainer in trainers.items():
            started = time.perf_counter()
            trainer.run(trainer.step + steps)
            taken[name].append(1e3 * (time.perf_counter() - started) / steps)
            if trainer.diverged_at is not None:
                raise SystemExit(f"{name} diverged at step {number * steps}: its later steps cost nothing")
    report: dict[str, dict[str, Any]] = {}
    for name, values in taken.items():
        values = values[1:]
        report[name] = {"ms": statistics.median(values), "low": min(values), "high": max(values)}
        eager = taken.get(name.replace(" C", " eager"))
        if name.endswith(" C") and eager is not None:
            ratios = [e / c for e, c in zip(eager[1:], values, strict=True)]
            report[name]["speed_up"] = statistics.median(ratios)
    report["bn_relu native"]["sites"] = len(trainers["bn_relu native"].built.sites)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="training steps of a variant per round")
    parser.add_argument("--proxies", nargs="+", default=["resnet"])
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 5 if options.quick else options.rounds
    configure_process(1)
    graphs = {name: Graph.parse(ZOO[name].formula) for name in LAYERS if name in ZOO}
    graphs["random"] = random_layer((rounds + 2) * options.steps)
    compiled = {name: compile_seconds(graph, 3 if options.quick else 5) for name, graph in graphs.items()}
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "compiler": compiler()[0],
        "rounds": rounds,
        "random": str(graphs["random"]),
        "compile_seconds": compiled,
        "proxies": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVONAS_KERNEL_DIR"] = folder
        for name in options.proxies:
            found = measure(name, graphs, rounds, options.steps)
            for layer, seconds in compiled.items():
                gain = found[f"{layer} eager"]["ms"] - found[f"{layer} C"]["ms"]
                found[f"{layer} C"]["break_even_steps"] = 1e3 * seconds["wall"] / gain if gain > 0 else None
            report["proxies"][name] = found
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return 0
    print(
        f"{report['machine']}, {report['cores']} cores, load {report['load']:.1f}; random: {report['random']}"
    )
    for name, seconds in compiled.items():
        print(
            f"compile {name}: {1e3 * seconds['wall']:.0f} ms, {1e3 * seconds['processor']:.0f} ms of processor"
        )
    for proxy, found in report["proxies"].items():
        print(f"\n{proxy}, tiny, {found['bn_relu native']['sites']} layers")
        for name, row in found.items():
            more = f"  {row['speed_up']:.2f}x eager" if "speed_up" in row else ""
            if row.get("break_even_steps"):
                more += f", pays after {row['break_even_steps']:.0f} steps"
            print(f"  {name:18s} {row['ms']:7.1f} ms per step ({row['low']:.1f} to {row['high']:.1f}){more}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
