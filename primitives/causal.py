"""Moments over the tokens up to the present one: what a causal language model may know of a sequence.

In an index set ``t`` stands for the tokens 0, 1, ..., the present one; the other axes are reduced as by any moment. So
``cmean[t,c](x)`` is one value per sample and token, ``cmean[t](x)`` one per sample, token and channel. Variances are
biased. Each moment also runs token by token with a state of constant size (``step``).

The variance is not E[a^2] - E[a]^2, which loses all digits when the mean is large. With tm and tv, the mean and the
variance of one token over the other axes, and m the mean of the tokens before it, the sum of squares grows by terms
that are never negative (Chan, Golub, LeVeque 1979; Welford 1962 for one value at a time):

    M2[t] = M2[t-1] + n * tv[t] + n * t / (t + 1) * (tm[t] - m[t-1])^2

and means are sums of differences to the first token, which is known at every later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evonas.primitives.definition import EPS, Ops
from evonas.primitives.namespace import Namespace
from evonas.primitives.registry import define

A = Any
OURS = "evonas"


def _token(xp: Namespace, a: A, axes: Sequence[int]) -> A:
    """The mean of every token over the axes but time."""
    return xp.mean(a, axes[1:]) if len(axes) > 1 else a


def _first(a: A, time: int) -> A:
    return a[(slice(None),) * time + (slice(0, 1),)]


def _grad_cmean(ops: Ops, g: A, y: A, a: A, index: Any) -> A:
    return ops.cmean_back(ops.like(g, a), index)


def _step_cmean(xp: Namespace, a: A, axes: Sequence[int], state: Any, eps: float) -> Any:
    token = _token(xp, a, axes)
    if state is None:
        return token, (xp.counts(_first(token, axes[0]), axes[0]), token)
    count, mean = state[0] + 1.0, state[1]
    mean = mean + (token - mean) / count
    return mean, (count, mean)


@define("cmean", kind="moment", causal=True, step=_step_cmean, formula="cmean[{I}]({0})", flops=3,
        latex=r"\overrightarrow{{\mu}}_{{{I}}}\left({0}\right)", source=OURS, gradient=_grad_cmean)  # fmt: skip
def cmean(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """First moment of the tokens up to the present one."""
    token, time = _token(xp, a, axes), axes[0]
    first = _first(token, time)
    return first + xp.cumsum(token - first, time) / xp.counts(token, time)


@define("cmean_back", kind="moment", causal=True, formula="cmean_back[{I}]({0})", flops=3,
        latex=r"\overleftarrow{{\mu}}_{{{I}}}\left({0}\right)", source=OURS,
        gradient=lambda ops, g, y, a, index: ops.cmean(g, index))  # fmt: skip
def cmean_back(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """The adjoint of cmean: what later tokens tell a token. Of gradients alone, it is not causal."""
    token, time = _token(xp, a, axes), axes[0]
    return xp.reverse_cumsum(token / xp.counts(token, time), time)


def _grad_crms(ops: Ops, g: A, y: A, a: A, index: Any) -> A:
    return ops.mul(a, ops.cmean_back(ops.div(g, y), index))


def _step_crms(xp: Namespace, a: A, axes: Sequence[int], state: Any, eps: float) -> Any:
    square, state = _step_cmean(xp, a * a, axes, state, eps)
    return xp.sqrt(square + eps), state


@define("crms", kind="moment", causal=True, step=_step_crms, formula="crms[{I}]({0})", flops=4,
        latex=r"\overrightarrow{{\mathrm{{rms}}}}_{{{I}}}\left({0}\right)", source=OURS, gradient=_grad_crms,
        singular="sqrt(cmean(a^2) + eps)")  # fmt: skip
def crms(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """Root of the uncentred second moment of the tokens up to the present one."""
    token, time = _token(xp, a * a, axes), axes[0]
    return xp.sqrt(xp.cumsum(token, time) / xp.counts(token, time) + eps)


def _grad_cstd(ops: Ops, g: A, y: A, a: A, index: Any) -> A:
    # any constant may be taken from a; the mean over all tokens leaves the fewest digits to cancel
    d = ops.sub(a, ops.mean(a, index))
    q = ops.div(g, y)
    return ops.sub(
        ops.mul(d, ops.cmean_back(q, index)), ops.cmean_back(ops.mul(q, ops.cmean(d, index)), index)
    )


def _within(xp: Namespace, a: A, axes: Sequence[int]) -> A:
    """The variance of every token over the axes but time."""
    if len(axes) == 1:
        return 0.0 * a
    centred = a - xp.mean(a, axes[1:])
    return xp.mean(centred * centred, axes[1:])


def _step_cstd(xp: Namespace, a: A, axes: Sequence[int], state: Any, eps: float) -> Any:
    token, within = _token(xp, a, axes), _within(xp, a, axes)
    if state is None:
        return xp.sqrt(within + eps), (xp.counts(_first(token, axes[0]), axes[0]), token, within)
    count, mean, total = state[0] + 1.0, state[1], state[2]
    away = token - mean
    mean, total = mean + away / count, total + within + away * away * ((count - 1.0) / count)
    return xp.sqrt(total / count + eps), (count, mean, total)


@define("cstd", kind="moment", causal=True, step=_step_cstd, formula="cstd[{I}]({0})", flops=9,
        latex=r"\overrightarrow{{s}}_{{{I}}}\left({0}\right)", source=OURS, gradient=_grad_cstd,
        singular="sqrt(variance + eps)")  # fmt: skip
def cstd(xp: Namespace, a: A, axes: Sequence[int], *, eps: float = EPS) -> A:
    """Root of the biased variance of the tokens up to the present one."""
    token, within, time = _token(xp, a, axes), _within(xp, a, axes), axes[0]
    count = xp.counts(token, time)
    d = token - _first(token, time)
    before = (xp.cumsum(d, time) - d) / xp.at_least(count - 1.0, 1.0)
    away = d - before
    total = xp.cumsum(within + away * away * ((count - 1.0) / count), time)
    return xp.sqrt(total / count + eps)
