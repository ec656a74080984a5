"""What the networks of tokens share: slots and what stands in them by default, feed-forward networks, rotations.

Tensors are (batch, tokens, features). No linear map has a bias.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evonas.proxies.networks.blocks import MakeLayer


class SimpleRMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps)`` over features, no gain (TransNormerLLM, arXiv 2307.14995, section 3.1.4)."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class RMSNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + eps)`` over features (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def in_slot(
    make_layer: MakeLayer, features: int, slot: str, own: Callable[[], nn.Module | None]
) -> nn.Module | None:
    """What ``make_layer`` gives for a slot, or what the network has there itself."""
    given: nn.Module | None = make_layer(features, slot)
    return own() if given is None else given


def filled(make_layer: MakeLayer, features: int, slot: str, own: Callable[[], nn.Module]) -> nn.Module:
    """``in_slot`` for a slot that is never empty."""
    made = in_slot(make_layer, features, slot, own)
    assert made is not None
    return made


class GatedFFN(nn.Module):
    """``down(act(gate(x)) * up(x))``: SwiGLU with SiLU (Shazeer 2020, arXiv 2002.05202), SGLU with the identity."""

    def __init__(self, features: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(features, hidden, bias=False)
        self.up = nn.Linear(features, hidden, bias=False)
        self.act = act
        self.down = nn.Linear(hidden, features, bias=False)

    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``act``: in place of the module's own, for decoding."""
        down: Tensor = self.down((act or self.act)(self.gate(x)) * self.up(x))
        return down


class MLP(nn.Module):
    """``down(act(up(x)))``."""

    def __init__(self, features: int, hidden: int, act: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(features, hidden, bias=False)
        self.act = act
        self.down = nn.Linear(hidden, features, bias=False)

    def forward(self, x: Tensor, act: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        down: Tensor = self.down((act or self.act)(self.up(x)))
        return down


def rotate(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """RoPE (Su et al. 2021, arXiv 2104.09864): feature j and j + D / 2 of token n are turned by n base^(-2 j / D).

    x: (..., T, D), D even. ``offset``: position of the first token.
    """
    half = x.shape[-1] // 2
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rates = base ** (-torch.arange(half, device=x.device, dtype=wide) / half)
    places = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=wide)
    angles = places[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    return x.transpose(1, 2).flatten(2)
