"""Every layer of the zoo written by hand in plain torch: the closed forms that modules are held against."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
MOMENTUM = 0.1


class Running:
    """Running averages by name, updated as the released EvoNorm-B0 code does (biased moments)."""

    def __init__(self, channels: int) -> None:
        self.training = True
        self.values: dict[str, Tensor] = {}
        self.channels = channels

    def __call__(self, name: str, moment: Tensor) -> Tensor:
        start = 0.0 if name == "mean" else 1.0
        old = self.values.get(name, torch.full((1, self.channels, 1, 1), start, dtype=torch.float64))
        self.values.setdefault(name, old)
        if not self.training:
            return old
        self.values[name] = (1 - MOMENTUM) * old + MOMENTUM * moment.detach()
        return moment


Form = Callable[[Tensor, Tensor, Tensor, Running, int], Tensor]


def group_view(x: Tensor, groups: int) -> Tensor:
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:])


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """mean, variance and mean square per sample and group, expanded to the shape of x."""
    g = group_view(x, groups)
    mean = g.mean((2, 3, 4), keepdim=True)
    variance = g.var((2, 3, 4), unbiased=False, keepdim=True)
    square = g.pow(2).mean((2, 3, 4), keepdim=True)
    return tuple(m.expand_as(g).reshape(x.shape) for m in (mean, variance, square))  # type: ignore[return-value]


def instance_variance(x: Tensor) -> Tensor:
    return x.var((2, 3), unbiased=False, keepdim=True)


def batch_variance(x: Tensor) -> Tensor:
    return x.var((0, 2, 3), unbiased=False, keepdim=True)


def bn(x: Tensor, running: Running, groups: int) -> Tensor:
    mean = running("mean", x.mean((0, 2, 3), keepdim=True))
    return (x - mean) / torch.sqrt(running("var", batch_variance(x)) + EPS)


NORMS: dict[str, Callable[[Tensor, Running, int], Tensor]] = {
    "bn": bn,
    "gn": lambda x, running, groups: F.group_norm(x, groups, eps=EPS),
    "in": lambda x, running, groups: (
        (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(instance_variance(x) + EPS)
    ),
    "ln": lambda x, running, groups: F.layer_norm(x, x.shape[1:], eps=EPS),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": F.silu,
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
}


def _norm_act(norm: str, act: str) -> Form:
    return lambda x, v0, v1, running, groups: ACTIVATIONS[act](NORMS[norm](x, running, groups))


def evonorm_b0(x: Tensor, v0: Tensor, v1: Tensor, running: Running, groups: int) -> Tensor:
    batch = torch.sqrt(running("var", batch_variance(x)) + EPS)
    return x / torch.maximum(batch, v1 * x + torch.sqrt(instance_variance(x) + EPS))


def evonorm_b1(x: Tensor, v0: Tensor, v1: Tensor, running: Running, groups: int) -> Tensor:
    batch = torch.sqrt(running("var", batch_variance(x)) + EPS)
    return x / torch.maximum(batch, (x + 1) * torch.sqrt(x.pow(2).mean((2, 3), keepdim=True) + EPS))


def evonorm_b2(x: Tensor, v0: Tensor, v1: Tensor, running: Running, groups: int) -> Tensor:
    batch = torch.sqrt(running("var", batch_variance(x)) + EPS)
    return x / torch.maximum(batch, torch.sqrt(x.pow(2).mean((2, 3), keepdim=True) + EPS) - x)


FORMS: dict[str, Form] = {
    **{f"{norm}_{act}": _norm_act(norm, act) for norm in NORMS for act in ACTIVATIONS},
    "frn": lambda x, v0, v1, running, groups: torch.maximum(
        x * torch.rsqrt(x.pow(2).mean((2, 3), keepdim=True) + EPS), v0
    ),
    "dyt": lambda x, v0, v1, running, groups: torch.tanh(0.5 * v1 * x),
    "derf": lambda x, v0, v1, running, groups: torch.erf(0.5 * v1 * x + v0),
    # the one parameter of a layer, where it has one, comes in the place of v0 and v1
    "dyt_scalar": lambda x, s0, s1, running, groups: torch.tanh(0.5 * s1 * x),
    "derf_scalar": lambda x, s0, s1, running, groups: torch.erf(0.5 * s1 * x + s0),
    "rms_norm": lambda x, v0, v1, running, groups: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + EPS),
    "simple_rms_norm": lambda x, v0, v1, running, groups: (
        x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + EPS)
    ),
    "layer_norm": lambda x, v0, v1, running, groups: F.layer_norm(
        x.movedim(1, -1), x.shape[1:2], eps=EPS
    ).movedim(-1, 1),
    "evonorm_b0": evonorm_b0,
    "evonorm_b1": evonorm_b1,
    "evonorm_b2": evonorm_b2,
    "evonorm_s0": lambda x, v0, v1, running, groups: (
        x * torch.sigmoid(v1 * x) / torch.sqrt(group_moments(x, groups)[1] + EPS)
    ),
    "evonorm_s1": lambda x, v0, v1, running, groups: (
        F.silu(x) / torch.sqrt(group_moments(x, groups)[1] + EPS)
    ),
    "evonorm_s2": lambda x, v0, v1, running, groups: (
        F.silu(x) / torch.sqrt(group_moments(x, groups)[2] + EPS)
    ),
    "relu": lambda x, v0, v1, running, groups: torch.relu(x),
    "silu": lambda x, v0, v1, running, groups: F.silu(x),
    "gelu": lambda x, v0, v1, running, groups: F.gelu(x),
    "identity": lambda x, v0, v1, running, groups: x,
}
