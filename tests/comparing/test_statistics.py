"""Intervals and paired differences, against tables and against random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from evonas.run.paired import Difference, central_probability, critical, interval

#: Two-sided 5 % points of Student's t, from printed tables.
TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    8: 2.306,
    9: 2.262,
    30: 2.042,
    60: 2.000,
    120: 1.980,
}


@pytest.mark.parametrize(("freedom", "t"), TABLE.items())
def test_critical_values_are_those_of_tables(freedom: int, t: float) -> None:
    assert critical(freedom) == pytest.approx(t, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10])
def test_the_probability_is_the_integral_of_the_density(freedom: int) -> None:
    u = np.linspace(0, 2.5, 200_001)
    middle = (u[1:] + u[:-1]) / 2
    density = (1 + middle**2 / freedom) ** (-(freedom + 1) / 2)
    # the whole line by the substitution t = tan(a) * sqrt(freedom)
    a = np.linspace(0, np.pi / 2, 200_001)
    angle = (a[1:] + a[:-1]) / 2
    whole = (np.cos(angle) ** (freedom - 1)).sum() * (a[1] - a[0]) * np.sqrt(freedom)
    assert central_probability(2.5, freedom) == pytest.approx(density.sum() * (u[1] - u[0]) / whole, abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_ninety_five_of_a_hundred_intervals_hold_the_mean(n: int) -> None:
    rng = np.random.Generator(np.random.PCG64(7))
    held = 0
    for sample in rng.normal(0.3, 0.02, size=(4000, n)):
        low, high = interval(sample.tolist()) or (0.0, 0.0)
        held += low < 0.3 < high
    assert abs(held / 4000 - 0.95) < 0.011  # three standard deviations


def test_differences_are_of_pairs_alone() -> None:
    found = Difference.between({0: 0.5, 1: 0.7, 2: 0.4, 4: 1.0}, {0: 0.25, 1: 0.7, 2: 0.5, 3: 0.0})
    assert (found.n, found.wins, found.ties, found.losses) == (3, 1, 1, 1)
    assert found.mean == pytest.approx(0.05)
    assert found.std == pytest.approx(np.std([0.25, 0.0, -0.1], ddof=1))
    half = 4.302653 * np.std([0.25, 0.0, -0.1], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(0.05 - half), pytest.approx(0.05 + half))
    one = Difference.between({0: 0.5}, {0: 0.5})
    assert (one.n, one.mean, one.std, one.low, one.high, one.ties) == (1, 0.0, None, None, None, 1)
    none = Difference.between({0: 0.5}, {1: 0.5})
    assert (none.n, none.mean, none.low, none.wins, none.ties, none.losses) == (0, None, None, 0, 0, 0)
