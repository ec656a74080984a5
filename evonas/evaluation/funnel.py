"""The dear stages, in a slot: the paper's quality and stability tests, then training on every proxy.

Registers the evaluator ``proxies``. The stages of one candidate share its trainers: the quality test is the first
hundred steps of the very training that full training goes on with, so nothing is trained twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Protocol

from torch import nn

from evonas import proxies
from evonas.data import Dataset, TextData
from evonas.errors import EvonasError, UsageError, unknown_name
from evonas.evaluation.kernel_choice import DEFAULT
from evonas.evaluation.kernel_use import layout_of, make_kernels
from evonas.evaluation.protocol import Outcome, StageReport, Task
from evonas.evaluation.registry import evaluator
from evonas.evaluation.sweep import Sweep
from evonas.evolution.matter import can_still_matter
from evonas.layers import AssembledLayer, Layer, candidate_from
from evonas.proxies import Proxy, data_of
from evonas.proxies.building import asked_slots
from evonas.proxies.screens import quality_test, stability_test
from evonas.proxies.trainer import Trainer, configured_process

#: Names of the stages that a slot runs, in order. ``matter`` is the check between two proxies.
STAGES = ("hurdle", "quality", "stability", "training")
#: Groups of index sets with c/g where channels are few: with the released rule (32, lowered until it divides)
#: a group of a thin network is one channel, and (w,h,c/g) would silently equal (w,h).
GROUPS = {"tiny": 4, "small": 8}


@dataclass
class Candidate:
    """One candidate on its way through the stages."""

    task: Task
    layer: Layer | AssembledLayer
    #: of ``GraphLayer``
    options: Mapping[str, Any]
    trainers: dict[str, Trainer] = field(default_factory=dict)
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.task.candidate, "scored", attempt=self.task.attempt)

    def make_layer(
        self, channels: int, slot: str | None = None, *, layout: str | None = None
    ) -> nn.Module | None:
        """The layer of a slot on the eager reference; None where the network keeps its own. ``layout``: what the
        network's tensors have, by default the layer's."""
        return self.layer.module(channels, slot=slot, layout=layout, backend="eager", **self.options)

    @property
    def rejected(self) -> bool:
        return self.outcome.status == "rejected"

    def reject(self, stage: str, reason: str) -> None:
        """Nothing after this counts."""
        self.outcome.status, self.outcome.stage, self.outcome.reason = "rejected", stage, reason


class Stage(Protocol):
    """Looks at a candidate, adds reports to its outcome and rejects it or not."""

    name: str

    def run(self, candidate: Candidate) -> None: ...


class Kernel:
    """Kernels that a training begins with; those that wait for full training report under the same name."""

    name = "kernel"

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        self.evaluator.kernels.begin(candidate, self.evaluator.proxies)


class Hurdle:
    """Ours, not the paper's: after a third of the quality test's steps on the first proxy the training loss must
    have left the loss of guessing. Most layers that fail the quality test have not moved by then."""

    name = "hurdle"
    #: share of the quality test's steps, share of them that is averaged
    at, tail = 0.3, 1 / 3

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        proxy = self.evaluator.proxies[0]
        trainer = self.evaluator.trainer(candidate, proxy)
        before = trainer.seconds
        steps = max(1, round(self.at * proxy.spec.quality_steps))
        trainer.run(steps)
        needed = trainer.problem.hurdle * trainer.problem.guess
        last = trainer.losses[-max(1, round(self.tail * steps)) :]
        loss = fmean(last) if last else math.inf
        reason = (
            "diverged" if trainer.diverged_at is not None else None if loss < needed else "loss_of_guessing"
        )
        evidence = {"loss": loss, "needed": needed, "steps": trainer.step, "diverged_at": trainer.diverged_at}
        candidate.outcome.reports.append(
            StageReport(self.name, reason is None, trainer.seconds - before, proxy.name, reason, evidence)
        )
        if reason is not None:
            candidate.reject(self.name, f"{reason} on {proxy.name}")


class Quality:
    """Liu et al. 2020, section 3: at least twice chance after 100 steps, on every proxy."""

    name = "quality"

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        self.evaluator.kernels.before_validation(candidate)
        if candidate.rejected:
            return
        for proxy in self.evaluator.proxies:
            trainer = self.evaluator.trainer(candidate, proxy)
            verdict = quality_test(trainer)
            candidate.outcome.reports.append(
                StageReport(
                    self.name, verdict.passed, verdict.seconds, proxy.name, verdict.reason, verdict.evidence()
                )
            )
            if not verdict.passed:
                candidate.reject(self.name, f"{verdict.reason} on {proxy.name}")
                return


class Stability:
    """Liu et al. 2020, section 3: gradient ascent on the gradient norm must not drive it above 1e8."""

    name = "stability"

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        for proxy in self.evaluator.proxies:
            make = partial(candidate.make_layer, layout=layout_of(proxy))
            verdict = stability_test(proxy, make, seed=candidate.task.seed, device=self.evaluator.device)
            evidence = {"largest": verdict.largest, "step": verdict.step, "last": verdict.norms[-1]}
            candidate.outcome.reports.append(
                StageReport(self.name, verdict.passed, verdict.seconds, proxy.name, verdict.reason, evidence)
            )
            if not verdict.passed:
                candidate.reject(self.name, f"{verdict.reason} on {proxy.name} at step {verdict.step}")
                return


class Training:
    """Full training, proxy by proxy, as long as the candidate can still matter against the task's bar."""

    name = "training"

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        names = [p.name for p in self.evaluator.proxies]
        known = candidate.outcome.scores
        for proxy in self.evaluator.proxies:
            matters, evidence = can_still_matter(known, names, candidate.task.bar)
            if known:
                reason = None if matters else "dominated"
                candidate.outcome.reports.append(
                    StageReport("matter", matters, 0.0, proxy.name, reason, evidence)
                )
            if not matters:
                candidate.reject("matter", f"cannot matter any more before {proxy.name}")
                return
            trainer = self.evaluator.trainer(candidate, proxy)
            if not self.evaluator.ready(candidate, trainer):
                return
            before = trainer.seconds
            result = trainer.finish()
            evidence = {"score": result.score, "steps": result.steps, "first_loss": result.first_loss,
                        "final_loss": result.final_loss, **_bits(result.evidence)}  # fmt: skip
            reason = None
            if result.diverged_at is not None:
                reason = "diverged"
                evidence |= {"diverged_at": result.diverged_at, "last_finite_loss": result.last_finite_loss}
            candidate.outcome.reports.append(
                StageReport(self.name, reason is None, trainer.seconds - before, proxy.name, reason, evidence)
            )
            if reason is not None:
                candidate.reject(self.name, f"{reason} on {proxy.name} at step {result.diverged_at}")
                return
            known[proxy.name] = result.score


class Final:
    """Re-ranking: train on every proxy from a fresh seed and score on the *held-out* images.

    Where the task names shares of the training data, the same training is repeated on each of them: as many steps,
    fewer different samples. Reports of those have ``share`` in their evidence and are not among the scores.
    """

    name = "rerank"

    def __init__(self, evaluator: ProxyEvaluator) -> None:
        self.evaluator = evaluator

    def run(self, candidate: Candidate) -> None:
        factors = candidate.task.lr or {}
        for proxy in self.evaluator.proxies:
            for share in (1.0, *candidate.task.data_shares):
                trainer = self.evaluator.fresh_trainer(
                    candidate, proxy, lr=factors.get(proxy.name, 1.0), share=share
                )
                if not self.evaluator.ready(candidate, trainer):
                    return
                trainer.run()
                started = time.perf_counter()
                found = trainer.scored(self.evaluator.datasets[proxy.name].heldout)
                seconds = trainer.seconds + time.perf_counter() - started
                evidence = {
                    "score": found.value,
                    "validation": trainer.validate(),
                    "diverged_at": trainer.diverged_at,
                    **_bits(found.evidence),
                } | ({"share": share} if share < 1 else {})
                candidate.outcome.reports.append(
                    StageReport(self.name, trainer.diverged_at is None, seconds, proxy.name, None, evidence)
                )
                if share == 1:
                    candidate.outcome.scores[proxy.name] = found.value


def _bits(evidence: Mapping[str, float]) -> dict[str, float]:
    """Bits per byte, where a score is made of them."""
    return {k: v for k, v in evidence.items() if k == "bits_per_byte"}


class ProxyEvaluator:
    """Evaluates candidates on proxies that are built once per process.

    Args:
        proxies: names, in the order in which a candidate meets them.
        scale: tiny, small, paper or paper_b.
        data: a data set name; None for each proxy's own, or the default. ``data_path``: its folder.
        changes: fields of ``ProxySpec`` to change, for all proxies.
        layer: options of ``GraphLayer`` (groups, group_size, eps, momentum).
        hurdle, quality, stability: whether to run these stages.
        device: cpu, cuda or cuda:<n>.
        latency: time every scored candidate's layer on the device, which must be a GPU and have nothing else to do.
        kernels: auto, on or off: see ``evonas.evaluation.kernel_choice``.
        parametrization: standard or mup: see ``evonas.proxies.parametrization``.

    Raises:
        UsageError: a name or value that does not exist or fit.
        EnvironmentUnusable: kernels "on", and nothing here compiles them for the device.
    """

    def __init__(
        self,
        *,
        proxies: Sequence[str] = ("mobilenet", "efficientnet", "resnet"),
        scale: str = "tiny",
        data: str | None = None,
        data_path: str | None = None,
        changes: Mapping[str, Any] | None = None,
        layer: Mapping[str, Any] | None = None,
        hurdle: bool = True,
        quality: bool = True,
        stability: bool = True,
        device: str = "cpu",
        latency: bool = False,
        kernels: str = DEFAULT,
        parametrization: str = "standard",
    ) -> None:
        self.parametrization = parametrization
        self.kernels = make_kernels(kernels, device)
        self.device = device
        self.latency = latency
        self.datasets = {name: data_of(name, data, data_path) for name in proxies}
        self.proxies: list[Proxy] = _proxies(proxies, scale, self.datasets, changes)
        self.layer_options = dict({"groups": GROUPS[scale]} if scale in GROUPS else {}) | dict(layer or {})
        wanted = {"hurdle": hurdle, "quality": quality, "stability": stability, "training": True}
        made: list[Stage] = [Hurdle(self), Quality(self), Stability(self), Training(self)]
        kernel = Kernel(self)
        self.modes: dict[str, list[Stage]] = {
            "funnel": [kernel, *(stage for stage in made if wanted[stage.name])],
            "train": [kernel, Training(self)],
            "sweep": [kernel, Sweep(self)],
            "final": [kernel, Final(self)],
        }

    def trainer(self, candidate: Candidate, proxy: Proxy) -> Trainer:
        """The candidate's training on a proxy; stages continue where the one before stopped."""
        if proxy.name not in candidate.trainers:
            candidate.trainers[proxy.name] = self.fresh_trainer(candidate, proxy)
        return candidate.trainers[proxy.name]

    def fresh_trainer(
        self, candidate: Candidate, proxy: Proxy, *, lr: float = 1.0, share: float = 1.0
    ) -> Trainer:
        """A training from the task's seed. ``lr``: factor on the learning rate; ``share``: of the training data."""
        task = candidate.task
        return Trainer(
            proxy, self.kernels.maker(candidate, proxy), seed=task.seed, budget=task.budget, lr_factor=lr,
            share=share, parametrization=self.parametrization, device=self.device,
        )  # fmt: skip

    def ready(self, candidate: Candidate, trainer: Trainer) -> bool:
        """Put kernels under what remains of a training; False if they are wrong and the candidate is rejected."""
        self.kernels.before_validation(candidate)
        if not candidate.rejected:
            self.kernels.before_training(candidate, trainer)
        return not candidate.rejected

    def evaluate(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One outcome per task, in order; the process trains with one thread and denormals as zero meanwhile."""
        with configured_process():
            return [self._evaluate(task) for task in tasks]

    def _evaluate(self, task: Task) -> Outcome:
        if task.mode not in self.modes:
            raise unknown_name("evaluation mode", task.mode, self.modes)
        started = time.perf_counter()
        layer = candidate_from(task.formula, "candidate", layout_of(self.proxies[0]))
        candidate = Candidate(task, layer, self.layer_options)
        self._fits(candidate)
        for stage in [] if candidate.rejected else self.modes[task.mode]:
            stage.run(candidate)
            if candidate.rejected:
                break
        if self.latency and task.mode == "funnel" and candidate.outcome.status == "scored":
            self._time(layer, candidate.outcome)
        candidate.outcome.seconds = time.perf_counter() - started
        return candidate.outcome

    def _fits(self, candidate: Candidate) -> None:
        """Turn an assembly away that gives no layer to a network with one kind of place."""
        if any(None in asked_slots(proxy) for proxy in self.proxies):
            try:
                candidate.layer.layer(None)
            except UsageError as error:
                candidate.reject("structural", error.message)

    def _time(self, candidate: Layer | AssembledLayer, outcome: Outcome) -> None:
        """The candidate's own latency at the reference shapes, by its kernels; a layer without any runs eagerly. Of an
        assembly, the sum over its parts."""
        from evonas.kernels.latency import measured_latency

        layout = layout_of(self.proxies[0])

        def made(layer: Layer, backend: str) -> Callable[[int], nn.Module]:
            return lambda channels: layer.module(channels, layout=layout, backend=backend, device=self.device)

        total, sources = 0.0, dict[str, None]()
        for layer in [candidate] if isinstance(candidate, Layer) else candidate.parts.values():
            backend = "triton"
            try:
                measured = measured_latency(made(layer, backend), layout=layout, device=self.device)
            except EvonasError:  # no lowering, or no triton
                backend = "eager"
                measured = measured_latency(made(layer, backend), layout=layout, device=self.device)
            total += measured.microseconds
            sources[f"{measured.source}, {backend}"] = None
        outcome.latency_us = total
        outcome.latency_source = "; ".join(sources)


def _proxies(
    names: Sequence[str],
    scale: str,
    data: Mapping[str, Dataset | TextData],
    changes: Mapping[str, Any] | None,
) -> list[Proxy]:
    if not names or len(set(names)) != len(names):
        raise UsageError(
            f"proxies {list(names)}: at least one, and each once", hint="--proxies resnet,mobilenet"
        )
    changed = proxies.check_changes(changes or {}, scale, names)
    return [proxies.get(name, scale=scale, data=data[name], **changed[name]) for name in names]


def _preload(options: Mapping[str, Any]) -> None:
    """Data and modules that all slots share."""
    for name in options.get("proxies", ()):
        data_of(name, options.get("data"), options.get("data_path"))


@evaluator(
    "proxies",
    # torch loads torch._dynamo (seconds, a hundred megabytes) with the first optimiser: once, for all slots
    imports=(
        "torch",
        "torch._dynamo",
        "evonas.evaluation.funnel",
        "evonas.layers.c_layer",
        "evonas.layers.module",
        "evonas.proxies.networks",
    ),
    preload=_preload,
)
def build(**options: Any) -> ProxyEvaluator:
    """The evaluator for slots."""
    return ProxyEvaluator(**options)
