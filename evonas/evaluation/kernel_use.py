"""The generated kernels of one evaluator: checked against the definition, compiled, and put under its trainings.

A kernel that disagrees with float64 rejects its candidate, stage ``kernel``; one that cannot be made leaves
the candidate on the eager reference. Seconds of checking and compiling are those of stage ``kernel``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from evonas.errors import EnvironmentUnusable, EvonasError, UsageError
from evonas.evaluation.kernel_check import agreement
from evonas.evaluation.kernel_choice import PAYS_FROM, choose
from evonas.evaluation.protocol import Outcome, StageReport, Task
from evonas.kernels.programs import LayerSpec
from evonas.kernels.verify import SLACK, Check
from evonas.layers import AssembledLayer, Layer
from evonas.layers.module import GraphLayer
from evonas.proxies import Proxy
from evonas.proxies.building import asked_slots
from evonas.proxies.trainer import LayerInput, Trainer

if TYPE_CHECKING:
    from evonas.evaluation.kernel_ahead import KernelPool

STAGE = "kernel"
DISAGREES = "disagrees_with_float64"


class Candidate(Protocol):
    """What kernels need to know of a candidate."""

    task: Task
    layer: Layer | AssembledLayer
    options: Mapping[str, Any]
    outcome: Outcome

    def make_layer(
        self, channels: int, slot: str | None = None, *, layout: str | None = None
    ) -> nn.Module | None: ...

    @property
    def rejected(self) -> bool: ...

    def reject(self, stage: str, reason: str) -> None: ...


class Eager:
    """No kernels: every training runs the reference."""

    def begin(self, candidate: Candidate, proxies: list[Proxy]) -> None:
        """Before the first step on the first proxy."""

    def before_validation(self, candidate: Candidate) -> None:
        """Before the first pass in evaluation mode."""

    def before_training(self, candidate: Candidate, trainer: Trainer) -> None:
        """Before full training on a proxy."""

    def maker(self, candidate: Candidate, proxy: Proxy) -> Callable[..., Any]:
        """What makes the layers of the network that is trained on a proxy: channels, and perhaps a slot -> module, or
        None where the network keeps its own layer in the slot."""
        return partial(candidate.make_layer, layout=layout_of(proxy))


class GeneratedC(Eager):
    """Generated C from the first step on, for trainings that are long enough to pay for the compiler.

    The C of a layer serves all channels and sizes: it is compiled once for training, and once more for
    validation where moments over the batch have running averages.

    Args:
        always: also where it does not pay.
    """

    def __init__(self, always: bool = False) -> None:
        self._always = always
        self._broken: str | None = None
        self._tried = False
        self._candidate: Candidate | None = None
        #: the networks that are trained on C, by what their layers are given
        self._layouts: dict[str, list[Proxy]] = {}
        self._report = StageReport(STAGE, True, 0.0)

    def begin(self, candidate: Candidate, proxies: list[Proxy]) -> None:
        self._candidate = None
        self._layouts = {}
        for proxy in proxies:
            if self._pays(candidate, proxy):
                self._layouts.setdefault(layout_of(proxy), []).append(proxy)
        if not self._layouts:
            return
        started = time.perf_counter()
        self._report = StageReport(STAGE, True, 0.0, evidence={"backend": "c"})
        candidate.outcome.reports.append(self._report)
        self._add(candidate, training=True)
        self._report.seconds = time.perf_counter() - started
        if self._report.evidence["backend"] == "c":
            self._candidate = candidate

    def before_validation(self, candidate: Candidate) -> None:
        if (
            candidate is not self._candidate
            or not candidate.layer.uses_batch
            or "validation" in self._report.evidence
        ):
            return
        started = time.perf_counter()
        self._add(candidate, training=False)
        self._report.seconds += time.perf_counter() - started

    def maker(self, candidate: Candidate, proxy: Proxy) -> Callable[..., Any]:
        if candidate is not self._candidate or not self._pays(candidate, proxy):
            return super().maker(candidate, proxy)

        def make(channels: int, slot: str | None = None) -> nn.Module | None:
            layer = candidate.layer.layer(slot)
            if layer is None or layer.stateful:
                return candidate.make_layer(channels, slot, layout=layout_of(proxy))
            return _in_c(layer, layout_of(proxy), candidate.options, channels)

        return make

    def _pays(self, candidate: Candidate, proxy: Proxy) -> bool:
        return self._always or round(proxy.spec.steps * candidate.task.budget) >= PAYS_FROM

    def _usable(self) -> str | None:
        """Why there is no C on this machine, found once with a small layer and said once; None if there is."""
        from evonas.kernels.c_operator import kernels

        if not self._tried:
            self._tried = True
            try:
                kernels(LayerSpec("max(x, 0)"))
            except (EnvironmentUnusable, OSError) as error:
                self._broken = str(error)
                warnings.warn(f"{error}; layers are trained on the eager reference", stacklevel=2)
        return self._broken

    def _add(self, candidate: Candidate, *, training: bool) -> None:
        """Compile and check the C of one mode; evidence says what came of it."""
        evidence = self._report.evidence
        broken = self._usable()
        try:
            if broken is not None:
                raise EnvironmentUnusable(broken)
            for layout, proxies in self._layouts.items():
                for layer in _of_graphs(candidate, proxies):
                    if not (training or layer.uses_batch):
                        continue
                    check, shape = self._add_one(layer, layout, candidate.options, training)
                    if not _judge(candidate, self._report, check, shape):
                        break
                if candidate.rejected:
                    break
        except Exception as error:
            why = _reason(error)
            evidence |= {"backend": "eager", "why": why} if training else {"validation": f"eager: {why}"}
            return
        if not training:
            evidence["validation"] = "c"

    def _add_one(
        self, layer: Layer, layout: str, options: Mapping[str, Any], training: bool
    ) -> tuple[Check, tuple[int, ...]]:
        """Compile and check one layer in one layout: the first check that fails, or the last one."""
        from evonas.kernels.c_operator import kernels

        evidence, begun = self._report.evidence, time.perf_counter()
        kernels(replace(_spec_of(layer, layout, options), training=training))
        evidence["compile_s"] = evidence.get("compile_s", 0.0) + time.perf_counter() - begun
        evidence["kernels"] = evidence.get("kernels", 0) + 2
        for channels in _channels(options):
            # few positions, an odd number of them: all of it takes milliseconds
            shape = (3, channels, 5, 3) if layout == "nchw" else (3, 7, channels)
            check = agreement(
                partial(_in_c, layer, layout, options, strict=True),
                partial(_eager, layer, layout, options),
                shape,
                training=training,
            )
            if check.failures:
                break
        return check, shape


class Triton(Eager):
    """Triton kernels for full training; everything before it, which most candidates do not survive, stays eager.

    Kernels are compiled for the very tensors that the network's layers get, by a pool of compilers where the device is
    one that it knows, and checked on tensors with the fewest and the most channels.

    Args:
        pool: what compiles; by default one for the device, or none, so that the first launch compiles.
    """

    def __init__(self, device: str, pool: KernelPool | None = None) -> None:
        self._device = torch.device(device)
        self._pool = pool

    def _compilers(self) -> KernelPool | None:
        from evonas.evaluation.kernel_ahead import KernelPool, target_of

        if self._pool is None:
            target = target_of(self._device)
            self._pool = None if target is None else KernelPool(target)
        return self._pool

    def before_training(self, candidate: Candidate, trainer: Trainer) -> None:
        started = time.perf_counter()
        report = StageReport(STAGE, True, 0.0, trainer.proxy.name, evidence={"backend": "triton"})
        candidate.outcome.reports.append(report)
        try:
            self._prepare(candidate, trainer, report)
        except Exception as error:
            report.evidence |= {"backend": "eager", "why": _reason(error)}
        report.seconds = time.perf_counter() - started

    def _prepare(self, candidate: Candidate, trainer: Trainer, report: StageReport) -> None:
        from evonas.evaluation.kernel_ahead import training_specs
        from evonas.layers.kernel_layer import KernelLayer

        layout, begun = layout_of(trainer.proxy), 0.0
        evidence = report.evidence | {"kernels": 0, "compile_s": 0.0}
        given = trainer.layer_inputs()
        for layer in _of_graphs(candidate, [trainer.proxy]):
            eager = partial(_eager, layer, layout, candidate.options)

            def make(channels: int, eager: Callable[[int], GraphLayer] = eager) -> GraphLayer:
                return KernelLayer.sharing(eager(channels), strict=True)

            mine = [one for one in given if one.formula in ("", layer.formula)]
            if not mine:  # no place of this network has the layer
                continue
            make(_channels_of(mine[0].shape))  # a graph that cannot be lowered is refused here
            specs = training_specs(
                _spec_of(layer, layout, candidate.options),
                [(one, eager(_channels_of(one.shape)).groups) for one in mine],
                self._device,
                over_batch=layer.uses_batch,
            )
            evidence["kernels"] += len(specs)
            begun = time.perf_counter()
            pool = self._compilers()
            if pool is not None:
                for name, count in pool.compile(specs).items():
                    evidence[name] = evidence.get(name, 0) + count
            for one in mine:
                self._compile(make, one)
            evidence["compile_s"] += time.perf_counter() - begun
            report.evidence |= evidence
            by_channels = sorted((g for g in mine if g.training), key=lambda g: _channels_of(g.shape))
            for one in {by_channels[0]: None, by_channels[-1]: None}:
                for training in (True, False) if layer.uses_batch else (True,):
                    check = agreement(
                        make, eager, one.shape, device=self._device, memory=_memory(one), training=training
                    )
                    if not _judge(candidate, report, check, one.shape):
                        return
        trainer.replace_layers(
            lambda site: KernelLayer.sharing(site) if isinstance(site, GraphLayer) else site
        )

    def _compile(self, make: Callable[[int], GraphLayer], one: LayerInput) -> None:
        """One pass over a tensor of zeros and ones, so that every kernel that training launches exists."""
        layer = make(_channels_of(one.shape)).to(self._device).train(one.training)
        x = torch.ones(one.shape, device=self._device).contiguous(memory_format=_memory(one))
        x[..., ::2] = 0.0
        with torch.set_grad_enabled(one.training):
            y = layer(x.requires_grad_(one.training))
        if one.training:
            y.sum().backward()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def make_kernels(mode: str, device: str) -> Eager:
    """The kernels that a setting stands for on a device.

    Raises:
        UsageError, EnvironmentUnusable: see ``evonas.evaluation.kernel_choice.choose``.
    """
    backend = choose(mode, device).backend
    if backend == "triton":
        return Triton(device)
    return GeneratedC(always=mode == "on") if backend == "c" else Eager()


def _judge(candidate: Candidate, report: StageReport, check: Check, shape: tuple[int, ...]) -> bool:
    """Write a check into a report; False, and the candidate is rejected, if the kernels disagree."""
    evidence = report.evidence
    # the log holds numbers: what is not finite is as large as can be
    evidence["error"] = min(max(evidence.get("error", 0.0), *check.errors.values(), 0.0), 1e30)
    evidence["tolerance"] = check.tolerance
    failures = check.failures
    if not failures:
        return True
    report.passed, report.reason = False, DISAGREES
    evidence |= {
        "shape": list(shape),
        "errors": {n: min(e, 1e30) for n, e in failures.items()},
        "allowed": {n: min(max(check.tolerance, SLACK * check.rounding[n]), 1e30) for n in failures},
    }
    candidate.reject(STAGE, f"{DISAGREES}: {', '.join(sorted(failures))}")
    return False


def _reason(error: Exception) -> str:
    """Why the eager reference takes over. Memory that ran out is the slot's affair and goes on up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        raise error
    return (error.message if isinstance(error, EvonasError) else f"{type(error).__name__}: {error}")[:300]


def _channels(options: Mapping[str, Any]) -> tuple[int, int]:
    """Channels that C is checked with: a multiple of its lanes, and not."""
    size = options.get("group_size")
    return (8, 20) if size is None else (size, 3 * size)


def _channels_of(shape: tuple[int, ...]) -> int:
    return shape[1] if len(shape) == 4 else shape[-1]


def layout_of(proxy: Proxy) -> str:
    """What the layers of a proxy's network are given: nchw or btc."""
    return getattr(proxy, "layout", "nchw")


def _eager(layer: Layer, layout: str, options: Mapping[str, Any], channels: int) -> GraphLayer:
    return layer.module(channels, layout=layout, backend="eager", **options)


def _in_c(
    layer: Layer, layout: str, options: Mapping[str, Any], channels: int, strict: bool = False
) -> GraphLayer:
    from evonas.layers.c_layer import CGraphLayer

    options = {"affine": layer.affine, **options}
    return CGraphLayer(layer.graph, channels, layout=layout, strict=strict, **options)


def _of_graphs(candidate: Candidate, proxies: Iterable[Proxy]) -> list[Layer]:
    """The layers that these networks get from the candidate and that kernels are made of, each once: those without
    state. A network that names no slots has one layer in all of its places.

    Raises:
        UsageError: there are none, or the candidate has no layer for one kind of place.
    """
    slots = {slot: None for proxy in proxies for slot in asked_slots(proxy)}
    asked = [candidate.layer.layer(slot) for slot in slots]
    layers = {(one.graph, one.affine): one for one in asked if one is not None}.values()
    found = [layer for layer in layers if not layer.stateful]
    if not found:
        raise UsageError("a layer with state has a class of its own and no generated kernels")
    return found


def _spec_of(layer: Layer, layout: str, options: Mapping[str, Any]) -> LayerSpec:
    made = _eager(layer, layout, options, options.get("group_size", 1))
    return LayerSpec(made.formula, made.layout.name, affine=made.weight is not None, eps=made.eps)


def _memory(given: LayerInput) -> torch.memory_format:
    return torch.channels_last if given.channels_last else torch.contiguous_format


__all__ = ["DISAGREES", "STAGE", "Eager", "GeneratedC", "Triton", "layout_of", "make_kernels"]
