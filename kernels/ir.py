"""The compiler's intermediate representation: hash-consed scalar operations and means over sets of axes.

Every value knows the axes that it varies over (its type) and an interval that it lies in; broadcasting is implicit.
There are two reductions, the mean and the biased variance over a set of axes; everything else acts on single
numbers. Values are simplified as they are made (``evonas.kernels.simplify``), so equal expressions have equal ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Axes = frozenset[str]
NOWHERE: Axes = frozenset()

REDUCTIONS = ("mean", "var")
COMMUTATIVE = {"add", "mul", "max", "min"}
#: Scalar operations and their numbers of arguments. ``where`` selects by a comparison.
SCALAR = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "max": 2, "min": 2, "neg": 1, "abs": 1, "exp": 1, "log": 1,
    "sqrt": 1, "rsqrt": 1, "recip": 1, "sigmoid": 1, "tanh": 1, "erf": 1, "lt": 2, "gt": 2, "where": 3,
}  # fmt: skip


class Value(NamedTuple):
    """One value. ``name`` is that of a leaf, ``constant`` that of a constant, ``over`` the axes of a reduction.

    ``varies``: axes that the value varies over. ``reads``: axes that any leaf below it varies over, the reduced
    ones included. ``low`` and ``high`` bound it when no NaN occurs.
    """

    op: str
    args: tuple[int, ...]
    name: str
    constant: float
    over: Axes
    varies: Axes
    reads: Axes
    low: float
    high: float


class IR:
    """A table of values; ids are positions in it, arguments precede their users."""

    def __init__(self, *, split_means: bool = True) -> None:
        """``split_means``: whether a mean over several axes may become a mean of weighted partial means."""
        self.values: list[Value] = []
        self.split_means = split_means
        self._memo: dict[object, int] = {}

    def __getitem__(self, i: int) -> Value:
        return self.values[i]

    def leaf(self, name: str, varies: Iterable[str]) -> int:
        """An input; the same name gives the same id."""
        axes = frozenset(varies)
        return self._enter(Value("leaf", (), name, 0.0, NOWHERE, axes, axes, -math.inf, math.inf))

    def constant(self, value: float) -> int:
        value = float(value) + 0.0
        return self._enter(Value("const", (), "", value, NOWHERE, NOWHERE, NOWHERE, value, value))

    def apply(self, op: str, *args: int) -> int:
        """A scalar operation, simplified."""
        from evonas.kernels.simplify import simplify

        known = simplify(self, op, args)
        return known if known is not None else self.raw(op, args)

    def mean(self, a: int, over: Iterable[str]) -> int:
        """The mean over axes; those that ``a`` does not vary over change nothing."""
        from evonas.kernels.simplify import simplify_mean

        over = frozenset(over) & self[a].varies
        return simplify_mean(self, a, over) if over else a

    def raw(self, op: str, args: tuple[int, ...], over: Axes = NOWHERE) -> int:
        """Exactly this operation, commutative arguments ordered."""
        from evonas.kernels.intervals import bounds

        if op in COMMUTATIVE:  # constants first
            args = tuple(sorted(args, key=lambda a: (self[a].op != "const", a)))
        union = NOWHERE.union(*(self[a].varies for a in args))
        reads = NOWHERE.union(*(self[a].reads for a in args))
        low, high = bounds(op, args, [(self[a].low, self[a].high) for a in args])
        return self._enter(Value(op, args, "", 0.0, over, union - over, reads, low, high))

    def existing(self, op: str, args: tuple[int, ...], over: Axes = NOWHERE) -> int | None:
        """Exactly this operation, if it was made before."""
        return self._memo.get((op, args, "", 0.0, over))

    def _enter(self, value: Value) -> int:
        key = (value.op, value.args, value.name, value.constant, value.over)
        i = self._memo.get(key)
        if i is None:
            i = self._memo[key] = len(self.values)
            self.values.append(value)
        return i

    def is_constant(self, i: int, value: float | None = None) -> bool:
        """Whether it is a constant, and that one if given."""
        return self[i].op == "const" and (value is None or self[i].constant == value)

    def reachable(self, roots: Iterable[int], stop: Iterable[int] = ()) -> list[int]:
        """Ids that the roots need, ascending; nothing is followed below ``stop``, which is included itself."""
        stops = frozenset(stop)
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                if i not in stops:
                    stack.extend(self[i].args)
        return sorted(seen)

    def reductions(self, roots: Iterable[int], stop: Iterable[int] = ()) -> list[int]:
        """Means and variances that the roots need and that are not in ``stop``."""
        stops = frozenset(stop)
        return [i for i in self.reachable(roots, stops) if self[i].op in REDUCTIONS and i not in stops]

    def centres(self, reductions: Iterable[int]) -> set[int]:
        """The means inside variances, which are found with these; not those that are known to be constant."""
        inside = {self[i].args[1] for i in reductions if self[i].op == "var"}
        return {i for i in inside if self[i].op != "const"}

    def copy(self) -> IR:
        """Another table with the same values, to which more can be added."""
        made = IR(split_means=self.split_means)
        made.values, made._memo = list(self.values), dict(self._memo)
        return made

    def levels(
        self, roots: Iterable[int], stop: Iterable[int] = (), over: Iterable[str] | None = None
    ) -> dict[int, int]:
        """Reductions below the roots -> the longest chain of them in each, itself included.

        The mean inside a variance is found in the same sweep as the variance and adds nothing. over: only count
        reductions along some of these axes.
        """
        stops = frozenset(stop)
        axes = None if over is None else frozenset(over)
        depth: dict[int, int] = {}
        found: dict[int, int] = {}
        for i in self.reachable(roots, stops):
            if i in stops:
                depth[i] = 0
                continue
            value = self[i]
            args = value.args[:1] if value.op == "var" else value.args
            depth[i] = max((depth[a] for a in args), default=0)
            if value.op in REDUCTIONS and (axes is None or value.over & axes):
                depth[i] += 1
                found[i] = depth[i]
        return found

    def factors(self, i: int) -> Iterator[int]:
        """The factors of a product, constants and negations included (as the constant -1)."""
        op, args = self[i].op, self[i].args
        if op == "mul":
            for a in args:
                yield from self.factors(a)
        elif op == "neg":
            yield self.constant(-1.0)
            yield from self.factors(args[0])
        else:
            yield i
