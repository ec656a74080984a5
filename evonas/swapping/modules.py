"""Modules that stand in a model after a swap, beside the layers themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evonas.errors import UsageError
from evonas.swapping.functions import is_marked, passed

VIEWS = ("length", "vector", "flat", "last")


class ChannelAffine(nn.Module):
    """``x * weight + bias`` per channel: what stays of a norm without an activation (Liu et al. 2020, appendix A).

    Input and output: any floating tensor with C channels at ``axis`` (1 or -1). weight, bias: (C,).
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        channels: int,
        axis: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.axis = axis
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.axis] != self.channels:
            raise UsageError(
                f"input of shape {tuple(x.shape)}, an affine needs {self.channels} channels at axis {self.axis}"
            )
        shape = (-1,) + (1,) * (x.dim() - 2) if self.axis == 1 else (-1,)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return x * weight.view(shape) + bias.view(shape)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, axis={self.axis}"


class Viewed(nn.Module):
    """A layer on tensors of another shape than its own layout.

    view: "length", (B, C, L) as (B, C, 1, L). "vector", (B, C) as (B, C, 1, 1). "flat", (B, ..., C) as (B, T, C).
    "last", (B, H, W, C) as (B, C, H, W) in channels_last order, without a copy.
    """

    def __init__(self, layer: nn.Module, view: str) -> None:
        super().__init__()
        if view not in VIEWS:
            raise UsageError(f"unknown view {view!r}", hint=f"use one of {', '.join(VIEWS)}")
        self.layer = layer
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        if self.view == "length":
            out: Tensor = self.layer(x.unsqueeze(2)).squeeze(2)
        elif self.view == "vector":
            out = self.layer(x[:, :, None, None]).flatten(1)
        elif self.view == "flat":
            rows = x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)
            out = self.layer(rows).reshape(x.shape)
        else:
            out = self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out

    def extra_repr(self) -> str:
        return self.view


class SharedActivation(nn.Module):
    """An activation module that a model calls at several places, some of them behind a layer that contains it.

    What such a layer has just made (``functions.Mark``) passes through, everything else is activated.
    """

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if is_marked(x):
            return passed(x, getattr(self.act, "inplace", False))
        out: Tensor = self.act(x)
        return out


def keep_called(module: nn.Module, args: object, output: Tensor) -> None:
    """Forward hook that does nothing: with one, ``nn.TransformerEncoderLayer`` calls its norms in evaluation instead
    of a fused layer norm with their weights."""
