"""Holds a layer on generated kernels against the eager module in float64, before a training relies on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evonas.kernels.verify import TOLERANCES, Check
from evonas.layers.module import GraphLayer, vector_parameters

#: channels -> a fresh layer.
Make = Callable[[int], GraphLayer]


#: Draws of random numbers that a kernel must fail on, all of them, to count as wrong: next to a pole of its gradient
#: a sound kernel is further off than the tolerance now and then.
DRAWS = 3


def agreement(fast: Make, eager: Make, shape: tuple[int, ...], **options: Any) -> Check:
    """The first of ``DRAWS`` comparisons that finds no failure, else the last one. options: of ``compare``."""
    for seed in range(DRAWS):
        check = compare(fast, eager, shape, seed=seed, **options)
        if not check.failures:
            break
    return check


def compare(
    fast: Make,
    eager: Make,
    shape: tuple[int, ...],
    *,
    device: torch.device | str = "cpu",
    memory: torch.memory_format = torch.contiguous_format,
    training: bool = True,
    seed: int = 0,
) -> Check:
    """Run a layer once on random float32 tensors and compare outputs, gradients and running averages.

    Args:
        fast: makes the layer on kernels. eager: makes the same layer as its definition.
        shape: of x, (B, C, H, W) or (B, T, C). memory: its memory format.
        training: forward and backward with the batch's statistics; otherwise forward with running averages.
        seed: of x, the output's gradient, the parameters and the running averages.

    Raises:
        whatever ``fast`` raises for a layer or tensor that it has no kernels for.
    """
    found = _run(fast, shape, device, memory, training, seed, torch.float32)
    wanted = _run(eager, shape, device, memory, training, seed, torch.float64)
    rough = _run(eager, shape, device, memory, training, seed, torch.float32)
    largest = torch.finfo(torch.float32).max
    overflow = tuple(n for n, t in wanted.items() if not bool((t.abs() <= largest).all()))
    judged = [n for n in wanted if n not in overflow]
    return Check(
        {n: _error(found[n], wanted[n]) for n in judged},
        {n: _error(rough[n], wanted[n]) for n in judged},
        overflow,
        TOLERANCES[torch.float32],
    )


def _error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value; infinite for anything that is not finite."""
    scale = max(float(wanted.abs().max()), 1e-30)
    worst = float((found.double() - wanted.double()).abs().max()) / scale
    return worst if math.isfinite(worst) else math.inf


def _run(
    make: Make,
    shape: tuple[int, ...],
    device: torch.device | str,
    memory: torch.memory_format,
    training: bool,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """One pass of a fresh layer. The numbers are drawn in float32 on the CPU, equal for every dtype and device."""
    random = torch.Generator().manual_seed(seed)

    def drawn(size: Any) -> Tensor:
        return torch.randn(size, generator=random).to(device, dtype)

    x = drawn(shape).contiguous(memory_format=memory).requires_grad_(training)
    dy = drawn(shape).contiguous(memory_format=memory)
    layer = make(shape[1] if len(shape) == 4 else shape[2]).to(device, dtype).train(training)
    with torch.no_grad():
        for vector in vector_parameters(layer):
            vector.add_(0.5 * drawn(vector.shape))
        running = [b for name, b in layer.named_buffers() if name.endswith("running")]
        for average in running:
            average.add_(0.5 * drawn(average.shape).abs())
    if not training:
        with torch.no_grad():
            return {"y in evaluation": layer(x)}
    y = layer(x)
    y.backward(dy)
    result = {"y": y.detach(), "dx": _gradient(x)}
    result |= {f"d{name}": _gradient(p) for name, p in layer.named_parameters()}
    return result | {f"running {n}": average for n, average in enumerate(running)}


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
