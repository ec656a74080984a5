"""Times of forward and backward, fair between implementations: interleaved rounds, a cold cache on CUDA.

Imports torch. On CUDA a time is between two events on the stream. Before each the L2 cache is flushed, and the flush
lasts longer than the CPU needs to queue the work, so that a time holds no waiting for Python.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn

#: Of a measurement on the CPU, at least: the clock and the loop then cost less than a thousandth.
CPU_SECONDS = 0.005
_MOST_FLUSHES = 200


@dataclass(frozen=True)
class Times:
    """Seconds. low, high: the quartiles of the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Of at least one measurement."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high, len(seconds))


class Step:
    """Forward and backward of a module on one input; every backward has a forward of its own before it."""

    def __init__(self, module: nn.Module, x: Tensor, dy: Tensor) -> None:
        self.module = module
        self.x = x.detach().requires_grad_()
        self.dy = dy
        self.wanted = [self.x, *module.parameters()]

    def forward(self) -> Tensor:
        """The output, with what backward needs saved."""
        result: Tensor = self.module(self.x)
        return result

    def backward(self, y: Tensor) -> object:
        """Gradients of the input and every parameter, as new tensors."""
        return torch.autograd.grad([y], self.wanted, [self.dy], allow_unused=True)


class Clock:
    """Measures calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self._flush: Tensor | None = None
        self._flush_seconds = 0.0
        if self.cuda:
            cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 50 << 20))
            self._flush = torch.zeros(max(2 * cache, 64 << 20) // 4, dtype=torch.float32, device=device)
            self._flush_cache()
            self._flush_seconds = self._between_events(self._flush_cache, 0)

    def lead(self, host_seconds: float) -> int:
        """How many flushes keep the device busy while the CPU queues work for that long."""
        if not self.cuda:
            return 0
        return min(_MOST_FLUSHES, 1 + math.ceil(1.5 * host_seconds / max(self._flush_seconds, 1e-6)))

    def host_seconds(self, call: Callable[[], object]) -> float:
        """What a call takes until it returns; on CUDA its work then still goes on."""
        self.wait()
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        self.wait()
        return seconds

    def seconds(self, call: Callable[[], object], flushes: int = 1) -> float:
        """What the work of a call takes: on CUDA on the device, with a cold cache."""
        return self._between_events(call, flushes) if self.cuda else self.host_seconds(call)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def _flush_cache(self) -> None:
        # written, then read: what was written must not be written back during the measurement
        assert self._flush is not None
        self._flush.zero_()
        self._flush.sum()

    def _between_events(self, call: Callable[[], object], flushes: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(flushes):
            self._flush_cache()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return 1e-3 * float(begin.elapsed_time(end))


def time_steps(
    steps: Mapping[str, Step], clock: Clock, rounds: int, warm_up: int = 3
) -> dict[str, tuple[Times, Times]]:
    """Forward and backward of every step. Each round measures all of them, beginning with another one each time.

    On the CPU a measurement repeats the step until it has lasted ``CPU_SECONDS``, and is the mean of the repetitions.
    """
    leads: dict[str, tuple[int, int]] = {}
    repeats: dict[str, int] = {}
    for name, step in steps.items():
        host = [_once(step, clock, None) for _ in range(max(warm_up, 1))]
        forward, backward = (min(column) for column in zip(*host, strict=True))
        leads[name] = (clock.lead(forward), clock.lead(backward))
        repeats[name] = 1 if clock.cuda else max(1, math.ceil(CPU_SECONDS / (forward + backward)))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    names = list(steps)
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for n in range(rounds):
            gc.collect()  # never within a measurement
            at = n % len(names)
            for name in names[at:] + names[:at]:
                runs = [_once(steps[name], clock, leads[name]) for _ in range(repeats[name])]
                mean = [sum(column) / len(runs) for column in zip(*runs, strict=True)]
                found[name].append((mean[0], mean[1]))
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    both = {
        name: tuple(Times.of(column) for column in zip(*pairs, strict=True)) for name, pairs in found.items()
    }
    return {name: (times[0], times[1]) for name, times in both.items()}


def _once(step: Step, clock: Clock, leads: tuple[int, int] | None) -> tuple[float, float]:
    out: list[Any] = []
    if leads is None:
        forward = clock.host_seconds(lambda: out.append(step.forward()))
        return forward, clock.host_seconds(lambda: step.backward(out[0]))
    forward = clock.seconds(lambda: out.append(step.forward()), leads[0])
    return forward, clock.seconds(lambda: step.backward(out[0]), leads[1])


def copy_bandwidth(clock: Clock) -> float:
    """Bytes a second of a copy of a tensor much larger than the caches; what is read and what is written counts."""
    size, rounds = (512 << 20, 20) if clock.cuda else (128 << 20, 7)
    source = torch.ones(size // 4, dtype=torch.float32, device=clock.device)
    target = torch.empty_like(source)
    clock.seconds(lambda: target.copy_(source))
    seconds = [clock.seconds(lambda: target.copy_(source)) for _ in range(rounds)]
    return 2 * size / Times.of(seconds).median
