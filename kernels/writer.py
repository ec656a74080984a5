"""Writes values of the IR as statements of a Triton kernel, for one tiling.

Names live in scopes, one per loop. A value that varies over some axes of the tile is a tensor with as many axes as the
tile, of size one along the others; a value that varies over none of them is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from evonas.kernels.ir import IR, REDUCTIONS, Axes
from evonas.kernels.text import ATOM, UNARY, called, operation
from evonas.kernels.tiling import Tiling

_LONGEST = 64  # characters of an expression that is written inside another
_NAMES = {
    "sigmoid": "gate",
    "rsqrt": "inverse",
    "sqrt": "root",
    "tanh": "bounded",
    "exp": "power",
    "div": "ratio",
}


@dataclass(frozen=True)
class Coordinate:
    """Where a program stands on an axis: a scalar start (or None for zero) plus, in the tile, a range."""

    start: str | None
    local: str | None


class Writer:
    """Collects lines, arguments and names of one kernel.

    known: values that were computed by an earlier kernel, by the name of the buffer that holds them.
    summed: whether the leaf x is the sum of two tensors.
    """

    def __init__(self, ir: IR, tiling: Tiling, known: Mapping[int, str], *, summed: bool = False) -> None:
        self.ir = ir
        self.tiling = tiling
        self.known = dict(known)
        self.summed = summed
        self.lines: list[str] = []
        self.depth = 1
        self.helpers: set[str] = set()
        self.pointers: dict[str, None] = {}
        self.numbers: dict[str, None] = {}
        self.reads: dict[str, int] = {}
        self.writes: dict[str, int] = {}
        self.coordinates: dict[str, Coordinate] = {}
        self._scopes: list[dict[int, tuple[str, int]]] = [{}]
        self._masks: list[dict[str, str]] = [{}]
        self._offsets: list[dict[Axes, tuple[str, str]]] = [{}]
        self._taken: set[str] = set(tiling.axes)
        #: offsets of whole tensors within the tile, and the line before which they can be named
        self._at = ""
        self._ranges_end = 0
        #: values of which a name stands for what was loaded, however often they were forgotten
        self._loaded: set[int] = set()

    # lines, scopes, names

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def open(self, header: str) -> None:
        """A loop: what is named inside is forgotten at its end."""
        self.line(header)
        self.depth += 1
        for stack in (self._scopes, self._masks, self._offsets):
            stack.append({})

    def close(self) -> None:
        self.depth -= 1
        for stack in (self._scopes, self._masks, self._offsets):
            stack.pop()

    def fresh(self, base: str) -> str:
        """A variable name that is not taken."""
        name, n = base, 1
        while name in self._taken:
            n += 1
            name = f"{base}{n}"
        self._taken.add(name)
        return name

    def pointer(self, name: str) -> str:
        self.pointers[name] = None
        return f"{name}_ptr"

    def number(self, name: str) -> str:
        """A scalar argument: a size (upper case), ``inverse_<axes>``, ``steps``, ``chunks``, ..."""
        self.numbers[name] = None
        return name

    def size(self, axis: str) -> str:
        return self.number(axis.upper())

    def block(self, axis: str) -> str:
        """Elements of an axis in one tile."""
        return f"BLOCK_{axis.upper()}" if axis in self.tiling.tile else "1"

    def name(self, i: int, text: str, precedence: int = ATOM) -> None:
        """From here on, to the end of the scope, the value is this text."""
        self._scopes[-1][i] = (text, precedence)

    def find(self, i: int) -> tuple[str, int] | None:
        for scope in reversed(self._scopes):
            if i in scope:
                return scope[i]
        return None

    # places

    def tile_axes(self, axes: Iterable[str]) -> list[str]:
        """Those of the axes that the tile has, in memory order."""
        wanted = set(axes)
        return [a for a in self.tiling.tile if a in wanted]

    def place(self, axis: str, start: str | None) -> None:
        """Set the start on an axis of the tile, with its mask if blocks are not all full."""
        local = axis if axis in self.tiling.tile else None
        self.coordinates[axis] = Coordinate(start, local)
        if local and axis not in self.tiling.exact:
            name = f"in_{axis}"
            self.line(f"{name} = {f'{start} + ' if start else ''}{axis} < {self.size(axis)}")
            self._masks[-1][axis] = name

    def mask(self, axes: Iterable[str]) -> str | None:
        """A condition that is true on the elements of the tensor, or None if all are."""
        found = []
        for a in self.tile_axes(axes):
            found += [m[a] for m in reversed(self._masks) if a in m][:1]
        return " & ".join(found) or None

    def ranges(self) -> None:
        """One ``tl.arange`` per axis of the tile."""
        tile = list(self.tiling.tile)
        for a in tile:
            index = "" if len(tile) == 1 else f"[{', '.join(':' if b == a else 'None' for b in tile)}]"
            self.line(f"{a} = tl.arange(0, BLOCK_{a.upper()}){index}")
        self._ranges_end = len(self.lines)

    def shape(self, axes: Iterable[str]) -> str:
        kept = set(self.tile_axes(axes))
        return ", ".join(f"BLOCK_{a.upper()}" if a in kept else "1" for a in self.tiling.tile)

    def zeros(self, axes: Iterable[str]) -> str:
        kept = self.tile_axes(axes)
        return f"tl.zeros([{self.shape(kept)}], tl.float32)" if kept else "0.0"

    def address(self, axes: Axes) -> tuple[str, str]:
        """Scalar and tile part of the offset of an element in a buffer that varies over those axes."""
        ordered = [a for a in self.tiling.axes if a in axes]
        start, local = [], []
        whole = len(ordered) == len(self.tiling.axes)
        sizes = self.tiling.sizes
        strides = {a: prod(sizes[b] for b in ordered[n + 1 :]) for n, a in enumerate(ordered)}
        # offsets within a tile are 32 bits wide unless the tile spans more
        far = sum((self.tiling.block(a) - 1) * strides[a] for a in ordered) >= 2**31
        for n, a in enumerate(ordered):
            factors = [self.size(b) for b in ordered[n + 1 :]]
            stride = (
                f" * ({' * '.join(factors)})" if len(factors) > 1 else f" * {factors[0]}" if factors else ""
            )
            where = self.coordinates[a]
            if where.start:
                wide = f"tl.cast({where.start}, tl.int64)" if whole and stride else where.start
                start.append(wide + stride)
            if where.local:
                local.append(
                    (f"tl.cast({where.local}, tl.int64)" if far and stride else where.local) + stride
                )
        return " + ".join(start), " + ".join(local)

    def at(self, name: str, axes: Axes) -> str:
        """Pointers to the elements of a buffer; where a tile starts in whole tensors is named once per scope."""
        pointer = self.pointer(name)
        if len(axes) == len(self.tiling.axes):
            known = next((o[axes] for o in reversed(self._offsets) if axes in o), None)
            if known is None:
                start, local = self.address(axes)
                base = ""
                if start:
                    base = self.fresh("base")
                    self.line(f"{base} = {start}")
                if local and not self._at:
                    # the same in all loops
                    self._at = self.fresh("at")
                    self.lines.insert(self._ranges_end, f"    {self._at} = {local}")
                known = self._offsets[-1][axes] = (base, self._at)
            start, local = known
        else:
            start, local = self.address(axes)
        return " + ".join(part for part in (pointer, start, local) if part)

    # values

    def define(self, roots: Sequence[int]) -> None:
        """Write statements until every root has a name or a text."""
        needed: list[int] = []
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            i = stack.pop()
            if i in seen or self.find(i):
                continue
            seen.add(i)
            needed.append(i)
            if i not in self.known:
                stack.extend(self.ir[i].args)
        uses: dict[int, int] = dict.fromkeys(roots, 2)
        for i in needed:
            for a in () if i in self.known else self.ir[i].args:
                # a reduction reads its argument up to twice
                uses[a] = uses.get(a, 0) + (2 if self.ir[i].op == "var" else 1)
        for i in sorted(needed):
            self._define(i, uses.get(i, 0))

    def forget(self, after: int) -> None:
        """Tensors of full rank that were made in this scope are made again where they are wanted from here on.

        Only what was loaded stays in registers, under new names: the old numbers, as the compiler cannot know, and not
        to be had before the value ``after`` is.
        """
        rank, scope = len(self.tiling.axes), self._scopes[-1]
        tensors = [i for i in scope if len(self.ir[i].varies) == rank]
        if all(i in self._loaded for i in tensors):
            return
        self.helpers |= {"nothing", "afresh"}
        zero = self.fresh("zero_then")
        self.line(f"{zero} = nothing({self.get(after)[0]}, {self.number('zero')})")
        for i in tensors:
            text, _ = scope.pop(i)
            if i in self._loaded:
                name = self.fresh(text.rstrip("0123456789"))
                self.line(f"{name} = afresh({text}, {zero})")
                self.name(i, name)

    def _define(self, i: int, uses: int) -> None:
        value = self.ir[i]
        if i in self.known or value.op == "leaf":
            self._load(i)
        elif value.op == "const":
            self.name(i, repr(value.constant), ATOM if value.constant >= 0 else UNARY)
        elif value.op in REDUCTIONS:
            self._reduce(i)
        else:
            text, precedence = self.text(i)
            if uses == 1 and len(text) <= _LONGEST:
                self.name(i, text, precedence)
            else:
                name = self.fresh(self._title(i))
                self.line(f"{name} = {text}")
                self.name(i, name)

    def _title(self, i: int) -> str:
        value = self.ir[i]
        if value.op == "sub" and self.ir[value.args[1]].op == "mean":
            return "centred"
        return _NAMES.get(value.op, "t")

    def text(self, i: int) -> tuple[str, int]:
        """The expression of a scalar operation whose arguments have names."""
        value = self.ir[i]
        helper = called(value.op)
        if helper:
            self.helpers.add(helper)
        args = [self.get(a) for a in value.args]
        if all(self.ir[a].op == "const" for a in value.args):
            args = [(f"tl.full((), {text}, tl.float32)", ATOM) for text, _ in args]
        return operation(value.op, args)

    def get(self, i: int) -> tuple[str, int]:
        found = self.find(i)
        assert found is not None, f"value {i} has no name yet"
        return found

    def _load(self, i: int) -> None:
        value = self.ir[i]
        buffer = self.known.get(i, value.name)
        title = buffer if i not in self.known else f"{value.op}_{''.join(sorted(value.over))}"
        where = self.at(buffer, value.varies)
        self.reads[buffer] = self.reads.get(buffer, 0) + 1
        mask = self.mask(value.varies)
        masked = f", mask={mask}, other=0.0" if mask else ""
        name = self.fresh(title)
        self._loaded.add(i)
        load = f"tl.load({where}{masked}).to(tl.float32)"
        if self.summed and value.op == "leaf" and value.name == "x":
            self.reads["residual"] = self.reads.get("residual", 0) + 1
            other = where.replace(f"{buffer}_ptr", self.pointer("residual"), 1)
            self.line(f"{name} = {load} + tl.load({other}{masked}).to(tl.float32)")
            load = f"{name}.to({self.pointer('y')}.dtype.element_ty).to(tl.float32)"
        self.line(f"{name} = {load}")
        self.name(i, name)

    def _reduce(self, i: int) -> None:
        value = self.ir[i]
        name = self.fresh(f"{value.op}_{''.join(a for a in self.tiling.axes if a in value.over)}")
        if not self.tile_axes(value.over):  # axes of size one
            same = self.get(value.args[0])[0] if value.op == "mean" else self.zeros(value.varies)
            self.line(f"{name} = {same}")
        elif value.op == "mean":
            total = self.total(value.args[0], value.over)
            self.line(f"{name} = {self.divided(total, value.over, exact=self.of_input(i))}")
        else:
            total = self.squares(value.args[0], self.get(value.args[1])[0], value.over)
            self.line(f"{name} = {total} * {self.inverse(value.over)}")
        self.name(i, name)

    def squares(self, i: int, centre: str, over: Axes) -> str:
        """The sum of squared differences from a centre; what lies outside of the tensor counts as zero."""
        text, _ = operation("sub", [self.get(i), (centre, ATOM)])
        mask, away = self.mask(over), self.fresh("away")
        self.line(f"{away} = " + (f"tl.where({mask}, {text}, 0.0)" if mask else text))
        return self.sum_text(f"{away} * {away}", self.ir[i].varies, over)

    def of_input(self, i: int) -> bool:
        """Whether a value is one of the forward pass: the mean of a gradient is never subtracted from its numbers."""
        return all(
            self.ir[j].op != "leaf" or self.ir[j].name != "dy" for j in self.ir.reachable([i], self.known)
        )

    def divided(self, total: str, axes: Iterable[str], *, exact: bool) -> str:
        """A sum over the number of elements along the axes. Rounded once if exact: a rounded reciprocal would be
        off by more than the spread of values that lie far from zero and close together."""
        if not exact:
            return f"{total} * {self.inverse(axes)}"
        self.helpers.add("quotient")
        return f"quotient({total}, {self.number('count_' + ''.join(a for a in self.tiling.axes if a in set(axes)))})"

    def inverse(self, axes: Iterable[str]) -> str:
        """One over the number of elements along the axes, a float32 argument."""
        return self.number("inverse_" + "".join(a for a in self.tiling.axes if a in set(axes)))

    def vanishes(self, i: int) -> bool:
        """Whether the value is zero wherever loads were masked."""
        value = self.ir[i]
        if value.op == "leaf":
            return i not in self.known and not (self.summed and value.name == "x")
        return value.op in ("mul", "neg", "abs") and all(self.vanishes(a) for a in value.args)

    def total(self, i: int, over: Iterable[str]) -> str:
        """The sum of a value over axes of the tile; what lies outside of the tensor counts as zero."""
        axes = self.tile_axes(over)
        mask = self.mask(axes)
        text = self.get(i)[0]
        if mask and not (self.vanishes(i) and set(axes) <= self.ir[i].varies):
            text = f"tl.where({mask}, {text}, 0.0)"
        return self.sum_text(text, self.ir[i].varies | set(axes), axes)

    def sum_text(self, text: str, varies: Iterable[str], over: Iterable[str]) -> str:
        """``tl.sum`` of a text that varies over some axes, along others of the tile."""
        axes = self.tile_axes(over)
        if not axes:
            return text if text.isidentifier() else f"({text})"
        if set(self.tile_axes(varies)) <= set(axes):
            return f"tl.sum({text})"
        for a in axes:
            text = f"tl.sum({text}, axis={list(self.tiling.tile).index(a)}, keep_dims=True)"
        return text

    def store(self, name: str, i: int, axes: Axes, factor: str = "") -> None:
        """Write a value to a buffer that varies over those axes."""
        text, precedence = self.get(i)
        if factor:
            text = f"{text if precedence <= 2 else f'({text})'} * {factor}"
        self.store_text(name, text, self.ir[i].varies, axes)

    def store_text(self, name: str, text: str, varies: Iterable[str], axes: Axes, row: str = "") -> None:
        kept = self.tile_axes(axes)
        if set(self.tile_axes(varies)) != set(kept):
            text = f"{text} + {self.zeros(kept)}"
        mask = self.mask(axes)
        where = self.at(name, axes)
        self.writes[name] = self.writes.get(name, 0) + 1
        self.line(f"tl.store({where}{row}, {text}{f', mask={mask}' if mask else ''})")
