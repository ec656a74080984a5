"""Known layers as one would write them in torch, with functional calls or by hand, for a compiler to fuse.

All take x, then trained per-channel vectors (v1 first where there is one, then weight and bias of the affine), then
running statistics. By hand, the arithmetic is float32 and the variance is torch.var's, which Inductor computes in one
sweep; running statistics are left out there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

GROUPS = 32
EPS = 1e-5


def _layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, w.shape, w, b, EPS)


def _rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, w.shape, w, EPS)


def _gn_silu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, w, b, EPS))


def _gn_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.relu(F.group_norm(x, GROUPS, w, b, EPS))


def _bn_relu(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.relu(F.batch_norm(x, mean, var, w, b, True, 0.1, EPS))


def _column(v: Tensor) -> Tensor:
    return v.view(1, -1, 1, 1)


def _std(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.sqrt(torch.var(x, dims, correction=0, keepdim=True) + EPS)


def _written_bn_relu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    var, mean = torch.var_mean(wide, (0, 2, 3), correction=0, keepdim=True)
    return torch.relu((wide - mean) * torch.rsqrt(var + EPS) * _column(w) + _column(b)).to(x.dtype)


def _written_evonorm_s0(x: Tensor, v1: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    std = _std(wide.view(x.shape[0], GROUPS, -1), (2,))
    swish = wide * torch.sigmoid(_column(v1) * wide)
    return ((swish.view(x.shape[0], GROUPS, -1) / std).view(x.shape) * _column(w) + _column(b)).to(x.dtype)


def _written_evonorm_b0(x: Tensor, v1: Tensor, w: Tensor, b: Tensor) -> Tensor:
    wide = x.float()
    scale = torch.maximum(_std(wide, (0, 2, 3)), _column(v1) * wide + _std(wide, (2, 3)))
    return (wide / scale * _column(w) + _column(b)).to(x.dtype)


#: (layer, spelling) -> function of x, trained vectors and float32 running statistics, and how many there are of each.
SPELLINGS: dict[tuple[str, str], tuple[Callable[..., Tensor], int, int]] = {
    ("layer_norm", "native"): (_layer_norm, 2, 0),
    ("rms_norm", "native"): (_rms_norm, 1, 0),
    ("gn_silu", "native"): (_gn_silu, 2, 0),
    ("gn_relu", "native"): (_gn_relu, 2, 0),
    ("bn_relu", "native"): (_bn_relu, 2, 2),
    ("bn_relu", "written"): (_written_bn_relu, 2, 0),
    ("evonorm_s0", "written"): (_written_evonorm_s0, 3, 0),
    ("evonorm_b0", "written"): (_written_evonorm_b0, 3, 0),
}
