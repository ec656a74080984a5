"""PowerNorm (Shen et al. 2020, arXiv 2003.07845), with the recursions of the authors' released code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import UsageError
from evonas.layers.stateful.base import StatefulLayer
from evonas.layers.stateful.builtin import POWER_NORM
from evonas.layers.stateful.moments import GroupScaling, mean_over_positions, tracked


class PowerNorm(StatefulLayer):
    """Each position scaled by the rms of its channels, then each channel by a running rms over batch and positions.

    Training step: v = mean(x~^2); z = x~ / sqrt(phi + eps), with v in place of phi during warm-up; y = weight z + bias.
    The backward pass is an approximation with a running correction E, not the derivative. All of it is in ``contract``.
    A step is a forward pass in training mode, so activation checkpointing, which repeats forward passes, counts twice.
    Second derivatives hold v, phi and E constant.

    Args:
        channels: C. scaling_groups: groups of the first scaling; the authors' models use the number of heads.
        forward_decay, backward_decay: a_f and a_b. warm_up: steps that use the batch's own v.
        options: layout, eps, affine, device, dtype of ``StatefulLayer``.

    Raises:
        UsageError: groups that do not divide the channels, a decay outside of [0, 1), a negative warm-up.
    """

    contract = POWER_NORM
    phi: Tensor
    gradient_average: Tensor
    step: Tensor

    def __init__(
        self,
        channels: int,
        *,
        scaling_groups: int = 1,
        forward_decay: float = 0.9,
        backward_decay: float = 0.9,
        warm_up: int = 10_000,
        **options: Any,
    ) -> None:
        super().__init__(channels, **options)
        if scaling_groups < 1 or channels % scaling_groups:
            raise UsageError(
                f"scaling_groups={scaling_groups} does not divide {channels} channels", hint="use a divisor"
            )
        for name, decay in (("forward_decay", forward_decay), ("backward_decay", backward_decay)):
            if not 0.0 <= decay < 1.0:
                raise UsageError(f"{name}={decay}, it must be at least 0 and less than 1")
        if warm_up < 0:
            raise UsageError(f"warm_up={warm_up}, it must be at least 0 steps")
        self.forward_decay, self.backward_decay, self.warm_up = forward_decay, backward_decay, warm_up
        self.scaling = GroupScaling(scaling_groups, eps=self.eps)

    def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
        scaled = tracked(self.scaling(x))
        with torch.no_grad():
            phi = self.phi.to(x.dtype)
            v = mean_over_positions(scaled.square(), kept, phi)
            self.step += 1
            used = torch.where(self.step <= self.warm_up, v, phi)
        z: Tensor = _PowerScale.apply(
            scaled, v, used, kept, self.gradient_average, self.backward_decay, self.eps
        )
        self._update(v.to(self.phi.dtype))
        return self.with_affine(z)

    @torch.no_grad()
    def _update(self, v: Tensor) -> None:
        """The cumulative mean in warm-up (its last step excluded, as released), and the running one in every step."""
        cumulative = torch.where(self.step < self.warm_up, self.phi + (v - self.phi) / self.step, self.phi)
        self.phi.copy_(self.forward_decay * cumulative + (1.0 - self.forward_decay) * v)

    def eval_affine(self) -> tuple[Tensor, Tensor]:
        return self.folded(torch.rsqrt(self.phi + self.eps))

    def eval_rest(self) -> nn.Module:
        return GroupScaling(self.scaling.groups, eps=self.eps, layout=self.layout.name)

    def eval_form(self, x: Tensor) -> Tensor:
        return super().eval_form(self.scaling(x))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, forward_decay={self.forward_decay:g}, backward_decay={self.backward_decay:g}, "
            f"warm_up={self.warm_up}"
        )


class _PowerScale(torch.autograd.Function):
    """z = x / sqrt(used + eps); back goes (g - (1 - decay) E z) / sqrt(v + eps), and E grows by mean((...) z)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor,
        used: Tensor,
        kept: Tensor | None,
        average: Tensor,
        decay: float,
        eps: float,
    ) -> Tensor:
        z = x / torch.sqrt(used + eps)
        ctx.save_for_backward(z, v)
        ctx.kept, ctx.average, ctx.decay, ctx.eps = kept, average, decay, eps
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, v = ctx.saved_tensors
        approximate = g - (1.0 - ctx.decay) * ctx.average.to(z.dtype, copy=True) * z
        if ctx.kept is not None:
            approximate = approximate * ctx.kept
        with torch.no_grad():
            ctx.average += mean_over_positions(approximate * z, ctx.kept).to(ctx.average.dtype)
        return approximate / torch.sqrt(v + ctx.eps), None, None, None, None, None, None
