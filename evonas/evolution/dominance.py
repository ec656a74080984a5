"""Pareto dominance over score vectors that are maximised.

``a`` dominates ``b`` if it is at least as good everywhere and better somewhere; equal vectors do not
dominate one another. Ranks of large sets come from moocore (Fonseca, Lopez-Ibanez et al.), small
ones are counted here: below about 20 points the call costs more than the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import ge

from evonas.evolution._protocol import Scores

#: sets of at most this many points are ranked in plain Python.
_SMALL = 20


def dominates(a: Scores, b: Scores) -> bool:
    """True if ``a`` is at least as good as ``b`` in every score and differs from it."""
    return a != b and all(map(ge, a, b))


def non_dominated(points: Sequence[Scores]) -> list[int]:
    """Indices of the points that no other point dominates, ascending; equal points stay together.

    In descending lexicographic order no point is dominated by a later one and the first score needs no
    comparison, so each point meets only the front before it, in its other scores (Kung et al. 1975).
    """
    order = sorted(range(len(points)), key=points.__getitem__, reverse=True)
    front: list[int] = []
    kept: list[Scores] = []
    previous: Scores = ()
    inside = False
    three = bool(points) and len(points[0]) == 3
    for i in order:
        p = points[i]
        if p != previous:
            previous = p
            if three:
                _, y, z = p
                for q in kept:
                    if q[1] >= y and q[2] >= z:
                        inside = False
                        break
                else:
                    inside = True
                    kept.append(p)
            else:
                inside = not any(all(map(ge, q, p)) for q in kept)
                if inside:
                    kept.append(p)
        if inside:
            front.append(i)
    front.sort()
    return front


def ranks(points: Sequence[Scores]) -> list[int]:
    """The front that each point belongs to: 0 for the non-dominated ones, 1 for those left after them, ...

    Non-dominated sorting of Deb et al. 2002 (NSGA-II), section III.A. The points must be finite.
    """
    if len(points) <= _SMALL:
        return _small_ranks(points)
    import moocore
    import numpy as np

    found: list[int] = moocore.pareto_rank(np.array(points, dtype=np.float64), maximise=True).tolist()
    return found


def _small_ranks(points: Sequence[Scores]) -> list[int]:
    result = [0] * len(points)
    left = list(range(len(points)))
    rank = 0
    while left:
        front = {left[k] for k in non_dominated([points[i] for i in left])}
        for i in front:
            result[i] = rank
        left = [i for i in left if i not in front]
        rank += 1
    return result


def crowding_distances(points: Sequence[Scores]) -> list[float]:
    """The crowding distance of every point of one front (Deb et al. 2002, section III.B).

    Per score: the gap between a point's two neighbours over the whole range; the ends get infinity.
    Ties are ordered by position, so the result is a function of the sequence alone.
    """
    n = len(points)
    if n <= 2:
        return [float("inf")] * n
    distance = [0.0] * n
    for column in zip(*points, strict=True):
        order = sorted(range(n), key=column.__getitem__)
        low, high = column[order[0]], column[order[-1]]
        distance[order[0]] = distance[order[-1]] = float("inf")
        span = high - low
        if span > 0:
            for k in range(1, n - 1):
                distance[order[k]] += (column[order[k + 1]] - column[order[k - 1]]) / span
    return distance
