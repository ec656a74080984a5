"""Who wins a tournament."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evonas.evolution._protocol import Scores
from evonas.evolution.dominance import non_dominated
from evonas.rng import Draws

Selection = Callable[[Sequence[Scores], Draws], int]


def pareto(points: Sequence[Scores], draws: Draws) -> int:
    """The index of a uniformly drawn one of the points that no other dominates (the paper's choice)."""
    front = non_dominated(points)
    return front[0] if len(front) == 1 else draws.choice(front)


def average(points: Sequence[Scores], draws: Draws) -> int:
    """The index of the highest mean score; of equal ones, a uniformly drawn one.

    The mean is exactly rounded (``math.fsum``), because the built-in ``sum`` adds floats in another way from
    Python 3.12 on and a replay must not depend on that.
    """
    means = [math.fsum(p) for p in points]
    best = max(means)
    winners = [i for i, m in enumerate(means) if m == best]
    return winners[0] if len(winners) == 1 else draws.choice(winners)


SELECTIONS: dict[str, Selection] = {"pareto": pareto, "average": average}
