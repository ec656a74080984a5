"""Interval arithmetic: what lets guards of denominators that cannot be small be dropped."""

from __future__ import annotations

import math

Interval = tuple[float, float]
_UNKNOWN = (-math.inf, math.inf)


def _exp(v: float) -> float:
    return math.exp(v) if v < 700 else math.inf


def _inverse(low: float, high: float) -> Interval:
    if low > 0:
        return (0.0 if high == math.inf else 1 / high, 1 / low)
    return (0.0, math.inf) if low == 0 else _UNKNOWN


def bounds(op: str, ids: tuple[int, ...], args: list[Interval]) -> Interval:
    """The interval of an operation's result from those of its arguments; ``ids`` tells equal arguments."""
    (a, b), (c, d) = args[0], args[-1]
    if op == "mean":
        return a, b
    if op == "add":
        return a + c, b + d
    if op == "sub":
        return (0.0, 0.0) if ids[0] == ids[1] else (a - d, b - c)
    if op == "mul":
        if ids[0] == ids[1]:
            return 0.0, math.inf
        return (a * c if min(a, c) > 0 else 0.0, math.inf) if a >= 0 and c >= 0 else _UNKNOWN
    if op == "div":
        return (0.0, math.inf) if a >= 0 and c > 0 else _UNKNOWN
    if op == "neg":
        return -b, -a
    if op == "abs":
        return (max(a, -b, 0.0), max(-a, b))
    if op == "max":
        return max(a, c), max(b, d)
    if op == "min":
        return min(a, c), min(b, d)
    if op == "exp":
        return _exp(a), _exp(b)
    if op == "var":
        return 0.0, math.inf
    if op == "sqrt":
        return math.sqrt(max(a, 0.0)), math.inf if b == math.inf else math.sqrt(max(b, 0.0))
    if op == "rsqrt":
        return _inverse(math.sqrt(max(a, 0.0)), math.sqrt(max(b, 0.0)) if b != math.inf else b)
    if op == "recip":
        return _inverse(a, b)
    if op in ("sigmoid", "lt", "gt"):
        return 0.0, 1.0
    if op in ("tanh", "erf"):
        return -1.0, 1.0
    if op == "where":
        (e, f) = args[1]
        return min(e, c), max(f, d)
    return _UNKNOWN
