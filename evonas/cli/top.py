"""`top`: the Pareto front and the re-ranking of a run, or the scored candidates of an arm."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.cli.output import document, emit
from evonas.cli.progress import Progress, read_progress
from evonas.cli.tables import ranking_tables, score_table
from evonas.errors import unknown_name
from evonas.run.objectives import LATENCY
from evonas.run.run import Run
from evonas.run.verdict import verdict

ARMS = ("search", "control", "baseline", "all")
FORMATS = ("table", "json", "csv")


def top(spec: str, root: str, *, arm: str | None, limit: int, sort: str, style: str) -> int:
    """Print the best layers of a run.

    Args:
        arm: None for the front of the search.
        sort: "mean" or a proxy's name, best first; "latency" where that is an objective, lowest first.

    Raises:
        UsageError: no such run, arm, proxy or format.
    """
    if style not in FORMATS:
        raise unknown_name("format", style, FORMATS)
    if arm is not None and arm not in ARMS:
        raise unknown_name("arm", arm, ARMS)
    run = Run(spec, root)
    orders = ("mean", *run.proxies, *([LATENCY] if LATENCY in run.objectives else []))
    if sort not in orders:
        raise unknown_name("order", sort, orders)
    progress = read_progress(run.config, run.events())
    rows = _rows(progress, arm)
    rows.sort(key=lambda r: (_order(r, sort), r["candidate"]))
    ranking = progress.ranking if arm is None else []
    shown = rows[:limit]
    if style == "json":
        document(
            "top",
            {"run": str(run.path), "status": run.status, "arm": arm or "front", "sort": sort,
             "proxies": list(run.proxies), "objectives": run.objectives, "total": len(rows),
             "candidates": shown, "ranking": ranking, "verdict": verdict(ranking)},
        )  # fmt: skip
    elif style == "csv":
        _write_csv(shown, run.proxies, timed=progress.latency_source is not None)
    else:
        _print(run, arm, rows, shown, ranking, progress.latency_source)
    return 0


def _order(row: Mapping[str, Any], sort: str) -> float:
    if sort == LATENCY:
        return float(row.get("latency_us", math.inf))
    return -float(row["mean"] if sort == "mean" else row["scores"][sort])


def _rows(progress: Progress, arm: str | None) -> list[dict[str, Any]]:
    if arm is None:
        found = progress.front()
    else:
        found = [
            r
            for a in (("search", "control", "baseline") if arm == "all" else (arm,))
            for r in progress.scored[a]
        ]
    rows = [r.to_dict(progress.proxies) for r in found]
    for row in rows:
        if row["candidate"] in progress.names:
            row["name"] = progress.names[row["candidate"]]
    return rows


def _print(
    run: Run,
    arm: str | None,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[Mapping[str, Any]],
    ranking: Sequence[Mapping[str, Any]],
    latency: str | None,
) -> None:
    what = "Pareto front of the search" if arm is None else f"Scored candidates, {arm}"
    if not rows:
        print(f"{run.path}: nothing scored yet ({run.status})")
        return
    cut = f", the best {len(shown)} of {len(rows)}" if len(shown) < len(rows) else f", {len(rows)}"
    named = [
        {**r, "formula": f"{r['formula']}   ({r['name']})" if "name" in r else r["formula"]} for r in shown
    ]
    emit(score_table(f"{what}{cut}; validation scores", named, run.proxies, latency))
    if ranking:
        emit(*ranking_tables(ranking, run.proxies), *verdict(ranking))


def _write_csv(rows: Sequence[Mapping[str, Any]], proxies: Sequence[str], *, timed: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    more = ["latency_us"] if timed else []
    writer.writerow(["candidate", "arm", *proxies, "mean", *more, "formula"])
    for row in rows:
        scores = [row["scores"][p] for p in proxies]
        cost = [row.get(name) for name in more]
        writer.writerow([row["candidate"], row["arm"], *scores, row["mean"], *cost, row["formula"]])
