"""The report as one HTML file: no server, no network, nothing but this file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from evonas.graph.drawing import svg_style
from evonas.report.tables import Table, tables


def html_page(content: Mapping[str, Any], footer: str) -> str:
    """The page of a report's content. Everything that comes from the run is escaped or parsed as data."""
    about = content["run"]
    made = tables(content)
    folder = files("evonas.report") / "page"

    def part(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    facts = [
        ("status", about["status"]), ("space", about["space"]), ("scale", about["scale"]), ("seed", about["seed"]),
        ("duration", about["duration"]), ("proposed", sum(about["proposed"].values())),
        ("scored", sum(about["scored"].values())), ("final trainings", about["replicates"]),
    ]  # fmt: skip
    verdict = "".join(f"<p>{escape(line.strip())}</p>" for line in content["verdict"])
    return Template(part("page.html")).substitute(
        title=escape(f"{about['id']} · evonas"),
        style=part("page.css") + svg_style(),
        heading=escape(str(about["id"])),
        facts="".join(
            f"<span>{name} <b>{escape(str(value))}</b></span>" for name, value in facts if value is not None
        ),
        verdict=f'<div class="verdict">{verdict}</div>' if verdict else "",
        ranking=_table(made["ranking"], content["pictures"]),
        funnel=_funnel(content["funnel"]),
        lineage=_lineages(content),
        agreement=_table(made["agreement"]),
        sensitivity=_table(made["sensitivity"]),
        unmeasured=_list(content["unmeasured"]),
        again=_again(about),
        footer=escape(footer),
        content=_json(content),
        script=part("page.js"),
    )


def _json(content: Mapping[str, Any]) -> str:
    """JSON that no HTML parser ends early."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _table(table: Table, pictures: Mapping[str, Any] | None = None) -> str:
    if not table.rows:
        return f'<p class="soft">{escape(table.empty)}</p>'
    numeric = [name in table.right for name in table.columns]
    head = "".join(_cell(name, right, "th") for name, right in zip(table.columns, numeric, strict=True))
    body = []
    for row in table.rows:
        cells = []
        for name, value, right in zip(table.columns, row, numeric, strict=True):
            if name == "arm":
                cells.append(f'<td><span class="arm {escape(value)}">{escape(value)}</span></td>')
            elif name == "formula":
                cells.append(f"<td>{_math(value, pictures or {})}</td>")
            else:
                cells.append(_cell(value, right, "td"))
        body.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    return _scrolled(head, body) + note


def _scrolled(head: str, body: Sequence[str]) -> str:
    """A table that scrolls by itself where the page is narrow."""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(value: str, right: bool, tag: str) -> str:
    return f"<{tag}{' class=n' if right else ''}>{escape(value)}</{tag}>"


def _math(formula: str, pictures: Mapping[str, Any]) -> str:
    parts = pictures.get(formula, {}).get("parts", ())
    if not parts:
        return f"<code>{escape(formula)}</code>"
    return "".join(
        f'<div title="{escape(p["formula"])}">'
        + (f'<span class="soft">{escape(p["slot"])}</span> ' if p["slot"] else "")
        + f"{p['math']}</div>"
        for p in parts
    )


def _funnel(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return '<p class="soft">No candidate has come in yet.</p>'
    found = []
    for arm in dict.fromkeys(r["arm"] for r in rows):
        mine = [r for r in rows if r["arm"] == arm]
        widest = max(1, *(r["in"] for r in mine))
        lines = []
        for r in mine:
            why = ", ".join(f"{count:,} {reason}" for reason, count in list(r["reasons"].items())[:6])
            bars = _bar(" out", r["out"], widest, "go on") + _bar("", r["rejected"], widest, "turned away")
            lines.append(
                f"<tr><td>{escape(r['stage'])}</td><td class=n>{r['in']:,}</td><td class=n>{r['rejected']:,}</td>"
                f"<td class=n>{r['out']:,}</td><td class=bars>{bars}</td><td class=n>{r['seconds']:.1f} s</td>"
                f'<td class="why">{escape(why)}</td></tr>'
            )
        head = (
            "<th>stage</th><th class=n>in</th><th class=n>turned away</th><th class=n>go on</th><th></th>"
            "<th class=n>work</th><th>why, most frequent first</th>"
        )
        title = f'<h3><span class="arm {escape(arm)}">{escape(arm)}</span></h3>'
        found.append(title + _scrolled(head, lines))
    return "".join(found)


def _bar(kind: str, value: int, widest: int, words: str) -> str:
    width = max(0.4, 90 * value / widest)
    made = f'<span class="bar{kind}" style="width:{width:.1f}px" title="{value} {words}"></span>'
    return made if value else ""


def _lineages(content: Mapping[str, Any]) -> str:
    names = {p["candidate"]: p["name"] for p in content["points"]}
    found: list[str] = []
    for candidate, steps in content["lineages"].items():
        items = []
        before = None
        for step in steps:
            gain, mean = step["gain"], step["mean"]
            kind = "" if gain is None else " class=up" if gain > 0 else " class=down" if gain < 0 else ""
            words = escape(str(step["origin"]))
            if mean is not None:
                words += f", mean {mean:.3f}"
            same = step["formula"] == before
            before = step["formula"]
            if same:
                words += " <span class=soft>changed nothing that is in use</span>"
            elif gain is not None:
                kind_of_gain = "good" if gain > 0 else "bad" if gain < 0 else "soft"
                words += f' <b class="{kind_of_gain}">{gain:+.3f}</b>'
            math = "" if same else _math(step["formula"], content["pictures"])
            items.append(f"<li{kind}><span class=soft>{step['candidate']}</span> {words}{math}</li>")
        name = names.get(int(candidate), candidate)
        found.append(
            f"<details{' open' if not found else ''}><summary>{escape(str(name))}: "
            f"{len(steps)} step{'s' * (len(steps) != 1)}</summary><ol class=line>{''.join(items)}</ol></details>"
        )
    return "".join(found) or '<p class="soft">No finalist yet.</p>'


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _again(about: Mapping[str, Any]) -> str:
    command = f"<pre>{escape(about['command'])}</pre>" if about["command"] else ""
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items() if value)
    machine = ", ".join(f"{name} {value}" for name, value in about["machine"].items() if value)
    return (
        f"{command}<p>The log replays the same decisions: <code>evonas replay {escape(about['id'])} --verify</code>. "
        f"Take a layer out: <code>evonas export {escape(about['id'])} best -o my_layer</code>.</p>"
        f'<p class="soft">{escape(versions)}</p><p class="soft">{escape(machine)}</p>'
    )
