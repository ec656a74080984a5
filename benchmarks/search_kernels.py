"""Candidates per hour through the funnel with generated kernels and without, the same candidates in turn.

    python benchmarks/search_kernels.py [--candidates 8] [--proxies mobilenet resnet] [--device cuda] [--json]

Candidates are random layers of norm_act that pass the stages without training, and layers of the zoo, which train
to the end. Each is evaluated with kernels off and auto, one right after the other, which one first taking turns; the
folder of compiled kernels is empty at the start. Seconds are those of the slot, compiling and checking included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evonas import search_spaces
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.kernel_choice import choose
from evonas.evaluation.protocol import Outcome, Task
from evonas.evaluation.screening import Screen
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

TRAINED = ("evonorm_s0", "evonorm_b0", "gn_silu")


def random_layers(count: int) -> list[str]:
    """Formulas of the first random layers that pass the cheap stages."""
    space = search_spaces.get("norm_act")
    screening = Screen(space)
    found: list[str] = []
    trial = 0
    while len(found) < count:
        genotype = space.random(Draws("search kernels", trial))
        verdict = screening.judge(genotype)
        screening.remember(genotype, verdict, trial)
        trial += 1
        if verdict.stage is None:
            found.append(str(space.graph(genotype).active()))
    return found


def seconds_of(outcome: Outcome, stage: str) -> float:
    return sum(r.seconds for r in outcome.reports if r.stage == stage)


def row(formula: str, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    off, auto = outcomes["off"], outcomes["auto"]
    return {
        "formula": formula,
        "off_s": off.seconds,
        "auto_s": auto.seconds,
        "speed_up": off.seconds / auto.seconds,
        "kernel_s": seconds_of(auto, "kernel"),
        "backend": next((r.evidence.get("backend") for r in auto.reports if r.stage == "kernel"), None),
        "training_off_s": seconds_of(off, "training"),
        "training_auto_s": seconds_of(auto, "training"),
        "ended_off": off.stage or "scored",
        "ended_auto": auto.stage or "scored",
        "score_off": off.scores,
        "score_auto": auto.scores,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    off, auto = sum(r["off_s"] for r in rows), sum(r["auto_s"] for r in rows)
    return {
        "candidates": len(rows),
        "off_per_hour": 3600 * len(rows) / off,
        "auto_per_hour": 3600 * len(rows) / auto,
        "speed_up": off / auto,
        "median_speed_up": median(r["speed_up"] for r in rows),
        "kernel_share": sum(r["kernel_s"] for r in rows) / auto,
        "same_end": sum(r["ended_off"] == r["ended_auto"] for r in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=8, help="random layers, besides those of the zoo")
    parser.add_argument("--proxies", nargs="+", default=["mobilenet"])
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = platform.machine()
    if options.device.startswith("cuda"):
        import torch

        device = torch.cuda.get_device_name(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVONAS_KERNEL_DIR"] = folder
        os.environ["TRITON_CACHE_DIR"] = os.path.join(folder, "triton")
        evaluators = {
            mode: ProxyEvaluator(
                proxies=options.proxies, scale=options.scale, device=options.device, kernels=mode
            )
            for mode in ("off", "auto")
        }
        for one in evaluators.values():  # imports, pages, algorithms; on another layer than those that count
            one.evaluate([Task(0, "x / rms[w,h](x) + v0", seed=2)])
        rows = []
        formulas = [*(ZOO[name].formula for name in TRAINED), *random_layers(options.candidates)]
        for number, formula in enumerate(formulas):
            outcomes = {}
            for mode in ("off", "auto") if number % 2 == 0 else ("auto", "off"):
                [outcomes[mode]] = evaluators[mode].evaluate([Task(number, formula, seed=1)])
            rows.append(row(formula, outcomes))
            print(
                f"{number + 1}/{len(formulas)} {rows[-1]['ended_off']:9s} {rows[-1]['off_s']:6.2f} s "
                f"{rows[-1]['auto_s']:6.2f} s  {formula}",
                file=sys.stderr,
            )
    report = {
        "device": device,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernels": choose("auto", options.device).used,
        "scale": options.scale,
        "proxies": options.proxies,
        "all": summary(rows),
        "scored": summary([r for r in rows if r["ended_off"] == "scored"]),
        "rows": rows,
    }
    if options.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return 0
    print(f"{device}, {report['kernels']}, load {report['load']:.1f}, {options.scale} {options.proxies}")
    for name in ("all", "scored"):
        found = report[name]
        assert isinstance(found, dict)
        print(
            f"{name:7s} {found['candidates']:3d} candidates: {found['off_per_hour']:6.0f} per hour off, "
            f"{found['auto_per_hour']:6.0f} auto, {found['speed_up']:.2f}x; "
            f"{found['kernel_share']:.0%} of auto in stage kernel"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
