"""Unified Normalization (Yang et al. 2022, arXiv 2208.01313), with the recursions of the authors' released code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evonas.errors import UsageError
from evonas.layers.stateful.base import StatefulLayer
from evonas.layers.stateful.builtin import UNIFIED_NORM
from evonas.layers.stateful.moments import ScaledGradient, mean_over_positions, tracked

#: The correction of the gradient stays 1 for at least so many steps, and within these limits afterwards.
_UNCORRECTED, _LOW, _HIGH = 1000, 1.0 / 5.0, 5.0


class UnifiedNorm(StatefulLayer):
    """Each channel divided by the geometric mean of its mean squares over the last few steps.

    The backward pass uses running averages too and is not the derivative. A filter can turn away batches whose squares
    lie far from those of the window: such a step is normalized by its own batch. All of it is in ``contract``. A step
    is a forward pass in training mode; nothing waits for the device. Second derivatives hold statistics constant.

    Args:
        channels: C. window: steps that the geometric mean runs over; with 1, every step counts as a warm-up.
        backward_window: steps of the mean in the backward pass, ``window`` by default.
        decay: weight of the *old* value in running averages (0.9).
        warm_up: steps that use the batch's own statistics. filter_outliers: the authors advise it for images and
            against it for language.
        absorb_outliers: whether a skipped batch still goes into ``running_var``, as in the released code. A batch that
            is 50 times as large then takes it up by a factor of hundreds, which evaluation sees; False leaves it out.
        options: layout, eps, affine, device, dtype of ``StatefulLayer``.

    Raises:
        UsageError: a window below 1, a decay outside of [0, 1), a negative warm-up.
    """

    contract = UNIFIED_NORM
    window_squares: Tensor
    window_gradients: Tensor
    running_var: Tensor
    gradient_average: Tensor
    step: Tensor
    skips: Tensor

    def __init__(
        self,
        channels: int,
        *,
        window: int = 4,
        backward_window: int | None = None,
        decay: float = 0.9,
        warm_up: int = 4000,
        filter_outliers: bool = False,
        absorb_outliers: bool = True,
        **options: Any,
    ) -> None:
        backward_window = window if backward_window is None else backward_window
        for name, size in (("window", window), ("backward_window", backward_window)):
            if size < 1:
                raise UsageError(f"{name}={size}, it must be at least 1 step")
        if not 0.0 <= decay < 1.0:
            raise UsageError(f"decay={decay}, it must be at least 0 and less than 1")
        if warm_up < 0:
            raise UsageError(f"warm_up={warm_up}, it must be at least 0 steps")
        super().__init__(channels, sizes={"window": window, "backward_window": backward_window}, **options)
        self.window, self.backward_window = window, backward_window
        self.decay, self.warm_up = decay, warm_up
        self.filter_outliers, self.absorb_outliers = filter_outliers, absorb_outliers

    def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
        x = tracked(x)
        with torch.no_grad():
            self.step += 1
            var, r, skip = self._scale(mean_over_positions(x.square(), kept, self.running_var), x.dtype)
            alone = self._alone(self.backward_window) | skip
        z: Tensor = _WindowScale.apply(x, var, r, skip, alone, kept, self)
        weight = None if self.weight is None else ScaledGradient.apply(self.weight, r)
        return self.with_affine(z, weight)

    def _alone(self, window: int) -> Tensor:
        """Whether this step goes by its own batch."""
        return (self.step <= window) | (self.step < self.warm_up)

    def _scale(self, q: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """var (C,), the correction r (C,) and whether the step is skipped, and the buffers after it."""
        q = q.to(self.running_var.dtype)
        squares, running = self.window_squares, self.running_var
        slot = (self.step % self.window).view(1)
        skip = torch.full_like(self.step, self.window == 1, dtype=torch.bool)
        spread = torch.sqrt(squares).var() if squares.numel() > 1 else torch.zeros_like(q[0])
        squares.index_copy_(0, slot, q[None])
        if self.filter_outliers:
            away = squares.mean(0) - _geometric_mean(squares)
            outlier = (self.step >= self.warm_up) & (away > self.window * spread).any()
            squares.index_copy_(0, slot, torch.where(outlier, running, q)[None])
            self.skips += outlier
            skip = skip | outlier
        else:
            outlier = torch.zeros_like(skip)
        var = torch.where(self._alone(self.window) | skip, q, _geometric_mean(squares))
        r = torch.sqrt((var + self.eps) / (running + self.eps)).clamp(_LOW, _HIGH)
        r = torch.where((self.step <= max(_UNCORRECTED, self.warm_up)) | skip, torch.ones_like(r), r)
        moved = self.decay * running + (1.0 - self.decay) * var
        running.copy_(moved if self.absorb_outliers else torch.where(outlier, running, moved))
        return var.to(dtype), r.to(dtype), skip

    @torch.no_grad()
    def take_gradient(self, gz: Tensor, step: Tensor, skip: Tensor, alone: Tensor) -> Tensor:
        """What is subtracted (times z) in this backward pass, after the buffers have taken ``gz`` (C,) in."""
        average = self.gradient_average
        now = gz.to(average.dtype)
        slot = (step % self.backward_window).view(1)
        self.window_gradients.index_copy_(0, slot, torch.where(skip, average, now)[None])
        mean = torch.where(alone, now, self.window_gradients.mean(0))
        average.copy_(self.decay * average + (1.0 - self.decay) * mean)
        return torch.where(skip, mean, average).to(gz.dtype)

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        return self.folded(torch.rsqrt(self.running_var + self.eps))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, window={self.window}, decay={self.decay:g}, warm_up={self.warm_up}, "
            f"filter_outliers={self.filter_outliers}, absorb_outliers={self.absorb_outliers}"
        )


def _geometric_mean(window: Tensor) -> Tensor:
    return torch.exp(torch.log(window).mean(0))


class _WindowScale(torch.autograd.Function):
    """z = x / sqrt(var + eps); back goes (r g - e z) / sqrt(var + eps), e from the layer's running averages."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        var: Tensor,
        r: Tensor,
        skip: Tensor,
        alone: Tensor,
        kept: Tensor | None,
        layer: UnifiedNorm,
    ) -> Tensor:
        z = x / torch.sqrt(var + layer.eps)
        ctx.save_for_backward(z, var, r, skip, alone, layer.step.clone())
        ctx.kept, ctx.layer = kept, layer
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, var, r, skip, alone, step = ctx.saved_tensors
        g = grad * r
        gz = mean_over_positions((g * z).detach(), ctx.kept)
        subtracted = ctx.layer.take_gradient(gz, step, skip, alone)
        back = (g - subtracted * z) / torch.sqrt(var + ctx.layer.eps)
        if ctx.kept is not None:
            back = back * ctx.kept
        return back, None, None, None, None, None, None
