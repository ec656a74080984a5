"""What can be said of a layer without training it, by structure and by test.

Structure is read off the active graph; invariances are tested in float64 on seeded inputs, because a layer
can be invariant for reasons that no syntax shows (and fail to be although it looks so).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evonas import primitives
from evonas.graph.execute import ArrayOps, backward, forward, initial_leaves
from evonas.graph.graph import SCALAR_LEAVES, VECTOR_LEAVES, Graph
from evonas.graph.layout import IndexSet, Layout, get_layout
from evonas.rng import derive_seed

_SIZES = {"b": 6, "t": 5, "g": 2, "k": 3, "h": 4, "w": 5}
_RTOL = 1e-3  # the epsilon inside a root breaks exact scale invariance; a real dependence is far larger
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Properties:
    """``*_invariant`` and ``batch_independent`` are test results, the rest is structure.

    scale_invariant: f(10 x) = f(x) and f(0.1 x) = f(x) up to 1e-3 (parameters as initialized).
    shift_invariant: f(x + 3) = f(x). batch_independent: a sample alone gives the same result as in a batch.
    bounded: |f| stays below 1e3 for inputs up to 1e4. finite: no NaN or Inf on inputs up to 1e4 in size.
    zero_preserving: f(0) = 0.
    """

    depends_on_x: bool
    index_sets: tuple[IndexSet, ...]
    uses_batch: bool
    vectors: tuple[str, ...]
    scalars: tuple[str, ...]
    operations: int
    depth: int
    batch_independent: bool
    scale_invariant: bool
    shift_invariant: bool
    finite: bool
    bounded: bool
    zero_preserving: bool
    varies_over_space: bool


def evaluator(graph: Graph, layout: Layout) -> Callable[[np.ndarray], np.ndarray]:
    """The layer without affine at initialization (v0 = s0 = 0, v1 = s1 = 1) as a function of x in the split view."""
    ops = ArrayOps(primitives.numpy_namespace, layout)

    def call(x: np.ndarray) -> np.ndarray:
        leaves = initial_leaves(x, layout)
        with np.errstate(all="ignore"):
            return np.broadcast_to(forward(graph, leaves, ops)[graph.output], x.shape)

    return call


def _close(a: np.ndarray, b: np.ndarray, rtol: float) -> bool:
    scale = float(np.abs(a).mean()) + float(np.abs(b).mean())
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(a - b).mean())
    return bool(np.isfinite(difference)) and difference <= rtol * scale + 1e-12


def depends_on_x(graph: Graph, layout: Layout) -> bool:
    """Whether x reaches the output in the graph and its gradient is not zero on a random input."""
    if "x" not in graph.active().leaves:
        return False
    rng = np.random.Generator(np.random.PCG64(derive_seed("depends", layout.name)))
    shape = tuple(_SIZES[d] for d in layout.dims)
    vector = tuple(_SIZES[d] if d in ("g", "k") else 1 for d in layout.dims)
    ops = ArrayOps(primitives.numpy_namespace, layout)
    leaves = {"x": rng.normal(size=shape), "v0": rng.normal(size=vector), "v1": rng.normal(size=vector)}
    scalar = (1,) * len(shape)
    leaves |= {"s0": np.full(scalar, -0.7), "s1": np.full(scalar, 1.3)}
    with np.errstate(all="ignore"):
        values = forward(graph, leaves, ops)
        dx = backward(graph, values, rng.normal(size=shape), ops).get("x", np.zeros(1))
    return bool(np.isnan(dx).any() or np.abs(dx).max() > 0)


def analyse(graph: Graph, layout: str = "nchw") -> Properties:
    """Structure and invariances of a graph in a layout."""
    where = get_layout(layout)
    graph = graph.active()
    f = evaluator(graph, where)
    rng = np.random.Generator(np.random.PCG64(derive_seed("analysis", layout)))
    x = rng.normal(0.2, 1.0, size=tuple(_SIZES[d] for d in where.dims))
    y = f(x)
    big = np.concatenate([f(x * 1e4).ravel(), f(x * 1e2).ravel(), y.ravel(), f(np.zeros_like(x)).ravel()])
    depth = [0] * len(graph.leaves)
    for _, node in graph.operations():
        depth.append(1 + max(depth[a] for a in node.args))
    alone = np.concatenate([f(x[i : i + 1]) for i in range(len(x))])
    space = tuple(p for p, d in enumerate(where.dims) if d in ("h", "w", "t"))
    finite = bool(np.isfinite(big).all())
    return Properties(
        depends_on_x=depends_on_x(graph, where),
        index_sets=tuple(sorted(graph.index_sets)),
        uses_batch=graph.uses_batch,
        vectors=tuple(leaf for leaf in VECTOR_LEAVES if leaf in graph.leaves),
        scalars=tuple(leaf for leaf in SCALAR_LEAVES if leaf in graph.leaves),
        operations=len(graph),
        depth=depth[graph.output],
        batch_independent=_close(alone, y, _EXACT),
        scale_invariant=_close(f(10 * x), y, _RTOL) and _close(f(0.1 * x), y, 10 * _RTOL),
        shift_invariant=_close(f(x + 3.0), y, _EXACT),
        finite=finite,
        bounded=finite and bool(np.abs(big).max() < 1e3),
        zero_preserving=bool(np.abs(f(np.zeros_like(x))).max() < 1e-6),
        varies_over_space=bool((y - y.mean(axis=space, keepdims=True)).std() > 1e-9),
    )
