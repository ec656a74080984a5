"""Laws of dominance, and ranks, fronts and crowding against brute force."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.evolution import FrontArchive, Member, crowding_distances, dominates, non_dominated, ranks

# Few distinct values, so that ties and equal vectors are common.
value = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])


def vectors(dimensions: int, size: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[value] * dimensions), min_size=1, max_size=size)


any_vectors = st.integers(1, 4).flatmap(lambda k: vectors(k, 40))


def brute_dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    better = False
    for x, y in zip(a, b, strict=True):
        if x < y:
            return False
        better = better or x > y
    return better


def brute_ranks(points: list[tuple[float, ...]]) -> list[int]:
    """A point's rank is the length of the longest chain of points that dominate one another above it."""

    @functools.cache
    def rank(i: int) -> int:
        above = [rank(j) for j in range(len(points)) if brute_dominates(points[j], points[i])]
        return 1 + max(above) if above else 0

    return [rank(i) for i in range(len(points))]


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda k: st.tuples(*[st.tuples(*[value] * k)] * 3)))
def test_dominance_is_a_strict_partial_order(triple: tuple[tuple[float, ...], ...]) -> None:
    a, b, c = triple
    assert dominates(a, b) == brute_dominates(a, b)
    assert not dominates(a, a)
    assert not (dominates(a, b) and dominates(b, a))
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)


@settings(deadline=None)
@given(any_vectors)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    expected = [i for i, p in enumerate(points) if not any(brute_dominates(q, p) for q in points)]
    assert non_dominated(points) == expected


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda k: vectors(k, 25)))
def test_ranks_equal_the_longest_chain(points: list[tuple[float, ...]]) -> None:
    assert ranks(points) == brute_ranks(points)


@settings(deadline=None)
@given(vectors(3, 14))
def test_ranks_do_not_depend_on_the_size_at_which_the_method_changes(points: list[tuple[float, ...]]) -> None:
    worse = (-9.0, -9.0, -9.0)
    padded = ranks(points + [worse] * 20)
    assert padded[: len(points)] == ranks(points)
    assert padded[-1] == max(ranks(points)) + 1


def test_crowding_by_hand() -> None:
    points = [(0.0, 4.0), (1.0, 2.0), (2.0, 1.0), (4.0, 0.0)]
    inf = math.inf
    assert crowding_distances(points) == [inf, 2 / 4 + 3 / 4, 3 / 4 + 2 / 4, inf]
    assert crowding_distances(points[:2]) == [inf, inf]
    assert crowding_distances([]) == []
    assert crowding_distances([(1.0,)] * 4) == [inf, 0.0, 0.0, inf]


@settings(deadline=None)
@given(st.integers(1, 3).flatmap(lambda k: vectors(k, 60)))
def test_the_archive_is_the_front_of_everything_added(points: list[tuple[float, ...]]) -> None:
    archive = FrontArchive(limit=1000, ties=1000)
    for i, p in enumerate(points):
        archive.add(Member(i, b"", p))
    assert [m.candidate for m in archive.members()] == non_dominated(points)


def test_a_full_archive_keeps_the_ends_and_spreads() -> None:
    archive = FrontArchive(limit=8)
    for i in range(500):
        x = (i * 37 % 500) / 500
        archive.add(Member(i, b"", (x, 1 - x)))
    assert len(archive) <= 10
    xs = sorted(m.scores[0] for m in archive.members())
    assert xs[0] == 0.0
    assert xs[-1] == 499 / 500
    assert max(b - a for a, b in itertools.pairwise(xs)) < 0.4


def test_an_archive_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        FrontArchive(0)


def test_of_equal_scores_the_first_stay() -> None:
    archive = FrontArchive(ties=2)
    taken = [archive.add(Member(i, b"", (0.5, 0.5))) for i in range(4)]
    assert taken == [True, True, False, False]
    assert [m.candidate for m in archive.members()] == [0, 1]
    archive.add(Member(9, b"", (0.5, 0.6)))
    assert [m.candidate for m in archive.members()] == [9]
