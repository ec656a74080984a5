"""What `compare` says: a line per training, and the tables of the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evonas.cli.output import table
from evonas.cli.tables import sweep_table
from evonas.comparing.comparison import Comparison
from evonas.comparing.training import Training
from evonas.run.paired import critical
from evonas.run.units import Units
from evonas.run.wording import score, seconds, spread


def told(training: Training, now: Comparison, units: Units) -> str:
    """One line about a training that has come back."""
    name = now.contestants[training.layer].name
    what = "sweep" if training.replicate is None else f"seed {training.replicate + 1} of {now.seeds}"
    head = f"[{len(now.trainings)}/{now.planned}] {name}, {what}"
    if training.outcome != "scored":
        return f"{head}: {training.outcome}: {training.reason}"
    if training.replicate is None:
        rates = _sweep(now, training.layer)
        return f"{head}: best factors on the learning rate: {rates} ({seconds(training.seconds)})"
    lost = training.diverged
    parts = [
        f"{units.column(p)} diverged at step {lost[p]}"
        if p in lost
        else f"{units.column(p)} {units.value(p, v)}"
        for p, v in training.scores.items()
    ]
    return f"{head}: {', '.join(parts)} ({seconds(training.seconds)})"


def _sweep(now: Comparison, layer: int) -> str:
    row = next(row for row in now.rows if row["candidate"] == layer)
    return ", ".join(
        f"{proxy} {'all diverged' if row['sensitivity'][proxy] is None else f'{factor:g}'}"
        for proxy, factor in row["lr"].items()
    )


def comparison_tables(done: Comparison, units: Units) -> list[Any]:
    """Scores, paired differences, the sweep where there was one, and what has to be said about them."""
    rows, proxies = done.rows, done.proxies
    state = (
        "" if done.complete else f", INCOMPLETE: {len(done.trainings)} of {done.planned} trainings and sweeps"
    )
    lines = [
        (row["name"], row["n"], spread(row["mean"], row["std"]),
         *[units.spread(p, *row["per_proxy"].get(p, (None, None))) for p in proxies],
         score(row["validation"]), _remarks(row), row["formula"])
        for row in rows
    ]  # fmt: skip
    columns = ["layer", "n", "mean", *map(units.column, proxies), "validation", "remarks", "formula"]
    title = f"Held-out scores, mean ± standard deviation over seeds{state}"
    made: list[Any] = [table(title, columns, lines, right=columns[1:-2], fold=["remarks", "formula"])]
    reference = done.contestants[done.reference].name
    lines = [
        (row["name"], row["differences"]["mean"]["n"], _difference(row["differences"]["mean"]),
         *[_difference(row["differences"][p], units, p) for p in proxies], *row["wins"].values())
        for row in rows
        if row["differences"] is not None
    ]  # fmt: skip
    columns = ["layer", "pairs", "mean", *map(units.column, proxies), "above", "equal", "below"]
    title = f"Paired differences to {reference}: mean [95 % interval]; how often above it, per seed and proxy"
    made.append(table(title, columns, lines, right=columns[1:]))
    swept = sweep_table(rows, proxies)
    made += [swept] if swept is not None else []
    return [*made, *notes(done, units)]


def _difference(found: Mapping[str, Any], units: Units | None = None, proxy: str = "") -> str:
    def shown(value: float) -> float:
        return value if units is None else units.change(proxy, value) or 0.0

    if found["mean"] is None:
        return "-"
    text = f"{shown(found['mean']) + 0.0:+.3f}"
    if found["low"] is None:
        return text
    low, high = sorted((shown(found["low"]), shown(found["high"])))
    return f"{text} [{low:+.3f}, {high:+.3f}]"


def _remarks(row: Mapping[str, Any]) -> str:
    """Which trainings diverged or failed; those with the same words together."""
    found: dict[str, list[int | None]] = {}
    for one in row["diverged"]:
        found.setdefault(f"diverged on {one['proxy']}", []).append(one["seed"])
    for one in row["failed"]:
        found.setdefault(f"{one['outcome']}: {one['reason']}", []).append(one["seed"])
    return "; ".join(f"{', '.join(map(_which, seeds))} {words}" for words, seeds in found.items())


def _which(seed: int | None) -> str:
    return "sweep" if seed is None else f"seed {seed + 1}"


def notes(done: Comparison, units: Units) -> list[str]:
    """What a reader of the tables has to know."""
    pairs = max((row["differences"]["mean"]["n"] for row in done.rows if row["differences"]), default=0)
    found = []
    if pairs > 1:
        found.append(
            f"The 95 % interval of a mean over {pairs} pairs is {critical(pairs - 1):.2f} standard errors wide on "
            f"either side (1.96 over very many), and each interval is for one difference alone."
        )
    elif pairs == 1:
        found.append("One pair of trainings has no interval: ask for more with --seeds.")
    found.append(
        "Tables are of held-out data; learning rates were chosen on validation data, whose mean stands beside."
        if done.settings.rerank.lr_factors
        else "Tables are of held-out data, without a sweep; the mean on validation data stands beside."
    )
    edge = _at_the_edge(done)
    if edge:
        found.append(
            f"The best factor is the last one of the sweep for {edge}: a wider --lr-factors may be fairer."
        )
    if any(row["diverged"] for row in done.rows):
        found.append("A training that diverged counts with a score of 0.")
    return [*found, *([units.note] if units.note else [])]


def _at_the_edge(done: Comparison) -> str:
    """Layers and proxies whose best factor is the smallest or largest that was tried, in words."""
    factors = done.settings.rerank.lr_factors
    if len(factors) < 2:
        return ""
    ends = (min(factors), max(factors))
    return "; ".join(
        f"{row['name']} ({', '.join(found)})"
        for row in done.rows
        if (found := [
            f"{p} {f:g}" for p, f in row.get("lr", {}).items() if f in ends and row["sensitivity"][p] is not None
        ])
    )  # fmt: skip
