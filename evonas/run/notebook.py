"""A run as notebooks show it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from evonas.errors import EvonasError
from evonas.graph.drawing import draw_svg
from evonas.graph.mathml import format_mathml
from evonas.layers import assembly_from
from evonas.run.wording import score

if TYPE_CHECKING:
    from evonas.run.run import Run

#: Rows of the front that are shown.
_ROWS = 20


def run_html(run: Run) -> str:
    """Status and front of a run, and the graph of the best on average; a run without a log yet has no front."""
    head = f"<strong>{escape(run.id)}</strong>: {escape(run.status)}"
    try:
        front = run.front()
    except EvonasError:
        front = []
    if not front:
        return f"<div>{head}, nothing scored yet</div>"
    names = [*run.proxies, "mean"]
    title = "".join(f"<th>{escape(name)}</th>" for name in ("id", *names, "formula"))
    rows = []
    for row in front[:_ROWS]:
        values = [*(row["scores"][p] for p in run.proxies), row["mean"]]
        cells = "".join(f"<td>{score(value)}</td>" for value in values)
        rows.append(f"<tr><td>{row['candidate']}</td>{cells}<td>{_typeset(row['formula'])}</td></tr>")
    more = f"<div>and {len(front) - _ROWS} more</div>" if len(front) > _ROWS else ""
    best = max(front, key=lambda row: row["mean"])
    picture = f"<div>{best['candidate']}:</div>{_drawn(best['formula'])}"
    table = f"<table><thead><tr>{title}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div>{head}{table}{more}{picture}</div>"


def _drawn(formula: str) -> str:
    """The graphs of a formula."""
    try:
        return "".join(draw_svg(part.graph) for part in assembly_from(formula).parts)
    except EvonasError:
        return ""


def _typeset(formula: str) -> str:
    try:
        parts = assembly_from(formula).parts
    except EvonasError:  # an operation of a plug-in that is not loaded
        return f"<code>{escape(formula)}</code>"
    if len(parts) == 1:
        return format_mathml(parts[0].graph)
    return "".join(f"{escape(str(part).partition(':')[0])}: {format_mathml(part.graph)}" for part in parts)
