"""NSGA-II against a plain second writing of its survival step, and its steady-state bookkeeping."""

from __future__ import annotations

import math
from collections import Counter

from byte_space import ByteSpace, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution import NSGA2, NSGA2Options
from evonas.evolution.nsga2 import survivors

value = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


def plain_survivors(points: list[tuple[float, ...]], keep: int) -> list[int]:
    """Deb et al. 2002 as on paper: peel fronts by pairwise comparison, cut the last one by crowding."""

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(
            x > y for x, y in zip(a, b, strict=True)
        )

    left = list(range(len(points)))
    kept: list[int] = []
    while len(kept) < keep:
        front = [i for i in left if not any(beats(points[j], points[i]) for j in left)]
        left = [i for i in left if i not in front]
        if len(kept) + len(front) <= keep:
            kept += front
            continue
        crowd = dict.fromkeys(front, 0.0)
        for k in range(len(points[0])):
            line = sorted(front, key=lambda i: (points[i][k], i))
            span = points[line[-1]][k] - points[line[0]][k]
            for at, i in enumerate(line):
                if at in (0, len(line) - 1):
                    crowd[i] = math.inf
                elif span:
                    crowd[i] += (points[line[at + 1]][k] - points[line[at - 1]][k]) / span
        front.sort(key=lambda i: (-crowd[i], i))
        kept += front[: keep - len(kept)]
    return sorted(kept)


@settings(deadline=None)
@given(
    st.lists(st.tuples(value, value, value), min_size=1, max_size=60).flatmap(
        lambda points: st.tuples(st.just(points), st.integers(1, len(points)))
    )
)
def test_survival_equals_the_plain_version(case: tuple[list[tuple[float, ...]], int]) -> None:
    points, keep = case
    chosen, rank, crowding = survivors(points, keep)
    assert chosen == plain_survivors(points, keep)
    assert len(rank) == len(crowding) == keep
    assert min(rank) == 0


def test_generations_end_with_their_last_tell() -> None:
    strategy = NSGA2(ByteSpace(), 5, "search", NSGA2Options(population=4, p_random=0.0))
    for candidate in range(3):
        strategy.tell(candidate, bytes(30), (candidate / 10, 0.5))
        assert strategy.ask(99).origin == "random"
    strategy.tell(3, bytes(30), (0.3, 0.5))
    assert strategy.ask(99).origin == "mutation"
    for candidate in range(4, 7):
        strategy.tell(candidate, bytes(30), (0.9, 0.9))
        strategy.tell(candidate + 100, bytes(30), None)
        assert [m.candidate for m in strategy.population()] == [0, 1, 2, 3]
    strategy.tell(7, bytes(30), (0.0, 0.0))
    assert [m.candidate for m in strategy.population()] == [3, 4, 5, 6]


def test_rank_wins_before_crowding() -> None:
    """Two distinct parents of six meet, each of its own rank: the r-th worst wins r of 15 pairs."""
    strategy = NSGA2(ByteSpace(), 5, "search", NSGA2Options(population=6, p_random=0.0))
    for candidate in range(6):
        strategy.tell(candidate, bytes(30), (float(candidate), float(candidate)))
    asks = 4000
    wins = Counter(strategy.ask(1000 + i).parent for i in range(asks))
    for candidate in range(6):
        p = candidate / 15
        assert abs(wins[candidate] / asks - p) <= 4 * math.sqrt(p * (1 - p) / asks)


def test_the_front_moves_outwards() -> None:
    """On three conflicting objectives the hypervolume-like product of bests grows over generations."""
    strategy = NSGA2(ByteSpace(), 2, "search", NSGA2Options(population=30))
    bests = []
    for candidate in range(1200):
        proposal = strategy.ask(candidate)
        strategy.tell(candidate, proposal.genotype, scores_of(proposal.genotype))
        if candidate in (29, 1199):
            bests.append([max(m.scores[k] for m in strategy.front()) for k in range(3)])
    assert all(late > early for early, late in zip(*bests, strict=True))
