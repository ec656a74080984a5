"""Numbers in words: scores, spreads, durations, sizes, the same wherever a run is told of."""

from __future__ import annotations

import math


def score(value: float | None) -> str:
    """An accuracy with three decimals, "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def spread(mean: float | None, std: float | None, *, sign: bool = False) -> str:
    """mean ± std; the spread is left out where one seed gives none."""
    if mean is None or not math.isfinite(mean):
        return "-"
    text = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    return text if std is None else f"{text} ± {std:.3f}"


def microseconds(value: float | None) -> str:
    """A latency with one decimal, "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def seconds(value: float | None) -> str:
    """A duration in words: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value < 10:
        return f"{value:.1f} s"
    total = round(value)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s" if total % 60 else f"{total // 60} min"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
