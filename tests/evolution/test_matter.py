"""When a partly trained candidate is turned away, and what it is told."""

from __future__ import annotations

import json

import pytest
from byte_space import member
from hypothesis import given, settings
from hypothesis import strategies as st

from evonas.errors import UsageError
from evonas.evolution import can_still_matter, dominates, make_bar

PROXIES = ("resnet", "mobile", "efficient")
#: twenty incumbents whose proxies agree perfectly: 0.00, 0.05, ... 0.95
AGREEING = [member(i, *[i / 20] * 3) for i in range(20)]
#: twenty-seven whose proxies know nothing of one another: every combination of three levels
INDEPENDENT = [member(i, i % 3 / 2, i // 3 % 3 / 2, i // 9 / 2) for i in range(27)]


def test_without_a_bar_or_with_few_incumbents_everything_matters() -> None:
    assert can_still_matter({"resnet": 0.0}, PROXIES, None) == (True, {"incumbents": 0})
    few = make_bar(AGREEING[:7])
    assert can_still_matter({"resnet": -1.0}, PROXIES, few) == (True, {"incumbents": 7, "needed": 8})
    assert can_still_matter({}, PROXIES, make_bar(AGREEING))[0]


def test_a_hopeless_candidate_is_turned_away_with_the_numbers() -> None:
    verdict, evidence = can_still_matter({"resnet": 0.01}, PROXIES, make_bar(AGREEING))
    assert not verdict
    # one incumbent is at or below 0.01, so its standing is 1/20 and it is granted the quantile 6/20
    assert evidence["standing"] == 1 / 20
    assert evidence["optimistic"] == {"resnet": 0.01, "mobile": 6 / 20, "efficient": 6 / 20}
    assert evidence["dominating"] == 14
    assert evidence["incumbents"] == 20
    assert evidence["by"] == 19
    assert json.loads(json.dumps(evidence)) == evidence


def test_a_middling_candidate_goes_on_where_proxies_agree() -> None:
    assert can_still_matter({"resnet": 0.45}, PROXIES, make_bar(AGREEING))[0]


def test_where_proxies_disagree_a_weak_first_score_goes_on() -> None:
    """The lowest level on the first proxy: 12 of 27 have the middle level or more on both others."""
    verdict, evidence = can_still_matter({"resnet": 0.0}, PROXIES, make_bar(INDEPENDENT))
    assert verdict
    assert evidence["optimistic"] == {"resnet": 0.0, "mobile": 0.5, "efficient": 0.5}
    assert evidence["dominating"] == 11
    assert not can_still_matter({"resnet": 0.0, "mobile": 0.0}, PROXIES, make_bar(INDEPENDENT))[0]


def test_full_slack_and_a_margin_turn_nothing_away_before_the_last_proxy() -> None:
    bar = make_bar(AGREEING, slack=1.0, margin=0.01)
    assert can_still_matter({"resnet": -9.0, "mobile": -9.0}, PROXIES, bar)[0]
    assert not can_still_matter(dict.fromkeys(PROXIES, -9.0), PROXIES, bar)[0]


def test_the_average_bar_is_a_quantile_of_the_means() -> None:
    bar = make_bar(AGREEING, "average", slack=0.0)
    assert can_still_matter({"resnet": 0.5}, PROXIES, bar)[0]
    verdict, evidence = can_still_matter({"resnet": 0.3}, PROXIES, bar)
    assert not verdict
    assert evidence["threshold"] == 0.5
    assert evidence["mean"] < 0.5
    assert evidence["by"] == 19


def test_a_bar_survives_json_and_stays_small() -> None:
    crowd = [member(i, i / 3000, 0.5, 0.5) for i in range(3000)]
    bar = make_bar(crowd, limit=64)
    assert len(bar["scores"]) == 64
    assert (bar["candidates"][0], bar["candidates"][1]) == (0, 46)
    again = json.loads(json.dumps(bar))
    assert can_still_matter({"resnet": 0.1}, PROXIES, again) == can_still_matter(
        {"resnet": 0.1}, PROXIES, bar
    )


score = st.sampled_from([0.0, 0.1, 0.2, 0.4, 0.5, 0.8, 1.0])
crowds = st.lists(st.tuples(score, score, score), min_size=8, max_size=30)


@settings(deadline=None)
@given(crowds, st.lists(score, min_size=1, max_size=3), st.sampled_from(["pareto", "average"]))
def test_more_known_score_never_hurts(
    rows: list[tuple[float, ...]], known: list[float], selection: str
) -> None:
    bar = make_bar([member(i, *r) for i, r in enumerate(rows)], selection)
    scores = dict(zip(PROXIES, known, strict=False))
    verdict, _ = can_still_matter(scores, PROXIES, bar)
    better, _ = can_still_matter({p: s + 0.05 for p, s in scores.items()}, PROXIES, bar)
    assert better or not verdict


@settings(deadline=None)
@given(crowds, st.lists(score, min_size=1, max_size=3))
def test_who_is_named_does_beat_the_optimistic_scores(
    rows: list[tuple[float, ...]], known: list[float]
) -> None:
    incumbents = [member(i + 50, *r) for i, r in enumerate(rows)]
    scores = dict(zip(PROXIES, known, strict=False))
    verdict, evidence = can_still_matter(scores, PROXIES, make_bar(incumbents))
    optimistic = tuple(evidence["optimistic"][p] for p in PROXIES)
    dominating = [m.candidate for m in incumbents if dominates(m.scores, optimistic)]
    assert len(dominating) == evidence["dominating"]
    assert verdict == (len(dominating) < 0.5 * len(rows))
    if not verdict:
        assert evidence["by"] in dominating


@pytest.mark.parametrize(
    "bad",
    [{"share": 1.5}, {"slack": -0.1}, {"minimum": 0}, {"margin": float("nan")}, {"limit": 4}],
)
def test_bars_out_of_range_are_usage_errors(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        make_bar(AGREEING, **bad)  # type: ignore[arg-type]


def test_a_bar_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="the bar has 3 scores"):
        can_still_matter({"resnet": 0.5}, PROXIES[:2], make_bar(AGREEING))


#: as AGREEING, with a latency of 100 to 290 us behind the scores: the better, the slower
TIMED = [member(i, *[i / 20] * 3, -100.0 - 10 * i) for i in range(20)]


def test_a_fast_candidate_matters_where_a_slow_one_with_its_scores_does_not() -> None:
    known = {"resnet": 0.01}
    slow, evidence = can_still_matter(known, PROXIES, make_bar(TIMED, given=(-400.0,)))
    assert not slow
    assert (evidence["dominating"], evidence["given"]) == (14, [-400.0])
    fast, evidence = can_still_matter(known, PROXIES, make_bar(TIMED, given=(-99.0,)))
    assert fast
    assert evidence["dominating"] == 0
    # as fast as the incumbents up to the twelfth: the better half of them is slower and dominates it no more
    assert can_still_matter(known, PROXIES, make_bar(TIMED, given=(-210.0,)))[0]


def test_a_latency_is_no_standing_on_a_proxy() -> None:
    with_latency = can_still_matter({"mobile": 0.5}, PROXIES, make_bar(TIMED, given=(-1.0,)))[1]
    without = can_still_matter({"mobile": 0.5}, PROXIES, make_bar(AGREEING))[1]
    assert with_latency["standing"] == without["standing"]
    assert with_latency["optimistic"] == without["optimistic"]


def test_a_bar_with_another_number_of_scores_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 scores per incumbent.*0 given"):
        can_still_matter({"resnet": 0.5}, PROXIES, make_bar(TIMED))
    assert "given" not in make_bar(AGREEING)
