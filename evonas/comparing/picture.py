"""The picture of a comparison, as SVG without a library: scores and paired differences, a block per proxy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from evonas.run.paired import interval
from evonas.run.units import Units

if TYPE_CHECKING:
    from evonas.comparing.comparison import Comparison

_SCORES, _DIFFERENCES, _GAP, _RIGHT = 360, 300, 34, 168
_TOP, _ROW, _HEAD, _FOOT, _BOTTOM = 84, 30, 36, 42, 16
_LETTER = 7.2  # width of one, roughly: there is nothing to measure text with
_LONGEST = 34
_STYLE = """
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #222222; } .faint { fill: #666666; } .grid { stroke: #e3e3e3; } .zero { stroke: #444444; }
.dot { fill: #0a84d6; fill-opacity: 0.55; } .bar, .mean { stroke: #0b5c97; stroke-width: 2; }
.own .dot { fill: #777777; } .own .bar, .own .mean { stroke: #444444; }
.lost { stroke: #d6406b; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #14171c; }
  text { fill: #e6e6e6; } .faint { fill: #a0a4aa; } .grid { stroke: #2c3138; } .zero { stroke: #d0d0d0; }
  .bar, .mean { stroke: #7cc4f7; } .dot { fill: #2f9df0; fill-opacity: 0.7; } .own .dot { fill: #a8a8a8; }
  .own .bar, .own .mean { stroke: #d0d0d0; }
}
"""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Numbers from ``low`` to ``high`` on ``width`` pixels from ``left``."""

    left: float
    width: float
    low: float
    high: float

    @classmethod
    def over(cls, left: float, width: float, values: Sequence[float]) -> _Axis:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = 0.06 * (high - low) or 0.05 * max(abs(high), 0.1)
        return cls(left, width, low - room, high + room)

    def at(self, value: float) -> float:
        """The pixel of a number."""
        return self.left + self.width * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Three to eight round numbers."""
        rough = (self.high - self.low) / 8
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [n * step for n in range(first, last + 1)]


def comparison_svg(comparison: Comparison) -> str:
    """Per proxy and layer: a dot per training, the mean and its interval; beside it the paired differences to the
    reference with theirs. A training that diverged is a cross at the score that it counts with."""
    units = Units(comparison.proxies)
    rows = comparison.rows
    left = round(30 + _LETTER * max(len(_short(row["name"])) for row in rows))
    width = left + _SCORES + _GAP + _DIFFERENCES + _RIGHT
    block = _HEAD + _ROW * len(rows) + _FOOT
    height = _TOP + block * len(comparison.proxies) + _BOTTOM
    reference = comparison.contestants[comparison.reference].name
    seeds = max(row["n"] for row in rows)
    title = f"{len(rows)} layers, {seeds} seed{'s' * (seeds != 1)}"
    title += "" if comparison.complete else ", incomplete"
    about = f"held-out scores; on the right, paired differences to {_short(reference)}, with 95 % intervals"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text x="16" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="16" y="46" class="faint">{escape(about)}</text>',
        *_legend(16, 66),
    ]
    for n, proxy in enumerate(comparison.proxies):
        out += _block(proxy, rows, units, float(left), float(_TOP + n * block))
    return "\n".join([*out, "</svg>"]) + "\n"


def _legend(x: float, y: float) -> list[str]:
    parts = [_dot(x + 5, y, ""), f'<text x="{x + 16}" y="{y + 4}">one training</text>']
    parts += [
        _span(x + 122, x + 150, y, x + 136, ""),
        f'<text x="{x + 158}" y="{y + 4}">mean and interval</text>',
    ]
    parts += [
        _cross(x + 300, y, ""),
        f'<text x="{x + 312}" y="{y + 4}">diverged, counted as the worst score</text>',
    ]
    return parts


def _block(proxy: str, rows: Sequence[Mapping[str, Any]], units: Units, left: float, top: float) -> list[str]:
    lost = {(row["candidate"], d["seed"]) for row in rows for d in row["diverged"] if d["proxy"] == proxy}
    shown = {
        row["candidate"]: {
            seed: units.number(proxy, value)
            for seed, value in enumerate(row["scores"][proxy])
            if value is not None
        }
        for row in rows
    }
    spans = {layer: interval(list(values.values())) for layer, values in shown.items()}
    values = [v for one in shown.values() for v in one.values()]
    scores = _Axis.over(left, _SCORES, [*values, *(v for ends in spans.values() for v in ends or ())])
    right = _Axis.over(left + _SCORES + _GAP, _DIFFERENCES, [0.0, *_differences(proxy, rows, units)])
    bottom = top + _HEAD + _ROW * len(rows)
    unit = "bits per byte, lower is better" if units.lower_is_better(proxy) else "accuracy"
    out = [f'<text x="16" y="{top + 22:.0f}" font-weight="600">{escape(proxy)}</text>']
    for axis in (scores, right):
        out += _grid(axis, top + _HEAD - 6, bottom, zero=axis is right)
    for axis, words in ((scores, unit), (right, "difference")):
        middle = axis.left + axis.width / 2
        out.append(
            f'<text x="{middle:.0f}" y="{bottom + 34:.0f}" class="faint" text-anchor="middle">{words}</text>'
        )
    for n, row in enumerate(rows):
        y = top + _HEAD + _ROW * (n + 0.5)
        found = row["candidate"]
        out.append(f'<g class="{"own" if row["reference"] else "other"}">')
        out.append(f'<path class="grid" d="M{left:.0f} {y:.1f}h{_SCORES}m{_GAP} 0h{_DIFFERENCES}"/>')
        out.append(
            f'<text x="{left - 12:.0f}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(row["name"]))}'
            f"<title>{escape(row['formula'])}</title></text>"
        )
        for seed, value in shown[found].items():
            gone = (found, seed) in lost
            words = f"{row['name']}, seed {seed + 1}: {'diverged' if gone else f'{value:.4f}'}"
            out.append((_cross if gone else _dot)(scores.at(value), y, words))
        mean = row["per_proxy"][proxy][0]
        if mean is not None:
            centre = units.number(proxy, mean)
            ends = spans[found] or (centre, centre)
            words = f"{row['name']}: mean {centre:.4f}, 95 % interval {ends[0]:.4f} to {ends[1]:.4f}"
            out.append(_span(scores.at(ends[0]), scores.at(ends[1]), y, scores.at(centre), words))
        out += _paired(row, proxy, rows, units, right, y)
        out.append("</g>")
    return out


def _differences(proxy: str, rows: Sequence[Mapping[str, Any]], units: Units) -> list[float]:
    """What the axis of the differences has to show: every pair, and the ends of the intervals."""
    found: list[float | None] = []
    own = next(row for row in rows if row["reference"])
    for row in rows:
        if row["differences"] is not None:
            found += [units.change(proxy, value) for _, value in _pairs(row, own, proxy)]
            found += [units.change(proxy, row["differences"][proxy][end]) for end in ("low", "high")]
    return [v for v in found if v is not None]


def _pairs(row: Mapping[str, Any], own: Mapping[str, Any], proxy: str) -> list[tuple[int, float]]:
    both = zip(row["scores"][proxy], own["scores"][proxy], strict=True)
    return [(seed, a - b) for seed, (a, b) in enumerate(both) if a is not None and b is not None]


def _paired(
    row: Mapping[str, Any],
    proxy: str,
    rows: Sequence[Mapping[str, Any]],
    units: Units,
    axis: _Axis,
    y: float,
) -> list[str]:
    x = axis.left + axis.width + 12
    if row["differences"] is None:
        return [f'<text x="{x:.0f}" y="{y + 4:.1f}" class="faint">reference</text>']
    found = row["differences"][proxy]
    mean = _plus(units.change(proxy, found["mean"]))
    if mean is None:
        return [f'<text x="{x:.0f}" y="{y + 4:.1f}" class="faint">no pair</text>']
    own = next(one for one in rows if one["reference"])
    out = []
    for seed, value in _pairs(row, own, proxy):
        change = _plus(units.change(proxy, value)) or 0.0
        out.append(_dot(axis.at(change), y, f"{row['name']}, seed {seed + 1}: {change:+.4f}"))
    text = f"{mean:+.3f}"
    ends = sorted(_plus(units.change(proxy, found[end])) or 0.0 for end in ("low", "high"))
    if found["low"] is None:
        ends = [mean, mean]
    else:
        text += f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    out.append(_span(axis.at(ends[0]), axis.at(ends[1]), y, axis.at(mean), f"{row['name']}: {text}"))
    out.append(f'<text x="{x:.0f}" y="{y + 4:.1f}" font-size="11">{text}</text>')
    return out


def _plus(value: float | None) -> float | None:
    """Without a negative zero."""
    return None if value is None else value + 0.0


def _grid(axis: _Axis, top: float, bottom: float, *, zero: bool) -> list[str]:
    out = []
    for tick in axis.ticks():
        kind = "zero" if zero and abs(tick) < 1e-12 else "grid"
        out.append(f'<path class="{kind}" d="M{axis.at(tick):.1f} {top:.0f}V{bottom:.0f}"/>')
        text = f"{tick:+.3g}" if zero and abs(tick) > 1e-12 else f"{tick:.3g}" if abs(tick) > 1e-12 else "0"
        out.append(
            f'<text x="{axis.at(tick):.1f}" y="{bottom + 16:.0f}" font-size="11" text-anchor="middle">{text}</text>'
        )
    return out


def _dot(x: float, y: float, words: str) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{_words(words)}</circle>'


def _span(low: float, high: float, y: float, mean: float, words: str) -> str:
    line = f'<path class="bar" fill="none" d="M{low:.1f} {y - 3:.1f}v6m0 -3H{high:.1f}m0 -3v6"/>'
    line = line if high - low > 0.5 else ""
    return f'<g>{line}<path class="mean" d="M{mean:.1f} {y - 8:.1f}v16"/>{_words(words)}</g>'


def _cross(x: float, y: float, words: str) -> str:
    return f'<path class="lost" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8">{_words(words)}</path>'


def _words(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
