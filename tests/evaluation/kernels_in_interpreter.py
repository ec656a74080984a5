"""Full training on Triton's kernels, in the interpreter; prints what came of it as JSON. Run by ``test_kernel_use.py``.

Arguments: "right" or "wrong" (every output of a forward kernel is a thousandth too large).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from evonas.kernels import runtime

from evonas.evaluation.funnel import Candidate, ProxyEvaluator
from evonas.evaluation.kernel_ahead import KernelPool
from evonas.evaluation.kernel_use import Triton
from evonas.evaluation.protocol import Task
from evonas.graph import Graph
from evonas.layers import ZOO, Layer
from evonas.layers.kernel_layer import KernelLayer
from evonas.proxies.trainer import Trainer, configure_process


def plant() -> None:
    run = runtime.Executable.run

    def wrong(self: runtime.Executable, tensors: dict, device: object) -> dict:  # type: ignore[type-arg]
        made = run(self, tensors, device)  # type: ignore[arg-type]
        if "dy" not in tensors:
            tensors["y"].mul_(1.001)
        return made

    runtime.Executable.run = wrong  # type: ignore[method-assign, assignment]


def small(evaluator: ProxyEvaluator) -> ProxyEvaluator:
    """The evaluator with four validation images: the interpreter takes seconds for a hundred."""
    [proxy] = evaluator.proxies
    split = proxy.data.validation
    few = dataclasses.replace(split, images=np.asarray(split.images)[:4], labels=np.asarray(split.labels)[:4])
    evaluator.proxies = [dataclasses.replace(proxy, data=dataclasses.replace(proxy.data, validation=few))]
    return evaluator


def main() -> None:
    if sys.argv[1] == "wrong":
        plant()
    configure_process()
    changes = {
        "steps": 5, "batch": 4, "strides": [1, 2, 1, 1, 1], "quality_steps": 1,
        "stability_steps": 0, "stability_batch": 4, "eval_batch": 4,
        "crop": 8, "eval_crop": 8, "depth": [1] * 7, "quality_threshold": 0.0,
    }  # fmt: skip
    report = {}
    folder = tempfile.TemporaryDirectory()
    pool = KernelPool("sm_90", workers=2, cache=Path(folder.name))
    if sys.argv[1] == "right":  # a candidate that is rejected before its kernels are wanted
        strict = small(
            ProxyEvaluator(
                proxies=["mobilenet"],
                changes=changes | {"quality_threshold": 1.1},
                hurdle=False,
                kernels="on",
            )
        )
        strict.kernels = Triton("cpu", pool)
        [rejected] = strict.evaluate([Task(0, ZOO["evonorm_s0"].formula, seed=1)])
        report["rejected"] = rejected.to_dict() | {"pool": pool.describe()}
    for layer in ("evonorm_b0",) if sys.argv[1] == "wrong" else ("evonorm_b0", "evonorm_s0"):
        found = {}
        for mode in ("on", "off"):
            evaluator = small(
                ProxyEvaluator(proxies=["mobilenet"], changes=changes, hurdle=False, kernels=mode)
            )
            if mode == "on" and layer == "evonorm_s0":
                evaluator.kernels = Triton("cpu", pool)
            [outcome] = evaluator.evaluate([Task(0, ZOO[layer].formula, seed=1)])
            found[mode] = outcome.to_dict()
        report[layer] = found
    if sys.argv[1] == "right":
        candidate = Candidate(
            Task(0, "x"), Layer("candidate", Graph.parse(ZOO["evonorm_b0"].formula)), {"groups": 4}
        )
        trainer = Trainer(evaluator.proxies[0], candidate.make_layer)
        before = dict(trainer.network.state_dict(keep_vars=True))
        trainer.run(1)
        trainer.replace_layers(lambda site: KernelLayer.sharing(site, strict=True))  # type: ignore[arg-type]
        after = dict(trainer.network.state_dict(keep_vars=True))
        report["shared"] = {
            "same": before.keys() == after.keys() and all(before[k] is after[k] for k in before),
            "kernels": sum(isinstance(m, KernelLayer) for m in trainer.network.modules()),
            "sites": len(trainer.built.sites),
        }
    report["pool"] = pool.describe()
    pool.close()
    folder.cleanup()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
