"""Whether a layer lets a token see later ones: by test, because plug-ins and options can do what no rule foresees.

One token is changed, and nothing before it may change. Parameters are off their start, where a leak can be hidden (a
product with v0 = 0). Statistics over the batch count as what evaluation makes of them, running averages: constants.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from evonas import primitives
from evonas.graph.execute import ArrayOps
from evonas.graph.graph import Graph, literal
from evonas.graph.layout import BTC
from evonas.rng import derive_seed

#: b, t, g, k
_SHAPE = (2, 9, 2, 2)
#: Tokens that are changed: the first one can change everything, the last one only itself.
_CHANGED = (8, 5, 2, 1)
_MOVES = (0.7, -2.5)
#: Relative to the largest value: more than a difference in the order of sums, less than a dependence.
_TOLERANCE = 1e-9


class Leak(NamedTuple):
    """Changing token ``changed`` changes token ``affected`` before it, by ``size`` of the largest value."""

    changed: int
    affected: int
    size: float

    def __str__(self) -> str:
        return f"changing token {self.changed} changes token {self.affected}"


@lru_cache(maxsize=1)
def _leaves() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(derive_seed("causality")))
    vector = (1, 1, *_SHAPE[2:])
    one = (1, 1, 1, 1)
    return {
        "x": rng.normal(0.3, 1.2, _SHAPE),
        "v0": rng.normal(0.4, 0.6, vector),
        "v1": rng.normal(1.0, 0.5, vector),
        "s0": np.full(one, 0.45),
        "s1": np.full(one, 1.35),
    }


def find_leak(graph: Graph) -> Leak | None:
    """The first leak that is found in a graph on (batch, tokens, channels), None if there is none."""
    graph = graph.active()
    ops = ArrayOps(primitives.numpy_namespace, BTC)
    with np.errstate(all="ignore"):
        base = _values(graph, _leaves(), ops, None)
        before = np.broadcast_to(base[graph.output], _SHAPE)
        for t in _CHANGED:
            for move in _MOVES:
                x = _leaves()["x"].copy()
                x[:, t] = move - x[:, t]
                values = _values(graph, _leaves() | {"x": x}, ops, base)
                leak = _compare(before[:, :t], np.broadcast_to(values[graph.output], _SHAPE)[:, :t], t)
                if leak is not None:
                    return leak
    return None


def _values(
    graph: Graph, leaves: dict[str, np.ndarray], ops: ArrayOps, base: list[np.ndarray] | None
) -> list[np.ndarray]:
    """Of every leaf and node; nodes over the batch keep the values of ``base``."""
    values: list[np.ndarray] = []
    for leaf in graph.leaves:
        constant = literal(leaf)
        values.append(leaves[leaf] if constant is None else np.full((1,) * len(_SHAPE), constant))
    for op, args, index in graph.nodes:
        if base is not None and index is not None and "b" in index:
            values.append(base[len(values)])
        else:
            values.append(ops.function(op, index)(*[values[a] for a in args]))
    return values


def _compare(before: np.ndarray, after: np.ndarray, changed: int) -> Leak | None:
    regular = np.isfinite(before)
    differs = regular != np.isfinite(after)
    both = regular & np.isfinite(after)
    scale = max(float(np.abs(before[both]).max(initial=0.0)), 1e-30)
    apart = np.where(both, np.abs(np.where(both, after, 0.0) - np.where(both, before, 0.0)), 0.0) / scale
    tokens = ((apart > _TOLERANCE) | differs).any(axis=(0, 2, 3))
    if not tokens.any():
        return None
    affected = int(np.argmax(tokens))
    return Leak(changed, affected, float(apart[:, affected].max()))
