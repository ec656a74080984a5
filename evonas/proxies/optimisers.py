"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evonas.errors import UsageError, unknown_name
from evonas.proxies.adamp import SGDP, AdamP
from evonas.proxies.spec import OPTIMISERS

#: those that divide by the size of the gradients: their rates scale with width as Adam's do.
ADAPTIVE = ("adamw", "adamp")


def make_optimiser(
    name: str,
    groups: Sequence[Mapping[str, Any]],
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """The optimiser ``name``, one of ``OPTIMISERS``.

    Args:
        groups: parameter groups of torch: "params", and if wanted "weight_decay" (0 without it; decoupled from the
            gradient for all but sgd) and "lr_scale", a factor on the group's rate that ``schedules.set_rate`` keeps.
            Groups without parameters are left out.
        lr: rate of a group without "lr_scale".
        momentum, nesterov: of sgd and sgdp. betas, eps: of adamw and adamp.

    Raises UsageError for an unknown name and where there is no parameter at all.
    """
    if name not in OPTIMISERS:
        raise unknown_name("optimiser", name, OPTIMISERS)
    made = [{"weight_decay": 0.0, **g, "lr": lr * g.get("lr_scale", 1.0)} for g in groups if len(g["params"])]
    if not made:
        raise UsageError("there is nothing to train: no group holds a parameter")
    if name == "sgd":
        return torch.optim.SGD(made, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(made, lr=lr, betas=betas, eps=eps, fused=True)
    if name == "sgdp":
        return SGDP(made, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)
    return AdamP(made, lr=lr, betas=betas, eps=eps)
