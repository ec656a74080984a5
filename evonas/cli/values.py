"""Values as people type them: durations, shapes, lists of names."""

from __future__ import annotations

import re

from evonas.errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?\s*")


def duration(text: str | None) -> float | None:
    """Seconds of "90", "90s", "10m", "1h30m", "2d".

    Raises:
        UsageError: not a duration.
    """
    if text is None:
        return None
    rest, total = text.strip().lower(), 0.0
    if not rest:
        raise UsageError("an empty time", hint="write --max-time 10m, 90s or 1h30m")
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise UsageError(f"{text!r} is not a time", hint="write --max-time 10m, 90s or 1h30m")
        total += float(part[1]) * _UNITS[(part[2] or "s")[0]]
        rest = rest[part.end() :]
    return total


def shape(text: str, layout: str) -> tuple[int, ...]:
    """The sizes in "1,64,56,56".

    Raises:
        UsageError: not as many positive integers as the layout has axes.
    """
    axes = {"nchw": "batch,channels,height,width", "btc": "batch,tokens,channels"}[layout]
    parts = re.split(r"[,x\s]+", text.strip())
    wanted = axes.count(",") + 1
    if len(parts) != wanted or not all(p.isdigit() and int(p) > 0 for p in parts):
        example = "1,64,56,56" if layout == "nchw" else "1,128,64"
        raise UsageError(f"{text!r} is not a shape {axes}", hint=f"write --shape {example}")
    return tuple(int(p) for p in parts)


def names(text: str | None) -> list[str] | None:
    """Names separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
