"""The picture of a comparison: times in units of the least time that each pass can take, as SVG without a library."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from evonas.errors import EnvironmentUnusable, UsageError

_PANEL, _RIGHT, _TOP, _BOTTOM, _ROW = 540, 30, 92, 58, 30
_LETTER = 7.2  # width of one, roughly: there is nothing to measure text with
_TICKS = (1, 2, 5)
#: Readable on white and on black, and apart for most colour-blind eyes; the shape of a mark says the backend too.
_COLOURS = ("#0a84d6", "#e0662a", "#2a9d62", "#b45fc9", "#c9a100", "#d6406b", "#5a8f8f", "#8a7a5c")
_STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #222222; } .faint { fill: #666666; } .grid { stroke: #e3e3e3; }
.roof { stroke: #444444; stroke-width: 2; } .mark { stroke: #ffffff; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  svg { background: #14171c; }
  text { fill: #e6e6e6; } .faint { fill: #a0a4aa; } .grid { stroke: #2c3138; }
  .roof { stroke: #d0d0d0; } .mark { stroke: #14171c; }
}
"""


class Point(NamedTuple):
    """One measurement. row: what was measured, in words; series: by which backend; least, time: microseconds."""

    row: str
    series: str
    least: float
    time: float


def check_plot(path: str) -> None:
    """Before anything is measured.

    Raises:
        UsageError: neither .svg nor .png. EnvironmentUnusable: .png without cairosvg; a folder that is not there.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {path} is neither .svg nor .png", hint="write --plot roofline.svg")
    if suffix == ".png" and importlib.util.find_spec("cairosvg") is None:
        raise EnvironmentUnusable(
            "a .png needs cairosvg", hint="write --plot roofline.svg, or pip install cairosvg"
        )
    if not Path(path).absolute().parent.is_dir():
        raise EnvironmentUnusable(f"no folder {Path(path).absolute().parent} for {Path(path).name}")


def write_plot(path: str, points: Sequence[Point], title: str, subtitle: str) -> None:
    """Write the picture.

    Raises:
        EnvironmentUnusable: the file cannot be written.
    """
    text = roofline_svg(points, title, subtitle)
    try:
        if path.lower().endswith(".png"):
            import cairosvg

            cairosvg.svg2png(bytestring=text.encode(), write_to=path, scale=2)
        else:
            Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentUnusable(f"cannot write {path}: {error.strerror}") from None


def roofline_svg(points: Sequence[Point], title: str, subtitle: str) -> str:
    """A line per layer, shape and pass, and on it a mark per backend: how many times the floor it takes."""
    rows = {p.row: p.least for p in reversed(points)}
    names = list(dict.fromkeys(p.row for p in points))
    series = list(dict.fromkeys(p.series for p in points))
    times = [p.time / p.least for p in points]
    low, high = math.log10(min(0.9, *times)) - 0.05, math.log10(max(10.0, *times)) + 0.08
    left = round(34 + _LETTER * max(len(name) for name in names))
    width = left + _PANEL + _RIGHT
    bottom = _TOP + _ROW * len(names)
    height = bottom + _BOTTOM

    def x(value: float) -> float:
        return left + _PANEL * (math.log10(value) - low) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text x="16" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="16" y="46" class="faint">{escape(subtitle)}</text>',
    ]
    at = float(left)
    for n, name in enumerate(series):
        out.append(_mark(n, at, 66, name))
        out.append(f'<text x="{at + 11:.0f}" y="70">{escape(name)}</text>')
        at += 34 + _LETTER * len(name)
    for tick in _ticks(low, high):
        kind = "roof" if tick == 1 else "grid"
        out.append(f'<path class="{kind}" d="M{x(tick):.1f} {_TOP - 8}V{bottom}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{bottom + 20}" text-anchor="middle">{tick:g}x</text>')
    for n, name in enumerate(names):
        y = _TOP + _ROW * (n + 0.5)
        out.append(f'<path class="grid" d="M{left} {y:.1f}H{width - _RIGHT}"/>')
        out.append(f'<text x="{left - 14}" y="{y - 1:.1f}" text-anchor="end">{escape(name)}</text>')
        floor = f"floor {_time(rows[name])}"
        out.append(
            f'<text class="faint" font-size="11" x="{left - 14}" y="{y + 12:.1f}" text-anchor="end">{floor}</text>'
        )
        for p in reversed([p for p in points if p.row == name]):
            words = f"{p.series}: {_time(p.time)}, {p.time / p.least:.2f} times the floor"
            out.append(_mark(series.index(p.series), x(p.time / p.least), y, words))
    middle = left + _PANEL / 2
    out.append(
        f'<text x="{middle}" y="{bottom + 44}" text-anchor="middle">median time in units of the floor</text>'
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two exponents of ten; every tenth part only if there are many."""
    steps = _TICKS if high - low < 2.5 else _TICKS[:1]
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [t * 10.0**n for n in powers for t in steps if low <= math.log10(t * 10.0**n) <= high]


def _mark(series: int, x: float, y: float, label: str) -> str:
    colour = _COLOURS[series % len(_COLOURS)]
    r = 5.5
    if series % 4 == 0:
        shape, where = "circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{r}"'
    elif series % 4 == 1:
        shape, where = "rect", f'x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"'
    elif series % 4 == 2:
        shape, where = "path", f'd="M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r}h{-2 * r - 2}z"'
    else:
        shape, where = (
            "path",
            f'd="M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z"',
        )
    return f'<{shape} {where} class="mark" fill="{colour}"><title>{escape(label)}</title></{shape}>'


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:g} s"
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds:.3g} µs"
