"""The search loop with a free fitness: what proposing, de-duplicating and logging a candidate costs.

    python benchmarks/search_loop.py [--quick] [--json] [--rounds 5] [--only CASE ...]

Every case runs in a process of its own with one thread; the rounds interleave the cases in shuffled
order. Rates are candidates per second of CPU time of the loop: imports and set-up are left out, and a
wait for the disk does not count. A ratio is the median over the rounds of the ratio within one round.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _yardsticks

#: (name, candidates, candidates with --quick)
SIZES = {
    "plain_re": (10_000, 4_000),
    "plain_full": (10_000, 4_000),
    "evonas": (10_000, 4_000),
    "evonas_no_log": (10_000, 4_000),
    "evonas_pareto_100": (10_000, 4_000),
    "evonas_pareto_500": (10_000, 4_000),
    "evonas_nsga2_100": (10_000, 4_000),
    "evonas_nsga2_500": (10_000, 4_000),
    "evonas_growth": (50_000, 20_000),
    "screening": (10_000, 4_000),
    "pyglove": (150, 40),
    "optuna": (1_000, 300),
    "pymoo_100": (10_000, 4_000),
    "pymoo_500": (10_000, 4_000),
}
PEERS = {"pyglove": "pyglove", "optuna": "optuna", "pymoo_100": "pymoo", "pymoo_500": "pymoo"}

#: (what, case, reference, at least)
TARGETS = [
    ("loop against plain_full", "evonas", "plain_full", 0.5),
    ("loop against PyGlove", "evonas", "pyglove", 1000.0),
    ("loop against Optuna", "evonas", "optuna", 40.0),
    ("NSGA-II at 100 against pymoo", "evonas_nsga2_100", "pymoo_100", 1.0),
    ("NSGA-II at 500 against pymoo", "evonas_nsga2_500", "pymoo_500", 1.0),
    ("ageing Pareto at 100 against pymoo", "evonas_pareto_100", "pymoo_100", 1.0),
    ("ageing Pareto at 500 against pymoo", "evonas_pareto_500", "pymoo_500", 1.0),
]
GROWTH, MEMORY, SCREENING = 0.8, 500, 15_000

Tick = Callable[[int], None]


def free_scores(genotype: bytes) -> tuple[float, float, float]:
    """Three objectives for a few integer operations."""
    value = int.from_bytes(genotype[-12:], "little")
    return (value % 9973 / 9973, value % 9967 / 9967, value % 9949 / 9949)


def evonas_loop(
    strategy_name: str, options: dict[str, Any], n: int, tick: Tick, folder: Path | None
) -> dict[str, int]:
    """The search: ask, digest, turn away what is constant or known, score, log (with a folder), tell."""
    from evonas import search_spaces
    from evonas.evolution import make_strategy

    space = search_spaces.get("norm_act")
    strategy = make_strategy(strategy_name, space, 0, "search", options)
    record = _recorder(folder)
    known: dict[bytes, tuple[int, tuple[float, float, float]]] = {}
    constant = repeated = 0
    for i in range(n):
        proposal = strategy.ask(i)
        genotype = proposal.genotype
        digest = space.digest(genotype)
        if digest is None:
            constant += 1
            record(i, proposal, None, "structural", "the output does not depend on x", None)
            strategy.tell(i, genotype, None)
        elif digest in known:
            repeated += 1
            twin, scores = known[digest]
            record(i, proposal, digest, "duplicate", f"repeats {twin}", None)
            strategy.tell(i, genotype, scores, twin=twin)
        else:
            scores = free_scores(genotype)
            known[digest] = (i, scores)
            record(i, proposal, digest, None, None, scores)
            strategy.tell(i, genotype, scores)
        tick(i)
    record(-1, None, None, None, None, None)
    return {"constant": constant, "repeated": repeated, "scored": n - constant - repeated}


def _recorder(folder: Path | None) -> Callable[..., None]:
    """Writes what the search's driver writes: one event for a rejected candidate, two for a scored one."""
    if folder is None:
        return lambda *_: None
    from evonas.run.log import EventLog
    from evonas.run.schema import Event

    log = EventLog.create(folder, "benchmark", {"proxies": '["a","b","c"]'})

    def record(
        i: int, proposal: Any, digest: bytes | None, stage: str | None, reason: str | None, scores: Any
    ) -> None:
        if proposal is None:
            log.close()
            return
        log.append(
            Event(
                "proposed",
                "search",
                i,
                1,
                proposal.parent,
                proposal.origin,
                proposal.genotype,
                digest,
                outcome="dispatched" if stage is None else "rejected",
                stage=stage,
                reason=reason,
            )
        )
        if scores is not None:
            log.append(Event("finished", "search", i, 1, outcome="scored", scores=scores, seconds=0.0))

    return record


def pareto_loop(strategy_name: str, options: dict[str, Any], n: int, tick: Tick) -> dict[str, int]:
    """What pymoo does, on graphs: every candidate is scored and told, and there is no log.

    Repeated layers are found by their digest but nothing is turned away, so every candidate goes through
    selection and survival; inactive nodes take part in the scores, so that few of them are equal.
    """
    from evonas import search_spaces
    from evonas.evolution import make_strategy

    space = search_spaces.get("norm_act")
    strategy = make_strategy(strategy_name, space, 0, "search", options)
    known: dict[bytes | None, int] = {}
    for i in range(n):
        genotype = strategy.ask(i).genotype
        known.setdefault(space.digest(genotype), i)
        strategy.tell(i, genotype, free_scores(genotype))
        tick(i)
    return {"distinct": len(known), "front": len(strategy.front())}


def screening_loop(n: int, tick: Tick) -> dict[str, int]:
    """Random genotypes through the structural test, the digest and the functional fingerprint."""
    from evonas import search_spaces
    from evonas.graph.fingerprint import FingerprintIndex, make_probe, observe
    from evonas.rng import Draws

    space = search_spaces.get("norm_act")
    probe = make_probe(space.layout.name)
    index = FingerprintIndex()
    known: dict[bytes, int] = {}
    prints = equal = 0
    for i in range(n):
        genotype = space.random(Draws("screening", 0, i))
        digest = space.digest(genotype)
        if digest is not None and known.setdefault(digest, i) == i:
            prints += 1
            seen = observe(space.graph(genotype), probe).fingerprint
            if index.find(seen) is None:
                index.add(seen, i)
            else:
                equal += 1
        tick(i)
    return {"fingerprints": prints, "functionally equal": equal}


def pyglove_loop(n: int, tick: Tick) -> None:
    import pyglove as pg

    nodes = [
        pg.Dict(
            op=pg.oneof(range(_yardsticks.OPS)),
            a=pg.oneof(range(_yardsticks.INPUTS + i)),
            b=pg.oneof(range(_yardsticks.INPUTS + i)),
        )
        for i in range(_yardsticks.NODES)
    ]
    search = pg.evolution.regularized_evolution(
        pg.evolution.mutators.Uniform(seed=0), population_size=100, tournament_size=10, seed=0
    )
    for i, (graph, feedback) in enumerate(pg.sample(pg.Dict(nodes=pg.List(nodes)), search, num_examples=n)):
        feedback(_yardsticks.fitness(tuple((v.op, v.a, v.b) for v in graph.nodes)))
        tick(i)


def optuna_loop(n: int, tick: Tick) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=["maximize"] * 3, sampler=optuna.samplers.NSGAIISampler(population_size=50, seed=0)
    )
    for i in range(n):
        trial = study.ask()
        decisions: list[int] = []
        for k in range(_yardsticks.NODES):
            decisions.append(trial.suggest_int(f"op{k}", 0, _yardsticks.OPS - 1))
            decisions.append(trial.suggest_int(f"a{k}", 0, _yardsticks.INPUTS + k - 1))
            decisions.append(trial.suggest_int(f"b{k}", 0, _yardsticks.INPUTS + k - 1))
        study.tell(trial, free_scores(bytes(decisions)))
        tick(i)


def pymoo_loop(population: int, n: int, tick: Tick) -> None:
    """Compiled non-dominated sorting, vectorised operators and fitness; no graph, no archive, no log."""
    import numpy as np
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    upper = np.array(
        [u for k in range(_yardsticks.NODES) for u in (_yardsticks.OPS - 1, 3 + k, 3 + k)], dtype=np.int64
    )
    weights = np.random.default_rng(0).integers(1, 9973, (30, 3))

    class Free(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=30, n_obj=3, xl=np.zeros(30, np.int64), xu=upper, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = (x.astype(np.int64) @ weights) % 9973 / 9973

    repair = RoundingRepair()
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=repair),
        mutation=PM(repair=repair),
        eliminate_duplicates=True,
    )
    algorithm.setup(Free(), termination=("n_gen", n // population), seed=0, verbose=False)
    done = 0
    while algorithm.has_next():
        algorithm.next()
        done += population
        tick(done - 1)


def run_case(name: str, n: int) -> dict[str, Any]:
    """Run one case in this process and measure it: CPU and wall seconds, tenths, memory."""
    marks: list[tuple[int, float]] = []
    edges = {max(1, n * k // 10) - 1 for k in range(1, 11)}

    def tick(i: int) -> None:
        if i in edges:
            marks.append((i + 1, time.process_time()))

    with tempfile.TemporaryDirectory(dir=os.environ.get("EVONAS_BENCH_DIR")) as temporary:
        folder = Path(temporary)
        call = _call(name, n, folder)
        call(max(2, min(500, n // 10)), lambda i: None, folder / "warm")
        gc.collect()
        memory = _resident()
        wall, cpu = time.perf_counter(), time.process_time()
        start = cpu
        notes = call(n, tick, folder / "run") or {}
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        gc.collect()
        grown = _resident() - memory
        size = sum(f.stat().st_size for f in (folder / "run").rglob("*") if f.is_file())
    spans = [
        (done - before) / (at - earlier)
        for (before, earlier), (done, at) in zip([(0, start), *marks], marks, strict=False)
        if at > earlier
    ]
    return {
        "case": name,
        "n": n,
        "cpu": cpu,
        "wall": wall,
        "rate": n / cpu,
        "growth": spans[-1] / spans[0] if len(spans) > 1 else None,
        "bytes_per_candidate": grown / n,
        "disk_per_candidate": size / n,
        "notes": notes,
    }


def _call(name: str, n: int, folder: Path) -> Callable[[int, Tick, Path], Any]:
    def fresh(path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        return path

    if name in ("plain_re", "plain_full"):
        import pyarrow  # noqa: F401

        if name == "plain_re":
            return lambda k, tick, path: _yardsticks.plain_re(k, tick)
        return lambda k, tick, path: _yardsticks.plain_full(k, tick, fresh(path))
    if name == "screening":
        return lambda k, tick, path: screening_loop(k, tick)
    if name == "pyglove":
        return lambda k, tick, path: pyglove_loop(k, tick)
    if name == "optuna":
        return lambda k, tick, path: optuna_loop(k, tick)
    if name.startswith("pymoo"):
        population = int(name.split("_")[1])
        return lambda k, tick, path: pymoo_loop(population, max(k, 2 * population), tick)
    size = int(name.rsplit("_", 1)[1]) if name[-1].isdigit() else 100
    if "nsga2" in name:
        strategy, options = "nsga2", {"population": size}
    else:
        strategy, options = "ageing", {"window": size}
    if "pareto" in name or "nsga2" in name:
        return lambda k, tick, path: pareto_loop(strategy, {**options, "p_random": 0.1}, k, tick)
    log = name != "evonas_no_log"
    return lambda k, tick, path: evonas_loop(strategy, options, k, tick, fresh(path) if log else None)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def measure(names: list[str], rounds: int, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """All cases in interleaved rounds, each in a process of its own."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    order = random.Random(0)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_NUM_THREADS": "1",
    }
    for r in range(rounds):
        shuffled = list(names)
        order.shuffle(shuffled)
        for name in shuffled:
            n = SIZES[name][quick]
            command = [sys.executable, __file__, "--case", name, "--candidates", str(n)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"case {name} failed:\n{done.stderr[-3000:]}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {r + 1} {name}: {results[name][-1]['rate']:,.1f}/s", file=sys.stderr)
    return results


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians per case and the verdict on every target that was measured."""

    def median(name: str, key: str) -> float:
        return statistics.median(r[key] for r in results[name])

    cases = {}
    for name, rows in results.items():
        rates = [r["rate"] for r in rows]
        cases[name] = {
            "candidates": rows[0]["n"],
            "rate": statistics.median(rates),
            "range": [min(rates), max(rates)],
            "wall_rate": statistics.median(r["n"] / r["wall"] for r in rows),
            "bytes_per_candidate": median(name, "bytes_per_candidate"),
            "disk_per_candidate": median(name, "disk_per_candidate"),
            "notes": rows[0]["notes"],
        }
    targets = []

    def target(what: str, value: float, bound: float, at_most: bool = False) -> None:
        met = value <= bound if at_most else value >= bound
        targets.append({"what": what, "value": value, "bound": bound, "at_most": at_most, "met": met})

    for what, case, reference, bound in TARGETS:
        if case in results and reference in results:
            pairs = zip(results[case], results[reference], strict=True)
            target(what, statistics.median(a["rate"] / b["rate"] for a, b in pairs), bound)
    if "evonas_growth" in results:
        target("last tenth against the first", median("evonas_growth", "growth"), GROWTH)
        target("bytes of memory per candidate", median("evonas_growth", "bytes_per_candidate"), MEMORY, True)
    if "screening" in results:
        target("screened candidates per second", median("screening", "rate"), SCREENING)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": machine, "load": os.getloadavg()[0], "cases": cases, "targets": targets}


def table(summary: dict[str, Any]) -> str:
    """The summary as two Markdown tables."""
    lines = [
        f"{summary['machine']}, load {summary['load']:.1f}",
        "",
        "| case | candidates | per CPU second | range | per second | disk B each |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, c in summary["cases"].items():
        low, high = c["range"]
        lines.append(
            f"| {name} | {c['candidates']:,} | {c['rate']:,.0f} | {low:,.0f}..{high:,.0f} "
            f"| {c['wall_rate']:,.0f} | {c['disk_per_candidate']:,.0f} |"
        )
    lines += ["", "| target | measured | bound | met |", "| --- | --- | --- | --- |"]
    for t in summary["targets"]:
        bound = f"{'<=' if t['at_most'] else '>='} {t['bound']:,g}"
        lines.append(f"| {t['what']} | {t['value']:,.2f} | {bound} | {'yes' if t['met'] else '**no**'} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer candidates and three rounds")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (5, with --quick 3)")
    parser.add_argument("--only", nargs="+", choices=sorted(SIZES), help="run these cases alone")
    parser.add_argument("--case", choices=sorted(SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--candidates", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(run_case(given.case, given.candidates)))
        return 0
    names = given.only or list(SIZES)
    missing = [n for n in names if n in PEERS and importlib.util.find_spec(PEERS[n]) is None]
    for name in missing:
        print(
            f"{name}: left out, {PEERS[name]} is not installed (pip install evonas[bench])", file=sys.stderr
        )
    names = [n for n in names if n not in missing]
    summary = summarise(measure(names, given.rounds or (3 if given.quick else 5), given.quick))
    summary["left_out"] = missing
    print(json.dumps(summary, indent=1) if given.json else table(summary))
    return 0 if all(t["met"] for t in summary["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
