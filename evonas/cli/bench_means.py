"""What a comparison comes down to: how much longer other ways of running layers take, as geometric means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

#: Generated kernels, which the others are compared with: one of them runs on a device.
OURS = ("triton", "c")
#: Modes of torch.compile, and the name of the faster one in each cell.
MODES, BEST_MODE = ("compile", "compile max"), "compile best"
PASSES = ("forward", "backward", "both")

#: A layer at a shape, memory order and dtype, and a pass.
Cell = tuple[tuple[Any, ...], str]


def geometric_means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per peer and pass the geometric mean of its time over ours, over the cells in which both ran.

    ``rows``: those of ``bench_run.measure``. The pass "both" has the sum of forward and backward. Empty if no
    generated kernels ran.
    """
    times = _times(rows)
    ours = next((name for name in OURS if name in times), None)
    if ours is None:
        return []
    if all(mode in times for mode in MODES):
        times[BEST_MODE] = _faster(*(times[mode] for mode in MODES))
    found = []
    for peer in (name for name in times if name != ours):
        for which in PASSES:
            ratios = [
                time / times[ours][cell]
                for cell, time in times[peer].items()
                if cell in times[ours] and cell[1] == which
            ]
            if ratios:
                mean = geometric_mean(ratios)
                found.append({"ours": ours, "peer": peer, "pass": which, "cells": len(ratios), "ratio": mean})
    return found


def _times(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[Cell, float]]:
    """Microseconds by backend."""
    times: dict[str, dict[Cell, float]] = {}
    for row in rows:
        what = tuple(row[key] for key in ("formula", "layout", "memory", "dtype", "groups"))
        times.setdefault(row["backend"], {})[(*what, *row["shape"]), row["pass"]] = row["median_us"]
    for known in times.values():
        for what in [what for what, which in known if which == "forward" and (what, "backward") in known]:
            known[what, "both"] = known[what, "forward"] + known[what, "backward"]
    return times


def _faster(first: Mapping[Cell, float], second: Mapping[Cell, float]) -> dict[Cell, float]:
    cells = dict.fromkeys((*first, *second))
    return {cell: min(known[cell] for known in (first, second) if cell in known) for cell in cells}
