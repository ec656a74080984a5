"""Ageing evolution: the order of age, the tournament, the share of random proposals."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from byte_space import ByteSpace, member, scores_of

from evonas.evolution import PAPER, SCALED, AgeingEvolution, AgeingOptions, make_strategy
from evonas.evolution.selection import average, pareto
from evonas.rng import Draws


def ageing(**options: object) -> AgeingEvolution:
    return AgeingEvolution(ByteSpace(), 3, "search", AgeingOptions(**options))  # type: ignore[arg-type]


def test_the_papers_numbers() -> None:
    assert (PAPER.window, PAPER.p_random, PAPER.selection) == (2500, 0.5, "pareto")
    assert PAPER.tournament_size(2500) == 125
    assert SCALED.tournament_size(100) == 5
    assert SCALED.tournament_size(30) == 5
    assert SCALED.tournament_size(3) == 3


@pytest.mark.parametrize(("alive", "size"), [(100, 5), (101, 6), (500, 25), (1, 1), (4, 4)])
def test_a_share_rounds_up_and_never_exceeds_the_living(alive: int, size: int) -> None:
    assert AgeingOptions(tournament=0.05, tournament_min=5).tournament_size(alive) == size


def test_age_is_the_order_of_tell_not_of_the_ids() -> None:
    strategy = ageing(window=4)
    for candidate in (7, 2, 9, 0, 5, 1):
        strategy.tell(candidate, b"g", (float(candidate),))
    assert [m.candidate for m in strategy.population()] == [9, 0, 5, 1]


def test_rejected_candidates_take_no_place_unless_asked_to() -> None:
    plain, keeping = ageing(window=3), ageing(window=3, keep_rejected=True)
    for strategy in (plain, keeping):
        for candidate in range(3):
            strategy.tell(candidate, b"g", (0.5,))
        strategy.tell(3, b"bad", None)
        strategy.tell(4, b"bad", None)
    assert [m.candidate for m in plain.population()] == [0, 1, 2]
    assert [m.candidate for m in keeping.population()] == [2]
    assert plain.told == keeping.told == 5
    assert plain.survivors == keeping.survivors == 3


def test_a_window_full_of_rejected_candidates_still_proposes() -> None:
    strategy = ageing(window=2, keep_rejected=True, initial=0, p_random=0.0)
    for candidate in range(4):
        strategy.tell(candidate, b"bad", None)
    assert strategy.ask(4).origin == "random"


def test_proposals_are_random_until_enough_survived() -> None:
    strategy = ageing(window=10, initial=6, p_random=0.0)
    origins = []
    for candidate in range(12):
        proposal = strategy.ask(candidate)
        origins.append(proposal.origin)
        scores = None if candidate % 2 else scores_of(proposal.genotype)
        strategy.tell(candidate, proposal.genotype, scores)
    assert origins == ["random"] * 11 + ["mutation"]


def test_a_child_differs_from_its_parent_in_one_node_and_names_it() -> None:
    strategy = ageing(window=20, initial=5, p_random=0.0)
    genotypes = {}
    for candidate in range(60):
        proposal = strategy.ask(candidate)
        genotypes[candidate] = proposal.genotype
        if proposal.parent is not None:
            parent = genotypes[proposal.parent]
            changed = {i // 3 for i in range(30) if parent[i] != proposal.genotype[i]}
            assert len(changed) <= 1
        strategy.tell(candidate, proposal.genotype, scores_of(proposal.genotype))


@pytest.mark.parametrize("p_random", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_random_proposals(p_random: float) -> None:
    strategy = ageing(window=10, initial=1, p_random=p_random)
    for candidate in range(10):
        strategy.tell(candidate, bytes(30), (float(candidate),))
    n = 4000
    found = sum(strategy.ask(100 + i).origin == "random" for i in range(n)) / n
    assert abs(found - p_random) <= 4 * math.sqrt(p_random * (1 - p_random) / n)


def test_how_often_each_rank_wins_a_tournament() -> None:
    """With one score the best of k out of n wins: rank r (0 the best) with C(n-1-r, k-1) / C(n, k)."""
    n, k, asks = 12, 4, 6000
    strategy = ageing(window=n, tournament=k, initial=0, p_random=0.0)
    order = [5, 0, 11, 3, 8, 1, 7, 10, 2, 9, 6, 4]
    for candidate in order:
        strategy.tell(candidate, bytes(30), (float(candidate),))
    wins = Counter(strategy.ask(1000 + i).parent for i in range(asks))
    for rank in range(n):
        p = math.comb(n - 1 - rank, k - 1) / math.comb(n, k)
        found = wins[n - 1 - rank] / asks
        assert abs(found - p) <= 4 * math.sqrt(p * (1 - p) / asks), (rank, found, p)


def test_a_pareto_tournament_draws_evenly_from_its_front() -> None:
    """All meet: the three non-dominated ones share the wins, the dominated one never wins."""
    strategy = ageing(window=4, tournament=1.0, initial=0, p_random=0.0)
    for m in (member(0, 1.0, 0.0), member(1, 0.0, 0.0), member(2, 0.5, 0.5), member(3, 0.0, 1.0)):
        strategy.tell(m.candidate, bytes(30), m.scores)
    asks = 3000
    wins = Counter(strategy.ask(10 + i).parent for i in range(asks))
    assert wins[1] == 0
    for candidate in (0, 2, 3):
        assert abs(wins[candidate] / asks - 1 / 3) <= 4 * math.sqrt(2 / 9 / asks)


def test_average_selection_takes_the_best_mean_where_pareto_draws() -> None:
    points = [(1.0, 0.0), (0.6, 0.6), (0.0, 1.0), (0.5, 0.5)]
    assert {average(points, Draws("t", i)) for i in range(50)} == {1}
    assert {pareto(points, Draws("t", i)) for i in range(50)} == {0, 1, 2}
    assert {average([(0.5,), (0.5,), (0.1,)], Draws("t", i)) for i in range(50)} == {0, 1}


def test_seeds_take_the_first_ids() -> None:
    seeds = [b"a" * 30, b"b" * 30]
    strategy = make_strategy("ageing", ByteSpace(), 0, "search", seeds=seeds)
    assert [strategy.ask(i).genotype for i in (1, 0)] == [b"b" * 30, b"a" * 30]
    assert strategy.ask(0).origin == "seed"
    assert strategy.ask(2).origin == "random"
