"""Running averages of moments over the batch (Liu et al. 2020; released EvoNorm-B0 code).

One buffer set per batch node: the mean for a first moment, the mean of squares for ``rms``, the biased variance
for ``std``; any other moment keeps its own value. In evaluation the node's value is rebuilt from them, e.g.
sqrt(running variance + eps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evonas import primitives
from evonas.errors import UsageError
from evonas.graph.layout import IndexSet, Layout

# From a batch moment to what is averaged, and back. The second moments are averaged before the root.
_TO_AVERAGE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "std": lambda y, eps: y * y - eps,
    "rms": lambda y, eps: y * y - eps,
}
_FROM_AVERAGE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "std": lambda average, eps: torch.sqrt(average + eps),
    "rms": lambda average, eps: torch.sqrt(average + eps),
}
_INITIAL = {"mean": 0.0}


class BatchStatistic(nn.Module):
    """One moment whose index set contains the batch.

    Training: the batch's moment, and ``running`` <- (1 - momentum) * running + momentum * moment. Evaluation:
    the value from ``running`` alone, the same for every sample. ``running`` is float32, also in a module cast to
    half precision (float64 after ``.double()``), has the shape of the moment in the split view, and starts at 0 for
    means and 1 else.
    The batch moment is biased (no n/(n-1) correction), as in the released code.

    ``source_weight`` below 1 mixes the evaluated batch into what is averaged: source_weight * running +
    (1 - source_weight) * batch (alpha-BN, calibration of batch statistics at test time). It is no part of the state.
    """

    running: Tensor
    source_weight: float = 1.0

    def __init__(
        self,
        op: str,
        index: IndexSet,
        layout: Layout,
        shape: tuple[int, ...],
        eps: float,
        momentum: float,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.op = op
        self.index = index
        self.axes = layout.positions(index)
        self.eps = eps
        self.momentum = momentum
        self._spread = tuple(
            n for n, d in enumerate(layout.dims) if d not in ("b", "g", "k") and n not in self.axes
        )
        self.register_buffer("running", torch.full(shape, _INITIAL.get(op, 1.0), device=device))

    def forward(self, a: Tensor) -> Tensor:
        if not self.training and self.source_weight == 1.0:
            return self.average(a.dtype)
        y = primitives.get(self.op).eager(primitives.torch_namespace(), a, self.axes, eps=self.eps)
        if not self.training:
            return self._mixed(y)
        self.update(y)
        return y

    def _mixed(self, y: Tensor) -> Tensor:
        """The node's value from the running average and the batch's, mixed as means and variances."""
        to, back = _TO_AVERAGE.get(self.op), _FROM_AVERAGE.get(self.op)
        seen = to(y, self.eps) if to else y
        average = self.source_weight * self.running.to(y.dtype) + (1.0 - self.source_weight) * seen
        return back(average, self.eps) if back else average

    def average(self, dtype: torch.dtype) -> Tensor:
        """The node's value in evaluation, in the split view."""
        value = self.running.to(dtype)
        back = _FROM_AVERAGE.get(self.op)
        return back(value, self.eps) if back else value

    @torch.no_grad()
    def update(self, y: Tensor) -> None:
        """Take the node's value on one batch, in the split view, into the running average."""
        to = _TO_AVERAGE.get(self.op)
        seen = to(y, self.eps) if to else y
        # a moment over fewer axes than batch and space (mean[b], say) keeps one value per channel
        if self._spread:
            seen = seen.mean(self._spread, keepdim=True)
        self.running.lerp_(seen.expand(self.running.shape).to(self.running.dtype), self.momentum)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchStatistic:
        """Moves and casts as usual, but never below float32: squares overflow in half precision."""
        kept = self.running
        super()._apply(fn, recurse)
        if self.running.dtype in (torch.float16, torch.bfloat16):
            self.running = kept.to(self.running.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.op}[{','.join(self.index)}], momentum={self.momentum}"


@contextmanager
def source_weight(model: nn.Module, weight: float) -> Iterator[int]:
    """Evaluate a model with statistics between those of training and those of each batch, inside a ``with``.

    The weight is that of the *source*, the running averages of training: 1 is evaluation as usual, 0 uses the
    statistics of the batch that is evaluated (alpha-BN; papers and code differ in which of the two alpha weighs). Only
    moments over the batch of a graph are reached. What is evaluated depends on its batch then, and runs on the eager
    reference.

    Yields:
        The number of statistics that it reaches; 0 means that nothing changes.

    Raises:
        UsageError: a weight outside of [0, 1].
    """
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"source_weight={weight}, it must be between 0 (the batch) and 1 (running averages)")
    reached = [m for m in model.modules() if isinstance(m, BatchStatistic)]
    before = [m.source_weight for m in reached]
    for statistic in reached:
        statistic.source_weight = weight
    try:
        yield len(reached)
    finally:
        for statistic, old in zip(reached, before, strict=True):
            statistic.source_weight = old
