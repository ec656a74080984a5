"""The tables that several verbs print: the front, the re-ranking, the funnel, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evonas.cli.output import table
from evonas.run.wording import microseconds, score, seconds, spread

if TYPE_CHECKING:
    from rich.table import Table

    from evonas.run.funnel_table import FunnelTable

_CHEAP = ("structural", "duplicate", "probe")


def score_table(
    title: str, rows: Iterable[Mapping[str, Any]], proxies: Sequence[str], latency: str | None = None
) -> Table:
    """Candidates with their validation accuracies; ``rows`` as ``Run.scored`` gives them.

    latency: where latencies come from, in words, if they are an objective: then they are a column.
    """
    lines = [
        (r["candidate"], *[score(r["scores"].get(p)) for p in proxies], score(r["mean"]),
         *([microseconds(r.get("latency_us"))] if latency else []), r["formula"])
        for r in rows
    ]  # fmt: skip
    numbers = ["id", *proxies, "mean", *(["latency us"] if latency else [])]
    title += f"; latency: {latency}" if latency else ""
    return table(title, [*numbers, "formula"], lines, right=numbers, fold=["formula"])


def ranking_table(ranking: Sequence[Mapping[str, Any]], proxies: Sequence[str]) -> Table:
    """The re-ranking: held-out accuracy, mean ± standard deviation over fresh seeds."""
    lines = []
    timed = any("latency_us" in row for row in ranking)
    for row in ranking:
        versus = row["versus"]
        difference = "" if versus is None else spread(versus["mean"], versus["std"], sign=True)
        cells = [spread(*row["per_proxy"].get(p, (None, None))) for p in proxies]
        cells += [microseconds(row.get("latency_us"))] if timed else []
        lines.append(
            (row["name"], row["n"], spread(row["mean"], row["std"]), difference, *cells, row["formula"])
        )
    best = next((r["versus"]["name"] for r in ranking if r["versus"]), None)
    against = f"vs {best}" if best else "vs baseline"
    columns = ["layer", "n", "mean", against, *proxies, *(["latency us"] if timed else []), "formula"]
    title = "Re-ranking: held-out accuracy on fresh seeds, mean ± standard deviation"
    return table(title, columns, lines, right=columns[1:-1], fold=["formula"])


def funnel_table(funnel: FunnelTable, title: str = "Funnel") -> Table:
    """Per arm and stage: in, rejected, out, work time, the most frequent reason."""
    lines = []
    for row in funnel.rows():
        top = next(iter(row["reasons"].items()), None)
        reason = f"{top[0]} ({top[1]})" if top else ""
        share = f"{row['rejected'] / row['in']:.0%}" if row["in"] else ""
        spent = "" if row["stage"] in _CHEAP else seconds(row["seconds"])
        lines.append((row["arm"], row["stage"], row["in"], row["rejected"], share, row["out"], spent, reason))
    columns = ["arm", "stage", "in", "rejected", "share", "out", "work time", "top reason"]
    return table(title, columns, lines, right=columns[2:7], fold=["top reason"])
