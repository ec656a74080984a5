"""Neutral drift: a candidate that computes the same as a living one is not evaluated, but may be mutated."""

from __future__ import annotations

import pytest
from byte_space import ByteSpace

from evonas.evolution import NSGA2, AgeingEvolution, AgeingOptions, NSGA2Options, RandomSearch

A, B, C = b"a" * 30, b"b" * 30, b"c" * 30


def ageing(**options: object) -> AgeingEvolution:
    given = {"window": 2, "tournament": 1.0, "initial": 0, "p_random": 0.0, "twins": "drift", **options}
    return AgeingEvolution(ByteSpace(), 1, "search", AgeingOptions(**given))  # type: ignore[arg-type]


def test_drift_changes_what_is_mutated_and_nothing_else() -> None:
    strategy = ageing()
    strategy.tell(0, A, (0.9,))
    strategy.tell(1, B, (0.1,))
    before = (strategy.population(), strategy.front(), strategy.survivors)
    digest = strategy.state_digest()
    strategy.tell(2, C, None, twin=0)
    assert (strategy.population(), strategy.front(), strategy.survivors) == before
    assert strategy.state_digest() != digest
    child = strategy.ask(3)
    assert child.parent == 2
    assert sum(x == y for x, y in zip(child.genotype, C, strict=True)) >= 27


def test_a_twin_of_a_dead_member_is_forgotten() -> None:
    strategy = ageing()
    for candidate in range(3):
        strategy.tell(candidate, A, (float(candidate),))
    strategy.tell(3, C, None, twin=0)
    assert strategy.ask(4).parent == 2


def test_twins_that_enter_age_the_others_out_but_stay_off_the_front() -> None:
    strategy = ageing(twins="enter")
    strategy.tell(0, A, (0.9,))
    strategy.tell(1, B, (0.1,))
    strategy.tell(2, C, (0.9,), twin=0)
    assert [m.candidate for m in strategy.population()] == [1, 2]
    assert [m.candidate for m in strategy.front()] == [0]
    strategy.tell(3, C, None, twin=0)
    assert [m.candidate for m in strategy.population()] == [1, 2]


def test_twins_can_be_ignored() -> None:
    strategy = ageing(twins="ignore")
    strategy.tell(0, A, (0.9,))
    strategy.tell(2, C, (0.9,), twin=0)
    assert strategy.ask(3).parent == 0


def test_nsga2_drifts_over_generations() -> None:
    strategy = NSGA2(ByteSpace(), 1, "search", NSGA2Options(population=2, p_random=0.0))
    strategy.tell(0, A, (0.9, 0.9))
    strategy.tell(2, C, None, twin=0)
    strategy.tell(1, B, (0.1, 0.1))
    assert strategy.ask(10).parent == 2
    strategy.tell(3, B, (0.2, 0.2))
    strategy.tell(4, B, (0.3, 0.3))
    assert [m.candidate for m in strategy.population()] == [0, 4]
    assert strategy.ask(10).parent == 2


def test_random_search_only_counts_twins() -> None:
    strategy = RandomSearch(ByteSpace(), 1)
    strategy.tell(0, A, (0.9,))
    strategy.tell(1, A, (0.9,), twin=0)
    assert strategy.told == 2
    assert [m.candidate for m in strategy.population()] == [0]


def test_a_living_candidate_cannot_be_told_again() -> None:
    strategy = ageing()
    strategy.tell(0, A, (0.9,))
    with pytest.raises(ValueError, match="told before"):
        strategy.tell(0, A, (0.9,))
