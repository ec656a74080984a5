"""Whether a candidate that is trained on some proxies is worth training on the next one.

The paper trains every survivor on all proxies. Here a candidate goes on only while it can still matter:
while, with an optimistic guess for the proxies that it has not seen, it stands better than a given
share of the incumbents would allow. Pure: the verdict follows from the arguments alone, so a log that
holds the bar replays it.

The optimistic guess. A candidate whose best standing so far is the quantile q of the incumbents on
that proxy is granted the quantile q + ``slack`` on each proxy that it has not seen, and the best
incumbent's score plus ``margin`` if that reaches 1. ``slack = 0`` assumes that proxies agree;
``slack = 1`` grants the very best everywhere, so that with a margin above 0 Pareto selection turns
nothing away before its last proxy: nobody dominates a vector that is best somewhere.

Why a share of dominating incumbents: a member that a share s of the window dominates wins a Pareto
tournament of size k with a probability of at most (1 - s)^(k - 1), 6 % for s = 0.5 and k = 5.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.errors import UsageError
from evonas.evolution._base import need_choice, need_count, need_share
from evonas.evolution._protocol import Member
from evonas.evolution.dominance import dominates
from evonas.evolution.selection import SELECTIONS

#: plain JSON values: what ``make_bar`` returns and a task carries.
Bar = Mapping[str, Any]


def make_bar(
    population: Sequence[Member],
    selection: str = "pareto",
    *,
    share: float = 0.5,
    minimum: int = 8,
    slack: float = 0.25,
    margin: float = 0.0,
    limit: int = 128,
    given: Sequence[float] = (),
) -> dict[str, Any]:
    """The incumbents that a candidate must be able to matter against, as JSON-able plain values.

    share: the share of incumbents that must dominate the candidate's optimistic scores before it is
    turned away (average: its optimistic mean must lie below the (1 - share)-quantile of their means).
    minimum: with fewer incumbents every candidate matters. slack, margin: see the module; quantile and
    score units. limit: at most so many incumbents are carried, evenly spaced in age. given: the candidate's own values
    of the scores behind those of the proxies, known before any training (a latency with its sign turned).
    Raises ``UsageError`` for values out of range.
    """
    need_choice("selection", selection, SELECTIONS)
    need_share("share", share)
    need_count("minimum", minimum)
    need_share("slack", slack)
    need_count("limit", limit, minimum)
    if not 0 <= margin < math.inf:
        raise UsageError(f"evolution option margin = {margin!r}: it must be a number of at least 0")
    n = len(population)
    members = [population[i * n // limit] for i in range(limit)] if n > limit else population
    bar: dict[str, Any] = {
        "selection": selection,
        "share": share,
        "minimum": minimum,
        "slack": slack,
        "margin": margin,
        "candidates": [m.candidate for m in members],
        "scores": [list(m.scores) for m in members],
    }
    return bar | {"given": list(given)} if given else bar


def can_still_matter(
    known: Mapping[str, float], proxies: Sequence[str], bar: Bar | None
) -> tuple[bool, dict[str, Any]]:
    """Whether a candidate with the scores ``known`` may still matter, and the numbers behind the answer.

    ``proxies`` names the columns of the bar's scores, in order; those missing in ``known`` are untrained. Columns
    behind them are those of the bar's ``given``.
    The evidence is JSON-able; a candidate that is turned away gets the id of one incumbent that beats its
    optimistic scores (``by``). Raises ``ValueError`` if the bar has another number of scores than proxies.
    """
    if bar is None:
        return True, {"incumbents": 0}
    rows: list[tuple[float, ...]] = [tuple(r) for r in bar["scores"]]
    if len(rows) < bar["minimum"]:
        return True, {"incumbents": len(rows), "needed": bar["minimum"]}
    given = tuple(map(float, bar.get("given", ())))
    if len(rows[0]) != len(proxies) + len(given):
        raise ValueError(
            f"the bar has {len(rows[0])} scores per incumbent, needed one for each of {proxies} and {len(given)} given"
        )
    if not any(p in known for p in proxies):
        return True, {"incumbents": len(rows), "trained": 0}
    columns = [sorted(c) for c in list(zip(*rows, strict=True))[: len(proxies)]]
    optimistic, quantile = _optimistic(known, proxies, columns, bar["slack"], bar["margin"])
    evidence: dict[str, Any] = {
        "selection": bar["selection"],
        "incumbents": len(rows),
        "known": {p: known[p] for p in proxies if p in known},
        "optimistic": dict(zip(proxies, optimistic, strict=True)),
        "standing": quantile,
        "share": bar["share"],
    }
    if given:
        optimistic += given
        evidence["given"] = list(given)
    if bar["selection"] == "average":
        verdict, beaten_by = _by_average(optimistic, rows, bar["share"], evidence)
    else:
        verdict, beaten_by = _by_dominance(optimistic, rows, bar["share"], evidence)
    if not verdict:
        evidence["by"] = bar["candidates"][beaten_by]
    return verdict, evidence


def _optimistic(
    known: Mapping[str, float],
    proxies: Sequence[str],
    columns: Sequence[Sequence[float]],
    slack: float,
    margin: float,
) -> tuple[tuple[float, ...], float]:
    """Known scores and granted ones, with the candidate's best quantile over the known ones."""
    n = len(columns[0])
    best = max(bisect_right(c, known[p]) for p, c in zip(proxies, columns, strict=True) if p in known)
    at = best + slack * n
    values = []
    for p, column in zip(proxies, columns, strict=True):
        if p in known:
            values.append(float(known[p]))
        elif at >= n:
            values.append(column[-1] + margin)
        else:
            values.append(column[int(at)])
    return tuple(values), best / n


def _by_dominance(
    optimistic: tuple[float, ...], rows: Sequence[tuple[float, ...]], share: float, evidence: dict[str, Any]
) -> tuple[bool, int]:
    dominating = [i for i, r in enumerate(rows) if dominates(r, optimistic)]
    evidence["dominating"] = len(dominating)
    if not dominating or len(dominating) < share * len(rows):
        return True, -1
    return False, max(dominating, key=lambda i: (math.fsum(rows[i]), -i))


def _by_average(
    optimistic: tuple[float, ...], rows: Sequence[tuple[float, ...]], share: float, evidence: dict[str, Any]
) -> tuple[bool, int]:
    means = [math.fsum(r) / len(r) for r in rows]
    mean = math.fsum(optimistic) / len(optimistic)
    ordered = sorted(means)
    below = bisect_left(ordered, mean)
    threshold = ordered[min(len(ordered) - 1, math.floor((1 - share) * len(ordered)))]
    evidence.update(mean=mean, threshold=threshold, better=len(ordered) - below)
    if mean >= threshold:
        return True, -1
    return False, max(range(len(rows)), key=lambda i: (means[i], -i))
