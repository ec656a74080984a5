"""What the checks of a primitive share: arguments to run it on, and ways to run it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from evonas import primitives
from evonas.graph import BTC, NCHW, Graph, Layout, Node
from evonas.graph.execute import ArrayOps
from evonas.graph.layout import IndexSet
from evonas.primitives import EPS, Namespace, Primitive
from evonas.rng import derive_seed

#: Sizes of b, g, k, h, w in the split view that primitives are run on.
SHAPE = (3, 2, 2, 2, 3)
#: One value per channel.
VECTOR = (1, 2, 2, 1, 1)
#: One value per sample and group.
STATISTIC = (3, 2, 1, 1, 1)
INDEX_SETS: tuple[IndexSet, ...] = (("b", "w", "h"), ("w", "h"), ("w", "h", "c"), ("w", "h", "c/g"), ("c",))
#: Sizes of b, t, g, k that causal moments are run on, and their index sets.
CAUSAL_SHAPE = (3, 4, 2, 2)
CAUSAL_INDEX_SETS: tuple[IndexSet, ...] = (("t",), ("t", "c"), ("t", "c/g"))
#: Zeros of both signs, the guard's own size, and values that are large but ordinary in a network.
SINGULAR = (0.0, -0.0, EPS, -EPS, 1.0, -1.0, 1e-3, 300.0, -300.0, 1e4, -1e4)

_FUNCTIONS = sorted(name for name in vars(Namespace) if not name.startswith("_"))


class Subject:
    """A primitive under test, with seeded arguments in float64."""

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        self.rng = np.random.Generator(np.random.PCG64(derive_seed("contract", primitive.name)))
        self.indices: tuple[IndexSet | None, ...] = INDEX_SETS if primitive.kind == "moment" else (None,)
        self.layout: Layout = NCHW
        #: a full argument, one value per channel, one per sample and group.
        self.shape: tuple[int, ...] = SHAPE
        self.vector: tuple[int, ...] = VECTOR
        self.statistic: tuple[int, ...] = STATISTIC
        if primitive.causal:
            self.indices, self.layout, self.shape = CAUSAL_INDEX_SETS, BTC, CAUSAL_SHAPE
            self.vector, self.statistic = (1, 1, 2, 2), (3, 1, 2, 1)

    def values(self, shape: Sequence[int] | None = None) -> np.ndarray:
        """Values of both signs, 0.2 to 2.5 in size: away from zero and from each other."""
        shape = self.shape if shape is None else shape
        size = self.rng.uniform(0.2, 2.5, size=tuple(shape))
        return size * np.where(self.rng.random(size=tuple(shape)) < 0.5, -1.0, 1.0)

    def arguments(self) -> tuple[np.ndarray, ...]:
        """One array of full shape per argument."""
        return tuple(self.values() for _ in range(self.primitive.arity))

    def shapes(self) -> Iterator[tuple[tuple[int, ...], ...]]:
        """Combinations of argument shapes that occur in a graph."""
        one = (1,) * len(self.shape)
        yield from product((self.shape, self.vector, self.statistic, one), repeat=self.primitive.arity)

    def singular(self) -> list[tuple[np.ndarray, ...]]:
        """Arguments that hold every combination of the points of ``SINGULAR``, ties included."""
        grid = np.array(list(product(SINGULAR, repeat=self.primitive.arity))).T
        if self.primitive.kind != "moment":
            return [tuple(row.reshape(-1, 1, 1, 1, 1) for row in grid)]
        constant = [np.full(self.shape, value) for value in SINGULAR]
        return [(a,) for a in (*constant, 1e4 * self.values(), EPS * self.values())]

    def run(self, xp: Any, *args: Any, index: IndexSet | None = None, eps: float = EPS) -> Any:
        """The eager function on arrays, numpy warnings off."""
        with np.errstate(all="ignore"):
            return ArrayOps(xp, self.layout, eps=eps).bind(self.primitive, index)(*args)

    def numpy(self, *args: Any, index: IndexSet | None = None, eps: float = EPS) -> Any:
        return self.run(primitives.numpy_namespace, *args, index=index, eps=eps)

    def torch(self, *args: Any, index: IndexSet | None = None, eps: float = EPS) -> Any:
        return self.run(primitives.torch_namespace(), *args, index=index, eps=eps)

    def gradient(
        self, g: np.ndarray, *args: np.ndarray, index: IndexSet | None = None, eps: float = EPS
    ) -> tuple[np.ndarray, ...]:
        """Adjoints by the definition, on numpy arrays."""
        y = self.numpy(*args, index=index, eps=eps)
        ops = ArrayOps(primitives.numpy_namespace, self.layout, eps=eps)
        extra = () if index is None else (index,)
        with np.errstate(all="ignore"):
            return self.primitive.gradient(ops, g, y, *args, *extra)

    def graph(self, leaves: Sequence[str], index: IndexSet | None = None) -> Graph:
        """The graph of one call on leaves."""
        unique = tuple(dict.fromkeys(leaves))
        node = Node(self.primitive.name, tuple(unique.index(leaf) for leaf in leaves), index)
        return Graph(unique, (node,), len(unique))

    def where(self, index: IndexSet | None) -> str:
        """How a message names the call."""
        return self.primitive.name + ("" if index is None else f"[{','.join(index)}]")


def explain(error: BaseException) -> str:
    """An exception of the author's code as a sentence that says what is needed."""
    text = str(error).splitlines()[0] if str(error) else "no message"
    return (
        f"{type(error).__name__}: {text}; eager code may use + - * / and xp.<function> alone, with functions "
        f"{', '.join(_FUNCTIONS)}, and a gradient ops.<primitive>(...) and ops.const(...) alone"
    )


def difference(got: Any, wanted: Any) -> float:
    """Largest difference relative to the size of the values; infinite if they cannot be compared."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    try:
        a, b = np.broadcast_arrays(a, b)
    except ValueError:
        return math.inf
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    if not (np.isfinite(a) | same).all() or not (np.isfinite(b) | same).all():
        return math.inf
    a, b = a[~same], b[~same]
    return float((np.abs(a - b) / (1.0 + np.maximum(np.abs(a), np.abs(b)))).max())
