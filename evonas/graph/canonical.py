"""Hash-consing: every expression once, simplified, with a digest that is the same everywhere.

An ``Interner`` turns (primitive, index set, argument ids) into the id of a canonical expression. Equal
expressions get equal ids, arguments of commutative primitives are ordered, constants are folded and the rules
of ``evonas.graph.rules`` are applied as the expression is built, so an id always stands for a normal form. The
digest of an expression is 128 bits of BLAKE2b over its primitive, index set and the digests of its arguments:
no ids, no process state.
"""

from __future__ import annotations

import ast
import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from evonas import primitives
from evonas.graph.graph import Graph, GraphBuilder, literal, literal_name
from evonas.graph.layout import AXES, IndexSet
from evonas.graph.rules import RULES

_ALL = frozenset({"b", "t", "w", "h", "g", "k"})
_VARIES: dict[str, frozenset[str]] = {
    "x": _ALL,
    "g": _ALL,
    "v0": frozenset({"g", "k"}),
    "v1": frozenset({"g", "k"}),  # s0 and s1 vary over nothing, like constants
}
_COVERS = {axis: frozenset({axis}) for axis in AXES} | {"c": frozenset({"g", "k"}), "c/g": frozenset({"k"})}
_NOT_NEGATIVE = {"abs", "square", "exp", "sigmoid", "rms", "std", "crms", "cstd"}


class _Pattern(NamedTuple):
    """op == "?": binds a variable (name in ``leaf``); op == "": a constant leaf; else a node."""

    op: str
    leaf: str = ""
    args: tuple[_Pattern, ...] = ()
    index: str | None = None  # type: ignore[assignment]  # hides tuple.index


def _compile(text: str) -> _Pattern:
    """A rule's text as a pattern; the variables are a, b and, as an index set, I."""

    def read(node: ast.expr) -> _Pattern:
        if isinstance(node, ast.Name):
            return _Pattern("?", node.id)
        if isinstance(node, ast.Constant):
            return _Pattern("", literal_name(node.value))  # type: ignore[arg-type]
        if isinstance(node, ast.UnaryOp):
            if isinstance(node.operand, ast.Constant):
                return _Pattern("", literal_name(-node.operand.value))  # type: ignore[operator, arg-type]
            return _Pattern("neg", args=(read(node.operand),))
        if isinstance(node, ast.BinOp):
            op = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}[type(node.op)]
            return _Pattern(op, args=(read(node.left), read(node.right)))
        assert isinstance(node, ast.Call)
        if isinstance(node.func, ast.Subscript):
            assert isinstance(node.func.value, ast.Name)
            return _Pattern(node.func.value.id, args=(read(node.args[0]),), index="I")
        assert isinstance(node.func, ast.Name)
        return _Pattern(node.func.id, args=tuple(read(a) for a in node.args))

    return read(ast.parse(text, mode="eval").body)


@lru_cache(maxsize=1)
def _rules_by_root() -> dict[str, tuple[tuple[_Pattern, _Pattern, str | None], ...]]:
    table: dict[str, list[tuple[_Pattern, _Pattern, str | None]]] = {}
    for rule in RULES:
        pattern = _compile(rule.pattern)
        table.setdefault(pattern.op, []).append((pattern, _compile(rule.result), rule.when))
    return {op: tuple(rules) for op, rules in table.items()}


class Interner:
    """A table of canonical expressions. Ids mean something only within one interner (``clear`` forgets all)."""

    def __init__(self, limit: int = 20_000) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget every expression; ids given out before are void."""
        self._op: list[str] = []
        self._args: list[tuple[int, ...]] = []
        self._index: list[IndexSet | None] = []
        self._varies: list[frozenset[str]] = []
        self._has_x: list[bool] = []
        self.digests: list[bytes] = []
        self._leaf: dict[str, int] = {}
        self._memo: dict[tuple[str, IndexSet | None, tuple[int, ...]], int] = {}
        self._generation = primitives.registry.generation

    def full(self) -> bool:
        """Whether the owner should ``clear`` before the next expression."""
        return len(self._op) > self.limit or self._generation != primitives.registry.generation

    def leaf(self, name: str) -> int:
        """The id of an input or constant."""
        i = self._leaf.get(name)
        if i is None:
            i = self._leaf[name] = self._enter("", (), None, _VARIES.get(name, frozenset()), name)
        return i

    def cons(self, op: str, args: tuple[int, ...], index: IndexSet | None = None) -> int:
        """The id of the simplified expression ``op[index](*args)``."""
        key = (op, index, args)
        i = self._memo.get(key)
        if i is None:
            i = self._memo[key] = self._make(op, args, index)
        return i

    def raw(self, op: str, args: tuple[int, ...], index: IndexSet | None = None) -> int:
        """The id of exactly this expression: shared, but neither simplified nor reordered."""
        key = ("raw " + op, index, args)
        if key not in self._memo:
            self._memo[key] = self._enter(op, args, index, self._vary(op, args, index))
        return self._memo[key]

    def depends_on_x(self, i: int) -> bool:
        """Whether x occurs in the expression."""
        return self._has_x[i]

    def graph(self, i: int) -> Graph:
        """The canonical graph of an expression: nodes in depth-first order from the output."""
        builder = GraphBuilder()
        handles: dict[int, object] = {}
        stack = [i]
        while stack:
            j = stack[-1]
            missing = [a for a in reversed(self._args[j]) if a not in handles]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if j not in handles:
                if self._op[j] == "":
                    handles[j] = builder.leaf(self._index[j][0])  # type: ignore[index]
                else:
                    handles[j] = builder.node(
                        self._op[j], [handles[a] for a in self._args[j]], self._index[j]
                    )
        return builder.build(handles[i])

    def add_graph(self, graph: Graph) -> int:
        """The id of a graph's output."""
        ids = [self.leaf(leaf) for leaf in graph.leaves]
        wanted = graph.ancestors()
        for i, (op, args, index) in graph.operations():
            ids.append(self.cons(op, tuple(ids[a] for a in args), index) if i in wanted else -1)
        return ids[graph.output]

    def _vary(self, op: str, args: tuple[int, ...], index: IndexSet | None) -> frozenset[str]:
        varies = self._varies[args[0]]
        for a in args[1:]:
            varies |= self._varies[a]
        causal = index is not None and primitives.get(op).causal
        for axis in index or ():
            if not (causal and axis == "t"):
                varies -= _COVERS[axis]
        return varies

    def _enter(
        self, op: str, args: tuple[int, ...], index: IndexSet | None, varies: frozenset[str], leaf: str = ""
    ) -> int:
        token = f"{op}[{','.join(index or ())}]" if op else f"leaf {leaf}"
        parts = b"".join(self.digests[a] for a in args)
        self._op.append(op)
        self._args.append(args)
        self._index.append(index if op else (leaf,))
        self._varies.append(varies)
        self._has_x.append(leaf == "x" or any(self._has_x[a] for a in args))
        self.digests.append(hashlib.blake2b(token.encode() + b"\0" + parts, digest_size=16).digest())
        return len(self._op) - 1

    def _constant(self, i: int) -> float | None:
        return literal(self._index[i][0]) if self._op[i] == "" else None  # type: ignore[index]

    def _make(self, op: str, args: tuple[int, ...], index: IndexSet | None) -> int:
        primitive = primitives.get(op)
        if primitive.commutative and self.digests[args[0]] > self.digests[args[1]]:
            args = (args[1], args[0])
        folded = self._fold(op, args, index)
        if folded is not None:
            return folded
        for pattern, result, when in _rules_by_root().get(op, ()):
            bound = self._match(pattern, op, args, index)
            if bound is None and primitive.commutative:
                bound = self._match(pattern, op, (args[1], args[0]), index)
            if bound is not None and (when is None or self._holds(when, bound)):
                return self._instantiate(result, bound)
        known = self._memo.get((op, index, args))
        if known is not None:
            return known
        i = self._enter(op, args, index, self._vary(op, args, index))
        self._memo[(op, index, args)] = i
        return i

    def _fold(self, op: str, args: tuple[int, ...], index: IndexSet | None) -> int | None:
        """Constants in, constant out, unless the result is not finite."""
        values = []
        for a in args:
            value = self._constant(a)
            if value is None:
                return None
            values.append(value)
        arrays = [np.full((1,), v) for v in values]
        primitive = primitives.get(op)
        with np.errstate(all="ignore"):
            xp = primitives.numpy_namespace
            out = primitive.eager(xp, *arrays, (0,)) if index is not None else primitive.eager(xp, *arrays)
        value = float(np.asarray(out).reshape(-1)[0])
        if not math.isfinite(value) or abs(value) > 1e30:
            return None
        return self.leaf(literal_name(value))

    def _match(
        self, pattern: _Pattern, op: str, args: tuple[int, ...], index: IndexSet | None
    ) -> dict[str, object] | None:
        bound: dict[str, object] = {"I": index} if pattern.index else {}
        for part, i in zip(pattern.args, args, strict=True):
            if not self._match_part(part, i, bound):
                return None
        return bound

    def _match_part(self, pattern: _Pattern, i: int, bound: dict[str, object]) -> bool:
        if pattern.op == "?":
            return bound.setdefault(pattern.leaf, i) == i
        if pattern.op != self._op[i]:
            return False
        if pattern.op == "":
            return self._index[i] == (pattern.leaf,)
        if pattern.index and bound.setdefault("I", self._index[i]) != self._index[i]:
            return False
        args = self._args[i]
        return all(self._match_part(p, a, bound) for p, a in zip(pattern.args, args, strict=True))

    def _holds(self, when: str, bound: dict[str, object]) -> bool:
        a: int = bound["a"]  # type: ignore[assignment]
        if when == "a constant over I":
            index: IndexSet = bound["I"]  # type: ignore[assignment]
            return not any(self._varies[a] & _COVERS[axis] for axis in index)
        constant = self._constant(a)
        return self._op[a] in _NOT_NEGATIVE or (constant is not None and constant >= 0)

    def _instantiate(self, pattern: _Pattern, bound: dict[str, object]) -> int:
        if pattern.op == "?":
            return bound[pattern.leaf]  # type: ignore[return-value]
        if pattern.op == "":
            return self.leaf(pattern.leaf)
        args = tuple(self._instantiate(p, bound) for p in pattern.args)
        return self.cons(pattern.op, args, bound["I"] if pattern.index else None)  # type: ignore[arg-type]


def canonical(graph: Graph) -> Graph:
    """The normal form: simplified, commutative arguments ordered, equal sub-expressions shared."""
    interner = Interner()
    return interner.graph(interner.add_graph(graph))


def digest(graph: Graph) -> bytes:
    """16 bytes that are equal for graphs with the same normal form, in every process and version."""
    interner = Interner()
    return interner.digests[interner.add_graph(graph)]
