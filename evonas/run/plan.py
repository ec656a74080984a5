"""What a search will do and cost, before anything of it is made. No torch is imported unless steps are timed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evonas.errors import EnvironmentUnusable
from evonas.evaluation.kernel_choice import PAYS_FROM, choose
from evonas.layers import resolve_candidate
from evonas.run.objectives import describe_objectives
from evonas.run.settings import Settings
from evonas.search_spaces import AnySpace, genotypes_log10
from evonas.search_spaces.causality import over_tokens

if TYPE_CHECKING:
    from evonas.proxies import Proxy

#: Seconds of one core for one training step at scale tiny, with BN-ReLU on images and RMSNorm and SiLU on tokens; used
#: where nothing can be timed.
STEP_SECONDS = {
    "resnet": 0.045, "mobilenet": 0.045, "efficientnet": 0.060, "transformer": 0.1, "transnormer": 0.1, "soft": 0.1,
}  # fmt: skip
#: By layout: the layer that steps are timed with.
TIMED_WITH = {"nchw": "bn_relu", "btc": "rms_norm+silu"}
#: Share of the candidates that reach the slots and pass the quality and stability tests; a rough middle for the
#: estimate between "none does" and "all do". Runs differ: the funnel table of a run has its own.
PASS_SHARE = 0.3
#: Share of the quality test's steps after which the hurdle says no; ``evonas.evaluation.funnel.Hurdle.at``.
HURDLE_SHARE = 0.3
#: Bytes of the log and of candidates.parquet per proposed candidate, and proposals per evaluated candidate.
LOG_BYTES, PROPOSALS = 600, 15
#: Memory of a process with torch and the data loaded, and of a forked slot beyond it, at scale tiny.
_SERVER_BYTES, _SLOT_BYTES = 350 << 20, 60 << 20
#: Seconds after which the timing of one proxy stops.
_PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class ProxyCost:
    """Seconds of one core (of wall-clock on an accelerator).

    step: one training step. ascent: one step of the stability test. validation: one pass over the validation
    images. measured: timed here, or taken from the table.
    """

    proxy: str
    steps: int
    quality_steps: int
    ascent_steps: int
    step: float
    ascent: float
    validation: float
    measured: bool

    @property
    def training(self) -> float:
        """Full training and its score."""
        return self.steps * self.step + self.validation

    @property
    def stability(self) -> float:
        """The stability test alone."""
        return (self.ascent_steps + 1) * self.ascent


def make_plan(settings: Settings, space: AnySpace, *, measure: bool = True) -> dict[str, Any]:
    """The plan as plain values: space, stages, budget, trainings, steps, seconds, memory, disk.

    Args:
        measure: time a few steps of every proxy with a known layer (``TIMED_WITH``); otherwise take them from
            ``STEP_SECONDS``.

    ``seconds`` has three figures of wall-clock time on the slots: ``low`` if every candidate fails the quality test
    on the first proxy, ``high`` if every one is trained on all of them, ``likely`` in between (``PASS_SHARE``).
    """
    search, rerank = settings.search, settings.rerank
    arms = 1 if search.control == "none" else 2
    finalists = rerank.top + (rerank.control_top if arms > 1 else 0) + len(search.baselines)
    replicates = finalists * rerank.seeds
    sizes = 1 + sum(share < 1 for share in rerank.data_shares)
    swept = finalists * len(rerank.lr_factors) if replicates else 0
    finals = replicates * sizes + swept
    final_work = replicates * sizes + swept * rerank.sweep_budget
    candidates, baselines = arms * search.candidates, len(search.baselines)
    cores = _cores()
    plan: dict[str, Any] = {
        "space": {
            "name": space.name,
            "layout": space.layout.name,
            "inputs": list(space.inputs),
            "operations": len(space.operations),
            "nodes": space.nodes,
            **({"slots": list(space.groups)} if space.groups != ("all",) else {}),
            "genotypes_log10": round(genotypes_log10(space), 1),
        },
        "stages": _stages(settings, space.causal),
        "objectives": describe_objectives(settings.to_dict()),
        **({"see_other_tokens": seen} if (seen := _see_other_tokens(settings, space)) else {}),
        "arms": {"search": search.strategy} | ({"control": search.control} if arms > 1 else {}),
        "budget": {
            "candidates_per_arm": search.candidates,
            "candidates": candidates,
            "baselines": baselines,
            "finalists": finalists if replicates else 0,
            "rerank_trainings_per_proxy": finals,
            **({"sweep_trainings_per_proxy": swept} if swept else {}),
            **({"data_sizes": sizes} if replicates and sizes > 1 else {}),
            "max_time_s": search.max_time_s or None,
        },
        "slots": {"count": settings.workers.count, "backend": settings.workers.backend, "processors": cores},
    }
    proposals = PROPOSALS * candidates
    plan["disk_bytes"] = proposals * LOG_BYTES + (candidates + baselines + replicates) * 1000 + 50_000
    if settings.evaluation.evaluator != "proxies":
        return plan | {"proxies": None, "trainings": None, "seconds": None, "memory_bytes": None}
    costs, memory = proxy_costs(settings, measure=measure)
    plan["proxies"] = [
        {name: getattr(c, name) for name in ("proxy", "steps", "quality_steps", "step", "ascent", "measured")}
        for c in costs
    ]
    plan["trainings"] = _trainings(settings, costs, candidates, baselines, finals, final_work)
    plan["seconds"] = _seconds(settings, costs, candidates, baselines, final_work, cores)
    plan["memory_bytes"] = memory
    return plan


def _see_other_tokens(settings: Settings, space: AnySpace) -> dict[str, list[str]]:
    """In a causal space: baselines in training of which a token sees later ones, with the moments that show them."""
    if not space.causal:
        return {}
    found = {}
    for text in settings.search.baselines:
        layers = resolve_candidate(text).laid_out(space.layout.name).layers
        if moments := dict.fromkeys(m for layer in layers for m in over_tokens(layer.graph)):
            found[text] = list(moments)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stages(settings: Settings, causal: bool) -> list[str]:
    names = ["structural", "duplicate"]
    names += ["probe"] if settings.screening.probe else []
    names += ["causal"] if causal else []
    backend = _kernels(settings)
    names += ["kernel"] if backend == "c" else []
    names += ["hurdle"] if settings.evaluation.hurdle else []
    names += ["quality"] if settings.evaluation.quality else []
    names += ["stability"] if settings.evaluation.stability else []
    names += ["kernel"] if backend == "triton" else []
    names += ["matter"] if settings.matter.enabled else []
    names.append("training")
    if settings.rerank.seeds:
        names += ["sweep", "rerank"] if settings.rerank.lr_factors else ["rerank"]
    return names


def _kernels(settings: Settings) -> str:
    """What trainings run on if the slots are on a machine like this one: triton, c or eager."""
    from evonas import proxies

    evaluation = settings.evaluation
    try:
        backend = choose(evaluation.kernels, evaluation.device).backend
    except EnvironmentUnusable:  # a cluster has what this machine lacks
        return "eager"
    if evaluation.evaluator != "proxies" or backend != "c" or evaluation.kernels == "on":
        return backend if evaluation.evaluator == "proxies" else "eager"
    specs = proxies.SCALES.get(evaluation.scale, {})
    known = [specs[name].steps for name in evaluation.proxies if name in specs]
    steps = evaluation.changes.get("steps", max(known, default=PAYS_FROM))
    return "c" if steps >= PAYS_FROM else "eager"


def _trainings(
    settings: Settings,
    costs: list[ProxyCost],
    candidates: int,
    baselines: int,
    finals: int,
    final_work: float,
) -> dict[str, Any]:
    """Full trainings and training steps, from all-rejected to all-trained. final_work: ``finals`` in final trainings
    on all data, of which one of the sweep may be a part."""
    full = sum(c.steps for c in costs)
    final = sum(round(c.steps * settings.rerank.budget) for c in costs)
    first = _first_test(settings, costs[0])
    always = baselines * full + round(final_work * final)
    return {
        "low": (baselines + finals) * len(costs),
        "high": (candidates + baselines + finals) * len(costs),
        "steps_low": always + candidates * first,
        "steps_high": always + candidates * full,
    }


def _first_test(settings: Settings, cost: ProxyCost) -> int:
    """Training steps after which a candidate can be turned away at the earliest."""
    steps = cost.steps
    if settings.evaluation.quality:
        steps = cost.quality_steps
    if settings.evaluation.hurdle:
        steps = max(1, round(HURDLE_SHARE * cost.quality_steps))
    return min(steps, cost.steps)


def _seconds(
    settings: Settings, costs: list[ProxyCost], candidates: int, baselines: int, finals: float, cores: int
) -> dict[str, float]:
    evaluation = settings.evaluation
    # the steps of the quality test are the first ones of the training
    tests = sum(c.validation for c in costs) if evaluation.quality else 0.0
    tests += sum(c.stability for c in costs) if evaluation.stability else 0.0
    trained = tests + sum(c.training for c in costs)
    final = sum(
        c.training + c.step * c.steps * (settings.rerank.budget - 1) + 2 * c.validation for c in costs
    )
    rejected = _first_test(settings, costs[0]) * costs[0].step
    if not evaluation.hurdle:
        rejected += costs[0].validation
    always = baselines * trained + finals * final
    at_once = max(1, min(settings.workers.count, cores))
    figures = {
        "low": always + candidates * rejected,
        "likely": always + candidates * (PASS_SHARE * trained + (1 - PASS_SHARE) * rejected),
        "high": always + candidates * trained,
    }
    limit = settings.search.max_time_s or math.inf
    return {name: min(limit, work / at_once) for name, work in figures.items()}


def proxy_costs(settings: Settings, *, measure: bool = True) -> tuple[list[ProxyCost], int]:
    """What steps of each proxy cost, and the memory of all slots and their server in bytes.

    Raises:
        UsageError, DataError: an unknown proxy, scale or field, or data that cannot be read.
    """
    from evonas import proxies

    evaluation = settings.evaluation
    changes = proxies.check_changes(evaluation.changes, evaluation.scale, evaluation.proxies)
    found = [
        proxies.get(
            name,
            scale=evaluation.scale,
            data=proxies.data_of(name, evaluation.data, evaluation.data_path),
            **changes[name],
        )
        for name in evaluation.proxies
    ]
    slots = settings.workers.count
    if not measure:
        return [_from_table(p) for p in found], _SERVER_BYTES + slots * _SLOT_BYTES
    import torch

    threads = torch.get_num_threads()
    try:
        proxies.configure_process()
        server = _resident()
        backend = _kernels(settings)
        costs = [_timed(p, evaluation.device, evaluation.stability, backend) for p in found]
    finally:
        torch.set_num_threads(threads)
    return costs, server + slots * max(_SLOT_BYTES, _resident() - server)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _from_table(proxy: Proxy) -> ProxyCost:
    spec = proxy.spec
    step = STEP_SECONDS.get(proxy.name, max(STEP_SECONDS.values()))
    validation = step * _samples(proxy) / (3 * spec.batch)
    return ProxyCost(
        proxy.name, spec.steps, spec.quality_steps, spec.stability_steps, step, 2 * step, validation, False
    )


def _samples(proxy: Proxy) -> int:
    """Images, or windows of text, that a score is made of."""
    return proxy.spec.eval_windows if proxy.kind == "text" else len(proxy.data.validation)


def _timed(proxy: Proxy, device: str, stability: bool, backend: str) -> ProxyCost:
    from functools import partial

    from evonas.layers.c_layer import CGraphLayer
    from evonas.proxies import Trainer, stability_test

    candidate, spec = resolve_candidate(TIMED_WITH[proxy.layout]), proxy.spec

    def made(backend: str, channels: int, slot: str | None = None) -> Any:
        layer = candidate.layer(slot)
        if layer is None:
            return None
        if backend == "c":
            return CGraphLayer(layer.graph, channels, layout=proxy.layout, affine=layer.affine)
        return layer.module(channels, layout=proxy.layout, backend=backend)

    # on a processor that others use too, the time of this process is what a core of its own would take
    clock = time.process_time if device == "cpu" else time.perf_counter
    trainer = Trainer(proxy, partial(made, backend), device=device)
    trainer.run(1)  # warms up allocators and thread pools
    steps, begun = 0, clock()
    while steps < 10 and (steps == 0 or clock() - begun < _PATIENCE) and trainer.step < trainer.total:
        trainer.run(trainer.step + 1)
        steps += 1
    step = (clock() - begun) / max(1, steps)
    quick = step < _PATIENCE / 10
    begun = clock()
    if quick:
        trainer.validate()
    validation = clock() - begun if quick else step * _samples(proxy) / (3 * spec.batch)
    begun = clock()
    if quick and stability:
        stability_test(proxy, partial(made, "eager"), steps=1, device=device)
    ascent = (clock() - begun) / 2 if quick else 2 * step * spec.stability_batch / spec.batch
    return ProxyCost(
        proxy.name, spec.steps, spec.quality_steps, spec.stability_steps, step, ascent, validation, True
    )


def estimate_measurable(settings: Settings) -> bool:
    """Whether steps can be timed: torch is there and the device is."""
    from importlib import util

    if settings.evaluation.evaluator != "proxies" or util.find_spec("torch") is None:
        return False
    if not settings.evaluation.device.startswith("cuda"):
        return True
    import torch

    return torch.cuda.is_available()


def written_files(root: str, settings: Settings) -> Mapping[str, str]:
    """What a run leaves behind, by path."""
    folder = os.path.join(root, f"<utc-stamp>-{settings.search.space}-<id>")
    return {
        folder: "the run's folder",
        "events/*.arrows": "every decision and result; flushed as they are made",
        "candidates.parquet": "one row per candidate, at the end",
        "run.json, config.toml, space.json, environment.json, command.txt": "what it was run with and on",
    }
