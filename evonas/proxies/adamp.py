"""AdamP and SGDP (Heo et al. 2021, arXiv 2006.08217): momentum without growing the weights it cannot shrink.

The loss does not change with the length of a weight whose output is normalised, so its gradient is at right angles
to it and every step makes it longer, momentum most of all: the effective rate decays for no reason of the schedule.
Both optimisers take the radial part out of the update where the gradient says that a weight is such a one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from evonas.errors import UsageError


def project(
    update: Tensor, gradient: Tensor, weight: Tensor, *, delta: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The update without its radial part where the weight is scale-invariant, and which view fired.

    Two views of a weight of shape (n, ...) are tried: its n rows, then all of it as one row. A view of rows of d
    numbers fires if max over rows of abs(cos(gradient, weight)) < delta / sqrt(d); then every row loses its part along
    w / (norm(w) + eps). The first view that fires is the one that counts (equation 11 and section 3 of the paper).

    Args:
        update, gradient, weight: float, of the same shape, of two axes or more.

    Returns:
        The update, and a scalar of the same type: 0 if no view fired, 1 for the rows, 2 for the whole. It stays on
        the device, and nothing waits for it.
    """
    result, fired = update, torch.zeros((), dtype=update.dtype, device=update.device)
    for view, rows in ((2.0, 1), (1.0, weight.shape[0])):
        w, g, p = (t.reshape(rows, -1) for t in (weight, gradient, update))
        length = w.norm(dim=1, keepdim=True).add_(eps)
        cosine = (w * g).sum(1, keepdim=True) / length / (g.norm(dim=1, keepdim=True) + eps)
        fires = cosine.abs().max() < delta / math.sqrt(w.shape[1])
        unit = w / length
        tangential = p - unit * (unit * p).sum(1, keepdim=True)
        # the rows come last, so that they are the ones that count if both fire
        result = torch.where(fires, tangential.reshape(update.shape), result)
        fired = torch.where(fires, torch.full_like(fired, view), fired)
    return result, fired


class _Projecting(torch.optim.Optimizer):
    """What the two share: the projected, decayed step and the counters of how often it was one."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay", "eps", "delta", "wd_ratio"):
            value = defaults[name]
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value!r}, needed is a number, at least 0")
        # counters belong to the groups, whose values a state dict keeps as they are
        super().__init__(params, defaults | {"seen": 0, "fired_rows": 0.0, "fired_whole": 0.0})

    def _move(self, group: dict[str, Any], weight: Tensor, update: Tensor, lr: float, decay: float) -> None:
        """w <- w (1 - decay ratio) - lr update, in place; ``decay`` holds the rate already."""
        ratio: float | Tensor = 1.0
        if weight.ndim > 1:
            assert weight.grad is not None
            update, fired = project(update, weight.grad, weight, delta=group["delta"], eps=group["eps"])
            group["seen"] += 1
            group["fired_rows"] = group["fired_rows"] + (fired == 1).double()
            group["fired_whole"] = group["fired_whole"] + (fired == 2).double()
            ratio = 1.0 - (1.0 - group["wd_ratio"]) * (fired > 0).to(weight.dtype)
        if decay:
            weight.mul_(1.0 - decay * ratio)
        weight.add_(update, alpha=-lr)

    @property
    def fired(self) -> dict[str, int]:
        """Over all steps so far: ``seen`` updates of weights of two and more axes, and of these those that were
        projected by rows (``rows``) and as a whole (``whole``). Reading it waits for the device."""
        groups = self.param_groups
        return {
            "seen": sum(g["seen"] for g in groups),
            "rows": int(sum(float(g["fired_rows"]) for g in groups)),
            "whole": int(sum(float(g["fired_whole"]) for g in groups)),
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; ``closure`` recomputes the loss, which is returned then."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step(group, weights)
        return loss

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        raise NotImplementedError


class AdamP(_Projecting):
    """Adam with the projection and a weight decay that is decoupled from the gradient.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p = m / (sqrt(v / (1 - b2^t)) + eps) (``nesterov``: with
    b1 m + (1 - b1) g in place of m), p projected, w <- w (1 - lr wd r) - lr / (1 - b1^t) p with r = ``wd_ratio`` where
    the projection fired and 1 elsewhere. Weights of one axis are never projected.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
    ) -> None:
        if not all(0 <= b < 1 for b in betas):
            raise UsageError(f"betas are {betas!r}, needed are two numbers from 0 to below 1")
        super().__init__(
            params,
            {
                "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "delta": delta,
                "wd_ratio": wd_ratio, "nesterov": nesterov,
            },
        )  # fmt: skip

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        first, second = group["betas"]
        for p in weights:
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
        gradients: list[Tensor] = [p.grad for p in weights if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in weights]
        squares = [self.state[p]["exp_avg_sq"] for p in weights]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        directions = torch._foreach_lerp(means, gradients, 1 - first) if group["nesterov"] else means
        roots = torch._foreach_sqrt(squares)
        corrections = [math.sqrt(1 - second ** self.state[p]["step"]) for p in weights]
        torch._foreach_div_(roots, corrections)
        torch._foreach_add_(roots, group["eps"])
        for p, update in zip(weights, torch._foreach_div(directions, roots), strict=True):
            lr = group["lr"] / (1 - first ** self.state[p]["step"])
            self._move(group, p, update, lr, group["lr"] * group["weight_decay"])


class SGDP(_Projecting):
    """SGD with momentum and the projection.

    m <- mu m + g (the first step: m = g), p = m (``nesterov``: g + mu m), p projected, then
    w <- w (1 - lr wd r / (1 - mu)) - lr p: the decay acts on the weight and, since a gradient of SGD with momentum
    acts 1 / (1 - mu) times, is as strong as that of SGD where nothing fires.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
    ) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum is {momentum!r}, needed is a number from 0 to below 1")
        super().__init__(
            params,
            {
                "lr": lr, "momentum": momentum, "nesterov": nesterov, "eps": eps, "weight_decay": weight_decay,
                "delta": delta, "wd_ratio": wd_ratio,
            },
        )  # fmt: skip

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        momentum = group["momentum"]
        for p in weights:
            assert p.grad is not None
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = p.grad.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(p.grad)
            moved = state["momentum_buffer"]
            update = p.grad.add(moved, alpha=momentum) if group["nesterov"] else moved
            lr = group["lr"]
            self._move(group, p, update, lr, lr * group["weight_decay"] / (1 - momentum))
