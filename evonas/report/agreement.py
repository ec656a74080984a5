"""How well cheap stages foretell full training: Spearman's rank correlation, ties by average rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evonas.report.reading import Reading


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho in [-1, 1]; None for fewer than three pairs or without any spread."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values, needed are pairs")
    if len(a) < 3:
        return None
    x, y = (_ranks(v) - (len(v) + 1) / 2 for v in (a, b))
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    array = np.asarray(values, dtype=float)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def agreement(reading: Reading) -> list[dict[str, Any]]:
    """Rows stage, against, n, rho: every cheap number against the mean score after full training, over the candidates
    that were trained on every proxy; and the search's mean score against the held-out mean of the re-ranking."""
    scored = reading.scored()
    labels = list(dict.fromkeys(label for told in scored for label in told.cheap))
    rows = []
    for label in labels:
        pairs = [(t.cheap[label], t.mean) for t in scored if label in t.cheap and t.mean is not None]
        if len({a for a, _ in pairs}) > 1:
            rows.append(_row(label, "mean score after full training", pairs))
    finals = [
        (r["search_mean"], r["mean"])
        for r in reading.ranking
        if r.get("search_mean") is not None and r["mean"] is not None
    ]
    if len(finals) > 2:
        rows.append(_row("mean score of the search", "held-out mean of the re-ranking", finals))
    return rows


def _row(label: str, against: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    rho = spearman([a for a, _ in pairs], [b for _, b in pairs])
    return {"stage": label, "against": against, "n": len(pairs), "rho": rho}
