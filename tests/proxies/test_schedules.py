"""Learning rates: the schedule of before, warm-up, groups with factors."""

import itertools
import math

import pytest

from evonas.errors import UsageError
from evonas.proxies.schedules import rate, set_rate


def test_without_warm_up_as_it_always_was():
    for step in (0, 1, 60, 119):
        assert rate("constant", 0.07, step, 120) == 0.07
        assert rate("cosine", 0.07, step, 120) == 0.07 * 0.5 * (1.0 + math.cos(math.pi * step / 120))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_and_meets_the_schedule(schedule):
    rates = [rate(schedule, 1.0, step, 100, warmup=10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert max(rates) == 1.0
    if schedule == "cosine":
        assert rates[55] == pytest.approx(0.5)  # half of the steps that are left
        assert 0 < rates[-1] < 0.001
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    else:
        assert set(rates[10:]) == {1.0}


def test_groups_keep_their_factors():
    groups = [{"lr": 9.0, "lr_scale": 0.25}, {"lr": 9.0}]
    for value in (0.4, 0.2):
        set_rate(groups, value)
        assert [g["lr"] for g in groups] == [0.25 * value, value]


@pytest.mark.parametrize(
    ("schedule", "total", "warmup"), [("linear", 10, 0), ("cosine", 10, 10), ("cosine", 10, -1)]
)
def test_bad_input_says_what_is_needed(schedule, total, warmup):
    with pytest.raises(UsageError, match=r"schedule|warmup"):
        rate(schedule, 1.0, 0, total, warmup)
