"""Means with padding, and small autograd pieces that layers with state share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import UsageError


def mean_over_positions(a: Tensor, kept: Tensor | None, otherwise: Tensor | None = None) -> Tensor:
    """Mean of (B, N, C) over B and N where ``kept`` (B, N, 1) is 1, as (C,); ``otherwise`` (0 by default) if
    nothing is kept."""
    if kept is None:
        return a.mean((0, 1))
    count = kept.sum()
    mean = torch.where(kept > 0, a, 0.0).sum((0, 1)) / count.clamp(min=1.0)
    empty = torch.zeros_like(mean) if otherwise is None else otherwise.to(mean.dtype)
    return torch.where(count > 0, mean, empty)


def tracked(x: Tensor) -> Tensor:
    """x, made to require a gradient in training, so that the backward pass, which updates buffers, always runs."""
    return x if x.requires_grad or not torch.is_grad_enabled() else x.detach().requires_grad_()


class ScaledGradient(torch.autograd.Function):
    """The identity; what goes back is multiplied by a constant ``factor``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor.to(grad.dtype), None


class GroupScaling(nn.Module):
    """x / sqrt(mean of squares + eps) over the channels of each of ``groups`` groups, for every position by itself.

    Takes (B, T, C) for layout "btc" and (B, C, H, W) for "nchw". Half precision is computed in float32.
    """

    def __init__(self, groups: int = 1, *, eps: float = 1e-5, layout: str = "btc") -> None:
        super().__init__()
        self.groups, self.eps, self.layout = groups, eps, layout

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        at = 1 if self.layout == "nchw" else x.dim() - 1
        if x.shape[at] % self.groups:
            raise UsageError(f"{self.groups} groups do not divide {x.shape[at]} channels")
        split = wide.unflatten(at, (self.groups, -1))
        scaled = split / torch.sqrt(split.square().mean(at + 1, keepdim=True) + self.eps)
        return scaled.flatten(at, at + 1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps:g}, layout={self.layout!r}"
