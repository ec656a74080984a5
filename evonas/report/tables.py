"""The tables of a report, the same for both formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from evonas.run.units import Units
from evonas.run.wording import microseconds, spread


class Table(NamedTuple):
    """``right``: columns of numbers. ``empty``: what is said where there is no row."""

    columns: list[str]
    rows: list[list[str]]
    right: set[str]
    empty: str
    note: str = ""


def tables(content: Mapping[str, Any]) -> dict[str, Table]:
    """ranking, agreement and sensitivity."""
    return {
        "ranking": _ranking(content),
        "agreement": _agreement(content),
        "sensitivity": _sensitivity(content),
    }


def _ranking(content: Mapping[str, Any]) -> Table:
    ranking, proxies = content["ranking"], content["proxies"]
    timed = any("latency_us" in row for row in ranking)
    best = next((r["versus"]["name"] for r in ranking if r["versus"]), None)
    against = f"vs {best}" if best else "vs baseline"
    units = Units(proxies)
    columns = ["layer", "arm", "n", "mean", against, *map(units.column, proxies)]
    columns += [*(["latency us"] if timed else []), "formula"]
    rows = []
    for row in ranking:
        versus = row["versus"]
        cells = [row["name"], row["arm"], str(row["n"]), spread(row["mean"], row["std"])]
        cells.append("" if versus is None else spread(versus["mean"], versus["std"], sign=True))
        cells += [units.spread(p, *row["per_proxy"].get(p, (None, None))) for p in proxies]
        cells += [microseconds(row.get("latency_us"))] if timed else []
        rows.append([*cells, row["formula"]])
    note = (
        "Held-out scores, mean ± standard deviation over n fresh seeds that the search did not see; all rows share "
        f"weights, data order and budget. Held-out data choose nothing. {units.note}".strip()
    )
    return Table(
        columns,
        rows,
        set(columns[2:-1]),
        "The re-ranking on fresh seeds has not ended (or was left out).",
        note,
    )


def _agreement(content: Mapping[str, Any]) -> Table:
    rows = [
        [r["stage"], r["against"], str(r["n"]), "-" if r["rho"] is None else f"{r['rho']:+.2f}"]
        for r in content["agreement"]
    ]
    note = (
        "Spearman's rank correlation over the candidates that got that far: those that were turned away earlier are "
        "not in it, which makes agreement look smaller than over all candidates. With few candidates it says little."
    )
    return Table(
        ["stage", "against", "n", "rho"],
        rows,
        {"n", "rho"},
        "Too few candidates have been trained to the end.",
        note,
    )


def _sensitivity(content: Mapping[str, Any]) -> Table:
    proxies = content["proxies"]
    rows = [
        [row["name"], row["arm"],
         *[f"x{row['lr'][p]:g}" if p in row["lr"] else "-" for p in proxies],
         *[f"{row['loss'][p]:.3f}" if row["loss"].get(p) is not None else "-" for p in proxies]]
        for row in content["sensitivity"]
    ]  # fmt: skip
    columns = ["layer", "arm", *[f"lr, {p}" for p in proxies], *[f"lost, {p}" for p in proxies]]
    note = (
        "lr: the factor on the proxy's learning rate that validation chose. lost: validation score between the best "
        "and the worst factor of the sweep; the smaller, the less the layer depends on tuning."
    )
    return Table(
        columns,
        rows,
        set(columns[2:]),
        "Learning rates were not swept in this run (rerank.lr_factors).",
        note,
    )
