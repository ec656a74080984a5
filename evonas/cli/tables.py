"""The tables that several verbs print: the front, the re-ranking, the funnel, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evonas.cli.output import table
from evonas.run.units import Units
from evonas.run.wording import microseconds, score, seconds, spread

if TYPE_CHECKING:
    from rich.table import Table

    from evonas.run.funnel_table import FunnelTable

_CHEAP = ("structural", "duplicate", "probe", "causal")


def score_table(
    title: str, rows: Iterable[Mapping[str, Any]], proxies: Sequence[str], latency: str | None = None
) -> Table:
    """Candidates with their validation scores; ``rows`` as ``Run.scored`` gives them.

    latency: where latencies come from, in words, if they are an objective: then they are a column.
    """
    units = Units(proxies)
    lines = [
        (r["candidate"], *[units.value(p, r["scores"].get(p)) for p in proxies], score(r["mean"]),
         *([microseconds(r.get("latency_us"))] if latency else []), r["formula"])
        for r in rows
    ]  # fmt: skip
    numbers = ["id", *map(units.column, proxies), "mean", *(["latency us"] if latency else [])]
    title += f"; latency: {latency}" if latency else ""
    return table(title, [*numbers, "formula"], lines, right=numbers, fold=["formula"])


def ranking_table(ranking: Sequence[Mapping[str, Any]], proxies: Sequence[str]) -> Table:
    """The re-ranking: held-out scores, mean ± standard deviation over fresh seeds."""
    lines = []
    units = Units(proxies)
    timed = any("latency_us" in row for row in ranking)
    for row in ranking:
        versus = row["versus"]
        difference = "" if versus is None else spread(versus["mean"], versus["std"], sign=True)
        cells = [units.spread(p, *row["per_proxy"].get(p, (None, None))) for p in proxies]
        cells += [microseconds(row.get("latency_us"))] if timed else []
        lines.append(
            (row["name"], row["n"], spread(row["mean"], row["std"]), difference, *cells, row["formula"])
        )
    best = next((r["versus"]["name"] for r in ranking if r["versus"]), None)
    against = f"vs {best}" if best else "vs baseline"
    columns = ["layer", "n", "mean", against, *map(units.column, proxies)]
    columns += [*(["latency us"] if timed else []), "formula"]
    title = f"Re-ranking: held-out scores on fresh seeds, mean ± standard deviation. {units.note}".strip()
    return table(title, columns, lines, right=columns[1:-1], fold=["formula"])


def sweep_table(ranking: Sequence[Mapping[str, Any]], proxies: Sequence[str]) -> Table | None:
    """The learning-rate sweep beside the scores at every size of the data; None where there was neither.

    Per proxy "factor (sensitivity)": the factor on the learning rate that was chosen, and the best minus the worst
    validation score of the sweep.
    """
    swept = any("lr" in row for row in ranking)
    shares = list(dict.fromkeys(share for row in ranking for share in row.get("data_shares", ())))
    if not swept and not shares:
        return None
    lines = []
    for row in ranking:
        cells = [_swept(row, proxy) for proxy in proxies] if swept else []
        parts = [row.get("data_shares", {}).get(share, {}) for share in shares]
        cells += [spread(part.get("mean"), part.get("std")) for part in parts]
        lines.append((row["name"], *cells, spread(row["mean"], row["std"]) if shares else ""))
    columns = ["layer", *([f"lr {p}" for p in proxies] if swept else [])]
    columns += [f"mean at {float(share):.3g} of the data" for share in shares]
    title = []
    if swept:
        title.append("factor on the learning rate (best minus worst validation score of the sweep)")
    if shares:
        title.append("held-out mean by share of the training data")
        columns.append("mean at all")
    else:
        lines = [line[:-1] for line in lines]
    text = "; ".join(title)
    return table(text[0].upper() + text[1:], columns, lines, right=columns[1:])


def _swept(row: Mapping[str, Any], proxy: str) -> str:
    if "lr" not in row:
        return "-"
    factor, found = f"{row['lr'][proxy]:.3g}", row["sensitivity"][proxy]
    if found is None:
        return f"{factor} (all diverged)" if row["sweep"][proxy] else f"{factor} (no sweep)"
    lost = sum(score is None for _, score in row["sweep"][proxy])
    return f"{factor} ({found:.3f}{f', {lost} diverged' if lost else ''})"


def ranking_tables(ranking: Sequence[Mapping[str, Any]], proxies: Sequence[str]) -> list[Table]:
    """The re-ranking, and its sweeps and sizes of the data where it had any."""
    more = sweep_table(ranking, proxies)
    return [ranking_table(ranking, proxies), *([more] if more is not None else [])]


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
