"""What the two language models, or SOFT on images, say of known layers and of none: the table behind their thresholds.

    python benchmarks/language_proxies.py [--scale tiny] [--proxies transformer transnormer] [--seed 0] [--json]

A layer stands in every norm slot; the activation is the network's own. Each goes through the funnel's stages on one
network alone, and is trained to the end as well where a stage says no. The exit code is 1 if a known layer is
rejected or a network without norms is not. Seconds are of one core. With ``--proxies soft`` a score is an accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from evonas import proxies
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.protocol import Task
from evonas.proxies.trainer import configure_process

#: layers for the norm slots, by whether they are to pass
KNOWN = {
    "rms_norm": "norm: x / rms[c](x)",
    "layer_norm": "norm: (x - mean[c](x)) / std[c](x)",
    "dyt": "norm: tanh(0.5 * s1 * x)",
    "derf": "norm: erf(0.5 * s1 * x + s0)",
    "simple_rms_norm": "norm (no affine): x / rms[c](x)",
}
NONE = {"identity": "norm: x", "silu": "norm: x * sigmoid(x)", "relu": "norm: max(x, 0)"}


def measured(name: str, formula: str, proxy: str, scale: str, seed: int) -> dict[str, Any]:
    """One layer on one network: what the stages found, and bits per byte at the end of training."""
    evaluator = ProxyEvaluator(proxies=(proxy,), scale=scale, kernels="off")
    begun = time.process_time()
    (outcome,) = evaluator.evaluate([Task(candidate=0, formula=formula, seed=seed)])
    seconds = time.process_time() - begun
    found: dict[str, Any] = {
        "layer": name, "formula": formula, "proxy": proxy, "status": outcome.status, "reason": outcome.reason,
        "seconds": seconds, "stages": {r.stage: {"passed": r.passed, **r.evidence} for r in outcome.reports},
        "stage_seconds": {r.stage: r.seconds for r in outcome.reports},
    }  # fmt: skip
    final = [r for r in outcome.reports if r.stage == "training"]
    if not final:
        (trained,) = evaluator.evaluate([Task(candidate=0, formula=formula, seed=seed, mode="train")])
        final = [r for r in trained.reports if r.stage == "training"]
    found["bits_per_byte"] = final[0].evidence.get("bits_per_byte")
    found["score"] = final[0].evidence.get("score")
    found["diverged_at"] = final[0].evidence.get("diverged_at")
    return found


def line(row: dict[str, Any]) -> str:
    stages = row["stages"]

    def value(stage: str, key: str) -> str:
        number = stages.get(stage, {}).get(key)
        return "-" if number is None or not math.isfinite(number) else f"{number:.3f}"

    asked = "accuracy" if "accuracy" in stages.get("quality", {}) else "loss"

    known = row["score"] if row["bits_per_byte"] is None else row["bits_per_byte"]
    bits = "diverged" if row["diverged_at"] is not None or known is None else f"{known:.3f}"
    return (
        f"{row['proxy']:12s} {row['layer']:16s} {value('hurdle', 'loss'):>8s} {value('quality', asked):>8s} "
        f"{value('stability', 'largest'):>12s} {bits:>9s} {row['seconds']:6.1f}s  {row['reason'] or 'passes'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--proxies", nargs="+", default=["transformer", "transnormer"])
    parser.add_argument("--layers", nargs="+", default=[*KNOWN, *NONE])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_process()
    rows = []
    heads = {}
    for proxy in arguments.proxies:
        made = proxies.get(proxy, arguments.scale)
        asked = proxies.problem(made)
        heads[proxy] = {
            "unit": made.unit,
            "unigram_entropy" if made.kind == "text" else "log_classes": asked.guess,
            "hurdle_needs": asked.hurdle * asked.guess,
            "quality_needs": made.spec.quality_threshold
            * (asked.guess if made.kind == "text" else made.chance),
            "spec": made.spec.to_dict(),
        }
        if not arguments.json:
            needs, text = heads[proxy], made.kind == "text"
            print(f"{proxy}: hurdle under {needs['hurdle_needs']:.3f}, quality {'at most' if text else 'at least'} "
                  f"{needs['quality_needs']:.3f} {'nats per token' if text else 'of the images'}")  # fmt: skip
            unit = "bits/byte" if text else "accuracy"
            print(f"{'':12s} {'layer':16s} {'hurdle':>8s} {'quality':>8s} {'ascent':>12s} {unit:>9s}")
        for name in arguments.layers:
            row = measured(name, {**KNOWN, **NONE}[name], proxy, arguments.scale, arguments.seed)
            rows.append(row)
            print(line(row), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    wrong = [r for r in rows if (r["status"] == "rejected") == (r["layer"] in KNOWN)]
    if arguments.json:
        print(json.dumps(
            {"scale": arguments.scale, "seed": arguments.seed, "torch": torch.__version__,
             "machine": platform.machine(), "proxies": heads, "rows": rows, "wrong": len(wrong)}, indent=1,
        ))  # fmt: skip
    for row in wrong:
        print(f"not as it should be: {row['layer']} on {row['proxy']} is {row['status']}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
