"""Evaluation slots: time to ready, memory, calls per second against raw Ray, driver overhead.

    python benchmarks/workers.py [--json] [--rounds 3] [--seconds 3] [--slots 64]

Rates are medians over rounds in which all cases take turns, so that noise on the machine meets all of
them alike; the ratios are what counts. The file is also the plug-in that the slots load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from evonas.evaluation.protocol import EvaluatorSpec, Outcome, Task
from evonas.evaluation.registry import evaluator
from evonas.plugins import describe_plugins
from evonas.run.backends.local import LocalBackend
from evonas.run.backends.ray_backend import RayBackend

MIB = 2**20


#: As long as the formula of a graph with 14 nodes.
FORMULA = "(x * sigmoid(v1 * x) + max(std[b,w,h](x), rsqrt(v0 + mean[w,h,c/g](x * x)))) / std[w,h,c/g](x)" * 2


class Free:
    """Scores at once, or after a sleep, which takes a slot but no processor."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def evaluate(self, tasks: list[Task]) -> list[Outcome]:
        if self.seconds:
            time.sleep(self.seconds)
        return [Outcome(t.candidate, "scored", t.attempt, scores={"free": 0.5}) for t in tasks]


evaluator("bench-free", imports=())(Free)


@evaluator("bench-torch")
def torch_slot() -> Free:
    """A slot that has run a convolution forwards and backwards."""
    import torch

    x = torch.ones(4, 8, 16, 16, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3, requires_grad=True)).sum().backward()
    return Free()


def spec(name: str, **options: Any) -> EvaluatorSpec:
    return EvaluatorSpec(name, options, describe_plugins([__file__]))


def tree_pss() -> float:
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / MIB


def tree_cpu() -> float:
    """Processor seconds of this process and all below it, so far."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def start_and_weigh(make: Any, slots: int) -> dict[str, float]:
    """Seconds until every slot is ready (Ray's own start included), PSS of the tree, MB per slot."""
    before = tree_pss()
    start = time.perf_counter()
    backend = make()
    backend.start()
    try:
        while backend.describe()["ready"] < slots:
            backend.poll(0.05)
            time.sleep(0.02)
        ready = time.perf_counter() - start
        pss = tree_pss()
        pids = backend.describe()["pids"]
        own = sum(psutil.Process(p).memory_full_info().pss for p in pids) / MIB / len(pids)
    finally:
        backend.close()
    return {"ready_s": ready, "tree_pss_mib": pss, "added_pss_mib": pss - before, "slot_pss_mib": own}


class Stream:
    """An endless stream of candidates through a backend that is kept full."""

    def __init__(self, backend: Any, batch: int) -> None:
        self.backend, self.batch, self.next, self.in_flight = backend, batch, 0, 0
        self.room = backend.capacity * backend.depth

    def run(self, seconds: float = 1e9, candidates: int = 10**9) -> tuple[int, float]:
        done, start = 0, time.perf_counter()
        while done < candidates and time.perf_counter() - start < seconds:
            while self.in_flight + self.batch <= self.room:
                ids = range(self.next, self.next + self.batch)
                self.backend.submit([Task(i, FORMULA) for i in ids])
                self.next += self.batch
                self.in_flight += self.batch
            got = len(self.backend.poll(1.0))
            self.in_flight -= got
            done += got
        return done, time.perf_counter() - start

    def rate(self, seconds: float) -> float:
        done, elapsed = self.run(seconds)
        return done / elapsed


class RawRay:
    """No-op actor calls, 4 in flight per actor, all that are ready taken at once."""

    def __init__(self, ray: Any, actors: int) -> None:
        class Echo:
            def call(self, value: Any) -> Any:
                if isinstance(value, str):
                    return value
                return [{"candidate": d["candidate"], "score": 0.5} for d in value]

        self.ray = ray
        self.actors = [ray.remote(Echo).options(num_cpus=0).remote() for _ in range(actors)]
        ray.get([a.call.remote("") for a in self.actors])

    def rate(self, seconds: float, make: Any, count: int) -> float:
        ray = self.ray
        pending = {a.call.remote(make()): a for a in self.actors for _ in range(4)}
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            ready, rest = ray.wait(list(pending), num_returns=1)
            if rest:
                ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            ray.get(ready)
            done += len(ready) * count
            for call in ready:
                actor = pending.pop(call)
                pending[actor.call.remote(make())] = actor
        rate = done / (time.perf_counter() - start)
        ray.get(list(pending))
        return rate


def dicts() -> list[dict[str, Any]]:
    """64 different graphs of 14 nodes, about 1 KB each as JSON."""
    return [
        {
            "candidate": i,
            "seed": 7 * i,
            "nodes": [
                {"op": "sigmoid", "name": f"n{k}", "inputs": [f"n{k - 1}", f"n{(i + k) % 14}"], "sets": []}
                for k in range(14)
            ],
        }
        for i in range(64)
    ]


def compare(rounds: int, seconds: float, slots: int) -> dict[str, float]:
    """Median rates (candidates per second) of all cases, taken in turns within one Ray instance."""
    single = RayBackend(spec("bench-free"), slots, depth=4, max_batch=1)
    batched = RayBackend(spec("bench-free"), slots, depth=256, max_batch=64)
    local = LocalBackend(spec("bench-free"), slots, depth=4)
    local_batched = LocalBackend(spec("bench-free"), slots, depth=256)
    backends = (single, batched, local, local_batched)
    samples: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    try:
        for backend in backends:
            backend.start()
        import ray

        raw = RawRay(ray, slots)
        streams = [Stream(single, 1), Stream(batched, 64), Stream(local, 1), Stream(local_batched, 64)]
        cases = {
            "raw_ray": lambda: raw.rate(seconds, lambda: FORMULA, 1),
            "ray": lambda: streams[0].rate(seconds),
            "local": lambda: streams[2].rate(seconds),
            "raw_ray_batch64": lambda: raw.rate(seconds, dicts, 64),
            "ray_batch64": lambda: streams[1].rate(seconds),
            "local_batch64": lambda: streams[3].rate(seconds),
        }
        for _ in range(rounds):
            for name, case in cases.items():
                cpu, start = tree_cpu(), time.perf_counter()
                rate = case()
                elapsed = time.perf_counter() - start
                samples.setdefault(name, []).append(rate)
                cost.setdefault(name, []).append((tree_cpu() - cpu) / (rate * elapsed))
        growth = {"ray": driver_growth(streams[1]), "local": driver_growth(streams[3])}
    finally:
        for backend in reversed(backends):
            backend.close()
    result = {name: statistics.median(values) for name, values in samples.items()}
    pairs = (("ray", "raw_ray"), ("ray_batch64", "raw_ray_batch64"), ("local", "raw_ray"), ("local", "ray"))
    for a, b in pairs:
        result[f"{a}_to_{b}"] = statistics.median(x / y for x, y in zip(samples[a], samples[b], strict=True))
        result[f"cpu_{a}_to_{b}"] = statistics.median(y / x for x, y in zip(cost[a], cost[b], strict=True))
    result.update({f"{name}_driver_growth_kib": value for name, value in growth.items()})
    return result


def driver_growth(stream: Stream, candidates: int = 100_000) -> float:
    """KiB by which the driver's resident memory grows over 100,000 candidates, after 20,000 of warm-up."""
    me = psutil.Process()
    stream.run(candidates=20_000)
    before = me.memory_info().rss
    stream.run(candidates=candidates)
    return (me.memory_info().rss - before) / 1024


def driver_share(backend: Any, seconds: float, slots: int) -> dict[str, float]:
    """Driver CPU per wall second, and evaluations per second, with evaluations of 0.1 s on every slot."""
    backend.start()
    try:
        while backend.describe()["ready"] < slots:
            backend.poll(0.05)
            time.sleep(0.02)
        stream = Stream(backend, 1)
        stream.run(2.0)
        cpu = time.process_time()
        done, elapsed = stream.run(seconds)
        return {"cpu_share": (time.process_time() - cpu) / elapsed, "rate": done / elapsed}
    finally:
        backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--slots", type=int, default=64, help="for start, memory and driver overhead")
    parser.add_argument("--rate-slots", type=int, default=2, help="slots and raw actors in the rate cases")
    args = parser.parse_args()
    n = args.slots
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0], "slots": n}
    report["start_local"] = start_and_weigh(lambda: LocalBackend(spec("bench-torch"), n), n)
    report["start_ray"] = start_and_weigh(lambda: RayBackend(spec("bench-torch"), n), n)
    report["rates"] = compare(args.rounds, args.seconds, args.rate_slots)
    slow = spec("bench-free", seconds=0.1)
    report["driver_local"] = driver_share(LocalBackend(slow, n), 2 * args.seconds, n)
    report["driver_ray"] = driver_share(RayBackend(slow, n), 2 * args.seconds, n)
    report["load_after"] = os.getloadavg()[0]
    if args.json:
        json.dump(report, sys.stdout, indent=2)
        print()
        return
    rates = report["rates"]
    rows = [
        (f"{n} slots ready through Ray, torch preloaded", report["start_ray"]["ready_s"], "s", "<= 15"),
        ("  PSS of the whole tree", report["start_ray"]["tree_pss_mib"], "MiB", "< 4096"),
        (f"{n} slots ready, local", report["start_local"]["ready_s"], "s", "<= 10"),
        ("  PSS of the whole tree", report["start_local"]["tree_pss_mib"], "MiB", "< 1536"),
        ("  PSS per slot", report["start_local"]["slot_pss_mib"], "MiB", "<= 30"),
        ("raw Ray no-op calls, 4 in flight", rates["raw_ray"], "/s", ""),
        ("Ray backend, one candidate per message", rates["ray"], "/s", ""),
        ("  to raw Ray", rates["ray_to_raw_ray"], "x", ">= 0.7"),
        ("  to raw Ray, candidates per processor second", rates["cpu_ray_to_raw_ray"], "x", ""),
        ("raw Ray, 64 dicts of 1 KB per call", rates["raw_ray_batch64"], "/s", ""),
        ("Ray backend, batches of 64", rates["ray_batch64"], "/s", ""),
        ("  to raw Ray", rates["ray_batch64_to_raw_ray_batch64"], "x", ">= 0.5"),
        (
            "  to raw Ray, candidates per processor second",
            rates["cpu_ray_batch64_to_raw_ray_batch64"],
            "x",
            "",
        ),
        ("local backend, one candidate per message", rates["local"], "/s", ""),
        ("  to raw Ray", rates["local_to_raw_ray"], "x", ">= 8"),
        ("  to raw Ray, candidates per processor second", rates["cpu_local_to_raw_ray"], "x", ""),
        ("local backend, batches of 64", rates["local_batch64"], "/s", ""),
        (f"driver CPU, Ray, {n} slots at 0.1 s", 100 * report["driver_ray"]["cpu_share"], "%", "< 5"),
        ("  evaluations", report["driver_ray"]["rate"], "/s", f"ideal {10 * n}"),
        (f"driver CPU, local, {n} slots at 0.1 s", 100 * report["driver_local"]["cpu_share"], "%", "< 5"),
        ("  evaluations", report["driver_local"]["rate"], "/s", f"ideal {10 * n}"),
        ("driver growth over 100,000 candidates, Ray", rates["ray_driver_growth_kib"], "KiB", "flat"),
        ("driver growth over 100,000 candidates, local", rates["local_driver_growth_kib"], "KiB", "flat"),
    ]
    for name, value, unit, target in rows:
        print(f"{name:<48} {value:>12,.2f} {unit:<4} {target}")
    print(
        f"{os.cpu_count()} cores, load {report['load_before']:.1f} before, {report['load_after']:.1f} after"
    )


if __name__ == "__main__":
    main()
