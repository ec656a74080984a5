"""Reference layers in plain torch, independent of the layers that evonas builds from graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def groups_of(channels: int) -> int:
    """The largest count up to 32 that divides ``channels`` into groups of two or more channels."""
    return next(g for g in range(min(32, max(1, channels // 2)), 0, -1) if channels % g == 0)


class Core(nn.Module):
    """A function of x, v0, v1 and the running statistics, followed by the per-channel affine."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.v0 = nn.Parameter(torch.zeros(channels))
        self.v1 = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.groups = groups_of(channels)

    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.core(x, self.v0.reshape(-1, 1, 1), self.v1.reshape(-1, 1, 1))
        return y * self.gamma.reshape(-1, 1, 1) + self.beta.reshape(-1, 1, 1)

    def batch_std(self, x: Tensor) -> Tensor:
        if self.training:
            variance = x.var((0, 2, 3), unbiased=False)
            self.variance.mul_(0.9).add_(variance.detach(), alpha=0.1)
        else:
            variance = self.variance
        return (variance + 1e-5).sqrt().reshape(-1, 1, 1)

    def group_std(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        grouped = x.reshape(n, self.groups, -1)
        std = (grouped.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return std.expand_as(grouped).reshape(n, c, h, w)


class EvoNormB0(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        instance = (x.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x / torch.maximum(self.batch_std(x), v1 * x + instance)


class EvoNormS0(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return x * torch.sigmoid(v1 * x) / self.group_std(x)


class FRN(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return torch.maximum(x / (x.square().mean((2, 3), keepdim=True) + 1e-5).sqrt(), v0)


class Identity(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return x


class ReLU(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return F.relu(x)


class SiLU(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return F.silu(x)


class Tanh(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return torch.tanh(x)


class Exp(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return torch.exp(x)


class Square(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return x * x


class Constant(Core):
    def core(self, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
        return v1 + 0 * x.detach()


def bn(activation: type[nn.Module]):
    return lambda channels: nn.Sequential(nn.BatchNorm2d(channels), activation())


def gn(activation: type[nn.Module]):
    return lambda channels: nn.Sequential(nn.GroupNorm(groups_of(channels), channels), activation())


def ln(channels: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(1, channels), nn.ReLU())


def in_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(channels, channels), nn.ReLU())


GOOD = {
    "bn_relu": bn(nn.ReLU),
    "bn_silu": bn(nn.SiLU),
    "gn_relu": gn(nn.ReLU),
    "gn_silu": gn(nn.SiLU),
    "evonorm_b0": EvoNormB0,
    "evonorm_s0": EvoNormS0,
}
BAD = {"identity": Identity, "relu": ReLU, "exp": Exp, "constant": Constant}
OTHER = {"square": Square, "ln_relu": ln, "in_relu": in_relu, "frn": FRN, "silu": SiLU, "tanh": Tanh}
EVERY = {**GOOD, **BAD, **OTHER}
