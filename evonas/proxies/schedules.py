"""Learning rates as a function of the step: nothing is remembered, so a training can be split anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableMapping
from typing import Any

from evonas.errors import UsageError, unknown_name
from evonas.proxies.spec import SCHEDULES


def rate(schedule: str, lr: float, step: int, total: int, warmup: int = 0) -> float:
    """The learning rate of step ``step`` (from 0) of ``total``.

    ``warmup``: steps over which the rate rises linearly to ``lr``: lr (step + 1) / warmup, so that no step is lost
    at rate 0. After it ``constant`` stays at ``lr`` and ``cosine`` falls as lr (1 + cos(pi t)) / 2, where t goes from
    0 at the end of the warm-up to 1 at ``total`` (Loshchilov and Hutter 2017, arXiv 1608.03983, one period).

    Raises UsageError for an unknown schedule, and for a warm-up that leaves no step of the schedule.
    """
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if not 0 <= warmup < max(total, 1):
        raise UsageError(f"warmup is {warmup} steps, needed is from 0 to below all {total} steps")
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == "constant":
        return lr
    return lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_rate(groups: Iterable[MutableMapping[str, Any]], rate: float) -> None:
    """Give every group of an optimiser its rate: ``rate`` times the group's own "lr_scale" (1 where it has none)."""
    for group in groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
