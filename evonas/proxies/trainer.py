"""Trains one candidate on one proxy, in pieces: the quality test is the start of the same training.

The seed fixes the initial weights, the order of the data and the crops, so every candidate sees the
same ones. With one thread the same call gives the same bits. A loss that is not finite is a result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evonas.proxies import schedules
from evonas.proxies.building import build
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.optimisers import make_optimiser
from evonas.proxies.problems import Score, problem
from evonas.proxies.registry import Proxy
from evonas.proxies.widths import parameter_groups


def configure_process(threads: int = 1) -> None:
    """Settings of a process that trains: thread count, denormals as zero, no autotuned kernels.

    With one thread on a CPU every operation in use is deterministic; on CUDA cuDNN is asked to be.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def configured_process(threads: int = 1) -> Iterator[None]:
    """``configure_process`` for a while: what the process does otherwise keeps its threads and its denormals."""
    before = torch.get_num_threads()
    configure_process(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """``score``: on the validation part, in [0, 1], 0 after divergence: accuracy, or for text 1 - bits per byte / 8.
    ``evidence``: further numbers of the score, for text bits_per_byte and loss. Losses in nats, steps from 1."""

    score: float
    steps: int
    first_loss: float | None
    #: mean of the last tenth of the training losses, None after divergence.
    final_loss: float | None
    #: wall-clock, for reports only: nothing is decided by it.
    seconds: float
    diverged_at: int | None = None
    last_finite_loss: float | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)


class LayerInput(NamedTuple):
    """What a layer site is given: the tensor's shape, whether its memory is channels-last, and whether it comes
    with a batch of training or one of validation. formula: of the site's layer, empty if it has none."""

    shape: tuple[int, ...]
    channels_last: bool
    training: bool
    formula: str = ""


class Trainer:
    """One training of ``make_layer`` on ``proxy``."""

    def __init__(
        self,
        proxy: Proxy,
        make_layer: MakeLayer,
        *,
        seed: int = 0,
        budget: float = 1.0,
        lr_factor: float = 1.0,
        share: float = 1.0,
        parametrization: str = "standard",
        device: torch.device | str = "cpu",
    ) -> None:
        """``budget`` multiplies the steps; the schedule stretches with it. ``lr_factor`` multiplies the learning rate.
        ``share``: of the training data, that are seen; the steps stay the same. ``parametrization``: "standard" or
        "mup"; see ``evonas.proxies.parametrization``."""
        started = time.perf_counter()
        spec = proxy.spec
        self.proxy, self.device = proxy, torch.device(device)
        self.total = max(1, round(spec.steps * budget))
        self.lr = spec.lr * lr_factor
        self.problem = problem(proxy)
        self.built = build(proxy, make_layer, seed, self.device)
        self.network: nn.Module = self.built.network
        groups = parameter_groups(proxy, self.built, make_layer, parametrization)
        self._optimiser = make_optimiser(
            spec.optimiser,
            groups,
            lr=self.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            betas=spec.betas,
        )
        self._batches = self.problem.batches(seed=seed, share=share, device=self.device)
        self._warmup = min(round(spec.warmup * self.total), self.total - 1)
        self.step = 0
        self.losses: list[float] = []
        self.diverged_at: int | None = None
        self.seconds = time.perf_counter() - started

    def first_batch(self) -> Tensor:
        """Inputs of the first training step: images or tokens."""
        return self._batches(0)[0]

    def layer_inputs(self) -> list[LayerInput]:
        """What the layers of the network are given, each kind once: for a batch of training and one of validation.

        The network runs in evaluation mode, which changes nothing of its state.
        """
        found = dict[LayerInput, None]()
        training = True

        def seen(site: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            last = x.dim() == 4 and not x.is_contiguous()
            last = last and x.is_contiguous(memory_format=torch.channels_last)
            formula = str(getattr(site, "formula", ""))
            found[LayerInput(tuple(x.shape), last, training, formula)] = None

        hooks = [site.register_forward_pre_hook(seen) for site in self.built.sites]
        self.network.eval()
        try:
            with torch.no_grad():
                self.network(self._batches(self.step)[0])
                training = False
                self.network(next(self.problem.scored(self.proxy.data.validation, self.device))[0])
        finally:
            self.network.train()
            for hook in hooks:
                hook.remove()
        return list(found)

    def replace_layers(self, make: Callable[[nn.Module], nn.Module]) -> None:
        """Put ``make(site)`` in the place of every layer site. It must keep the site's own parameters: the
        optimiser goes on with those."""
        made = {id(site): make(site) for site in self.built.sites}
        for parent in list(self.network.modules()):
            for name, child in parent._modules.items():
                if id(child) in made:
                    parent._modules[name] = made[id(child)]
        self.built.sites = [made[id(site)] for site in self.built.sites]

    def rate(self, step: int) -> float:
        """Learning rate of step ``step`` (from 0)."""
        return schedules.rate(self.proxy.spec.schedule, self.lr, step, self.total, self._warmup)

    def run(self, until_step: int | None = None) -> None:
        """Train until ``until_step`` steps are done (None: all), or until the loss is not finite."""
        started = time.perf_counter()
        end = self.total if until_step is None else min(until_step, self.total)
        # Reading a loss waits for the device, so on an accelerator it is read once in a while.
        stride = 1 if self.device.type == "cpu" else 25
        pending: list[Tensor] = []
        self.network.train()
        while self.step < end and self.diverged_at is None:
            pending.append(self._advance())
            if len(pending) >= stride or self.step == end:
                self._record(torch.stack(pending).tolist())
                pending.clear()
        self.seconds += time.perf_counter() - started

    def _advance(self) -> Tensor:
        spec = self.proxy.spec
        inputs, targets = self._batches(self.step)
        schedules.set_rate(self._optimiser.param_groups, self.rate(self.step))
        self._optimiser.zero_grad(set_to_none=True)
        loss = self.problem.loss(self.network(inputs), targets, smoothing=spec.label_smoothing)
        loss.backward()
        if spec.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), spec.clip)
        self._optimiser.step()
        self.step += 1
        return loss.detach()

    def _record(self, losses: list[float]) -> None:
        for loss in losses:
            if not math.isfinite(loss):
                self.diverged_at = len(self.losses) + 1
                return
            self.losses.append(loss)

    def _weights_finite(self) -> bool:
        with torch.no_grad():
            total = sum((p.abs().max() for p in self.network.parameters() if p.numel()), torch.zeros(()))
        return bool(torch.isfinite(total))

    def scored(self, split: Any) -> Score:
        """Score on ``split`` in evaluation mode, with its evidence; 0 after divergence."""
        if self.diverged_at is None and not self._weights_finite():
            self.diverged_at = self.step
        if self.diverged_at is not None:
            return Score(0.0)
        self.network.eval()
        found = self.problem.score(self.network, split, self.device)
        self.network.train()
        return found

    def accuracy(self, split: Any) -> float:
        """Score on ``split``: for images the fraction classified correctly, in evaluation mode, 0 after divergence."""
        return self.scored(split).value

    def validation(self) -> Score:
        """Score on the validation part, now, with its evidence."""
        started = time.perf_counter()
        found = self.scored(self.proxy.data.validation)
        self.seconds += time.perf_counter() - started
        return found

    def validate(self) -> float:
        """Score on the validation part, now: accuracy, or for text 1 - bits per byte / 8."""
        return self.validation().value

    def finish(self) -> TrainResult:
        """Train to the end and score."""
        self.run()
        found = self.validation()
        tail = self.losses[-max(1, self.total // 10) :]
        diverged = self.diverged_at is not None
        return TrainResult(
            score=found.value,
            steps=self.step if self.diverged_at is None else self.diverged_at,
            first_loss=self.losses[0] if self.losses else None,
            final_loss=None if diverged else sum(tail) / len(tail),
            seconds=self.seconds,
            diverged_at=self.diverged_at,
            last_finite_loss=self.losses[-1] if diverged and self.losses else None,
            evidence=found.evidence,
        )


def train(proxy: Proxy, make_layer: Callable[[int], nn.Module], **options: Any) -> TrainResult:
    """Train and score in one call; ``options`` are those of ``Trainer``."""
    return Trainer(proxy, make_layer, **options).finish()
