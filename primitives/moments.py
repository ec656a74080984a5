"""The three moments over a named index set (Liu et al. 2020, Table 1, "aggregation").

Variances are biased (divide by n) and computed in two passes. The epsilon sits inside the square root, as in
the released layers, so a moment of second order is never below sqrt(eps).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evonas.primitives.definition import EPS, Ops
from evonas.primitives.namespace import Namespace
from evonas.primitives.registry import define

A = Any
EVONORM = "Liu et al. 2020, Table 1"


@define("mean", kind="moment", formula="mean[{I}]({0})", latex=r"\mu_{{{I}}}\left({0}\right)", triton="rmean({0})",
        source=EVONORM, gradient=lambda ops, g, y, a, index: ops.mean(g, index))  # fmt: skip
def mean(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """First moment."""
    return xp.mean(a, axes)


def _grad_rms(ops: Ops, g: A, y: A, a: A, index: Any) -> A:
    return ops.mul(ops.div(a, y), ops.mean(g, index))


@define("rms", kind="moment", formula="rms[{I}]({0})", latex=r"\mathrm{{rms}}_{{{I}}}\left({0}\right)", flops=3,
        triton="tl.sqrt(rmean({0} * {0}) + {eps})", source=EVONORM, gradient=_grad_rms,
        singular="sqrt(mean(a^2) + eps)")  # fmt: skip
def rms(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """Root of the uncentred second moment."""
    return xp.sqrt(xp.mean(a * a, axes) + eps)


def _grad_std(ops: Ops, g: A, y: A, a: A, index: Any) -> A:
    return ops.mul(ops.div(ops.sub(a, ops.mean(a, index)), y), ops.mean(g, index))


@define("std", kind="moment", formula="std[{I}]({0})", latex=r"s_{{{I}}}\left({0}\right)", flops=5,
        triton="tl.sqrt(rmean(({0} - rmean({0})) * ({0} - rmean({0}))) + {eps})", source=EVONORM,
        gradient=_grad_std, singular="sqrt(variance + eps)")  # fmt: skip
def std(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """Root of the biased variance."""
    centred = a - xp.mean(a, axes)
    return xp.sqrt(xp.mean(centred * centred, axes) + eps)
