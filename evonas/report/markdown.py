"""The report as Markdown: the same content without the interactive parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evonas.report.tables import Table, tables


def markdown_page(content: Mapping[str, Any], footer: str) -> str:
    """The text of a report's content."""
    about, made = content["run"], tables(content)
    lines = [f"# {about['id']}", ""]
    facts = ("status", "space", "scale", "seed", "duration")
    lines += [", ".join(f"{name} {about[name]}" for name in facts if about[name] is not None), ""]
    lines += [*[f"{line.strip()}  " for line in content["verdict"]], ""]
    lines += ["## Ranking", "", *_table(made["ranking"])]
    lines += ["## Front", "", *_table(_front(content))]
    lines += ["## Funnel", "", *_table(_funnel(content))]
    lines += ["## Lineage of the finalists", ""]
    for steps in content["lineages"].values():
        lines += [*[_step(step) for step in steps], ""]
    lines += ["## Do cheap stages foretell full training?", "", *_table(made["agreement"])]
    lines += ["## Sensitivity to the learning rate", "", *_table(made["sensitivity"])]
    lines += ["## What was not measured", "", *[f"- {line}" for line in content["unmeasured"]], ""]
    if about["command"]:
        lines += ["## Reproduce", "", "```console", f"$ {about['command']}", "```", ""]
    return "\n".join([*lines, footer, ""])


def _front(content: Mapping[str, Any]) -> Table:
    proxies = content["proxies"]
    rows = [
        [p["name"], *[f"{p['scores'][q]:.3f}" for q in proxies], f"{p['mean']:.3f}", p["formula"]]
        for p in content["points"]
        if p["front"] and p["arm"] == "search"
    ]
    columns = ["layer", *proxies, "mean", "formula"]
    return Table(columns, rows, set(columns[1:-1]), "Nothing has been scored yet.")


def _funnel(content: Mapping[str, Any]) -> Table:
    rows = [
        [r["arm"], r["stage"], f"{r['in']:,}", f"{r['rejected']:,}", f"{r['out']:,}", f"{r['seconds']:.1f}",
         ", ".join(f"{n:,} {why}" for why, n in list(r["reasons"].items())[:3])]
        for r in content["funnel"]
    ]  # fmt: skip
    columns = ["arm", "stage", "in", "turned away", "go on", "seconds", "why"]
    return Table(columns, rows, set(columns[2:6]), "No candidate has come in yet.")


def _step(step: Mapping[str, Any]) -> str:
    mean = "" if step["mean"] is None else f", mean {step['mean']:.3f}"
    gain = "" if step["gain"] is None else f" ({step['gain']:+.3f})"
    return f"- {step['candidate']}, {step['origin']}{mean}{gain}: `{step['formula']}`"


def _table(table: Table) -> list[str]:
    if not table.rows:
        return [table.empty, ""]
    rule = ["---:" if name in table.right else "---" for name in table.columns]
    rows = [[f"`{v}`" if n == "formula" else v.replace("|", "\\|") for n, v in zip(table.columns, row, strict=True)]
            for row in table.rows]  # fmt: skip
    lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, rule, *rows)]
    return [*lines, "", *([table.note, ""] if table.note else [])]
