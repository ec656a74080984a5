"""Statistics of a few paired trainings: means, differences, how often one is above the other, and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

#: Share of intervals that hold the true mean, if differences are normal.
LEVEL = 0.95


def mean_and_std(values: Sequence[float]) -> list[float | None]:
    """Mean and sample standard deviation, None where they do not exist."""
    return [fmean(values) if values else None, stdev(values) if len(values) > 1 else None]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one layer to another over the trainings that both have.

    n: of them. mean, std: of the differences. low, high: the interval of the mean, None for n < 2. wins, ties,
    losses: how often the first is above, equal, below.
    """

    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int

    @classmethod
    def between(cls, own: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
        """``own`` minus ``theirs``, both number of a training -> score; numbers that only one has do not count."""
        values = [own[r] - theirs[r] for r in sorted(own.keys() & theirs.keys())]
        mean, std = mean_and_std(values)
        low, high = interval(values) or (None, None)
        wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
        return cls(len(values), mean, std, low, high, wins, len(values) - wins - losses, losses)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of the mean at ``LEVEL``: mean -+ ``critical(n - 1)`` std / sqrt(n). None for n < 2."""
    if len(values) < 2:
        return None
    mean, half = fmean(values), critical(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


@lru_cache(maxsize=256)
def critical(freedom: int) -> float:
    """The t with probability ``LEVEL`` between -t and t, for that many degrees of freedom (at least 1)."""
    low, high = 0.0, 16.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if central_probability(middle, freedom) < LEVEL else (low, middle)
    return high


def central_probability(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's distribution for a whole number of degrees of freedom, as a finite sum (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4, with theta = atan(t / sqrt(freedom)))."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = math.cos(theta) if odd else 1.0
    # the powers of the cosine go up to freedom - 2, each term by (k + odd) / (k + 1 + odd) from the one before
    for k in range(1, freedom - 2 - odd + 1, 2):
        term *= math.cos(theta) ** 2 * (k + odd) / (k + 1 + odd)
        total += term
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total
