"""Text of one Triton kernel: resident or swept tiles, vector gradients along a loop, or partial statistics."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evonas.kernels import sweeps, team
from evonas.kernels.ir import IR, REDUCTIONS, Axes
from evonas.kernels.programs import Total
from evonas.kernels.tiling import Tiling
from evonas.kernels.writer import Writer


@dataclass(frozen=True)
class Store:
    """A value of lower rank to write to the buffer ``name``; ``times`` are axes whose sizes it is multiplied by."""

    name: str
    value: int
    times: Axes = frozenset()


@dataclass(frozen=True)
class Work:
    """What one kernel has to write.

    tensors: buffer -> value, of full size. statistics: of lower rank. totals: vector gradients whose sums reach
    beyond a program; they go to the rows of the buffer ``partial``. known: values that earlier kernels left in buffers.
    channels: axes of the vectors. again: whether tensors are made again after each level of reductions, from what was
    loaded, rather than held in registers while the reductions run. passing: in a kernel that leaves partial statistics,
    values within one block of its sweep that are stored on the way; it writes the tensors so, too.
    """

    ir: IR
    channels: Axes
    tensors: Mapping[str, int] = field(default_factory=dict)
    statistics: Sequence[Store] = ()
    totals: Sequence[Total] = ()
    known: Mapping[int, str] = field(default_factory=dict)
    summed: bool = False
    again: bool = False
    passing: Sequence[Store] = ()

    @property
    def roots(self) -> list[int]:
        return [*self.tensors.values(), *(s.value for s in self.statistics), *(t.value for t in self.totals)]


@dataclass(frozen=True)
class KernelText:
    """A function definition. pointers, numbers, blocks: its arguments in order, see ``Writer``.

    reads, writes: per pointer, how often each of its elements is loaded and stored (a load in a sweep counts once).
    slots: numbers that members of a team exchange at a time.
    """

    name: str
    text: str
    pointers: tuple[str, ...]
    numbers: tuple[str, ...]
    blocks: tuple[str, ...]
    helpers: frozenset[str]
    slots: int = 0
    reads: Mapping[str, int] = field(default_factory=dict, hash=False)
    writes: Mapping[str, int] = field(default_factory=dict, hash=False)


class Kernel:
    """The lines of one kernel as they are written."""

    def __init__(self, work: Work, tiling: Tiling) -> None:
        self.work = work
        self.ir = work.ir
        self.tiling = tiling
        self.out = Writer(work.ir, tiling, work.known, summed=work.summed)
        self.sums: list[tuple[Total, int, str, Axes, bool]] = []
        self.slots = 0
        #: partial reductions -> the variables that hold their parts
        self.found: dict[int, tuple[str, ...]] = {}

    # frame

    def frame(self) -> None:
        """Program id to coordinates, and the ranges of the tile."""
        out, tiling = self.out, self.tiling
        counted: list[tuple[str, str]] = []  # (variable, number of its values), outermost first
        if tiling.swept and self.work_is_partial:
            counted.append(("split", out.number("splits")))
        if tiling.loop:
            counted.append(("chunk", out.number("chunks")))
        starts: dict[str, str] = {}
        for a in tiling.spread:
            if a not in tiling.tile:
                counted.append((a, out.size(a)))
                starts[a] = a
            elif tiling.blocks(a) > 1 or a not in tiling.exact:
                counted.append((f"{a}_block", f"tl.cdiv({out.size(a)}, BLOCK_{a.upper()})"))
                starts[a] = f"{a}0"
        if tiling.team:
            counted.append(("member", out.number("members")))
        rest = "tl.program_id(0)"
        if len(counted) > 1:
            out.line("program = tl.program_id(0)")
            rest = "program"
        for n, (name, count) in enumerate(reversed(counted), start=1):
            out.line(f"{name} = {rest if n == len(counted) else f'{rest} % {count}'}")
            rest = f"{rest} // {count}"
            if name == "member":
                out.line(f"team = {rest}")
        out.ranges()
        for a in tiling.spread:
            if starts.get(a) == f"{a}0":
                out.line(f"{a}0 = {a}_block * BLOCK_{a.upper()}")
            out.place(a, starts.get(a))
        for a in tiling.resident:
            out.place(a, None)
        if tiling.team:
            start = f"{tiling.team}0"
            out.line(f"{start} = member * {out.block(tiling.team)}")
            out.place(tiling.team, start)

    @property
    def work_is_partial(self) -> bool:
        return False

    def open_loop(self, axis: str, first: str, last: str) -> None:
        block = self.tiling.block(axis)
        if block == 1:
            variable = axis if axis not in self.tiling.tile else f"{axis}0"
            self.out.open(f"for {variable} in range({first}, {last}):")
        else:
            variable = f"{axis}0"
            self.out.open(f"for {variable} in range({first}, {last}, BLOCK_{axis.upper()}):")
        self.out.place(axis, variable)

    def limits(self, axis: str, steps: str, index: str) -> tuple[str, str]:
        """First and last position of a program that owns ``steps`` blocks of an axis."""
        out = self.out
        many = (
            f"{out.number(steps)} * BLOCK_{axis.upper()}"
            if self.tiling.block(axis) > 1
            else out.number(steps)
        )
        out.line(f"first = {index} * {many}")
        out.line(f"last = tl.minimum(first + {many}, {out.size(axis)})")
        return "first", "last"

    # hoisting

    def hoist(self, roots: Iterable[int], inner: set[str]) -> None:
        """Define, in this scope, whatever the roots need that does not vary along the loops still to be opened.

        Reductions over what a team shares are left to its exchanges, in the loop.
        """
        out, ir, known = self.out, self.ir, self.out.known
        apart = inner | {self.tiling.team} if self.tiling.team else inner
        fixed: dict[int, bool] = {}
        needed = ir.reachable(roots, known)
        for i in needed:
            value = ir[i]
            if out.find(i):
                fixed[i] = True
            elif i in known or value.op in ("leaf", "const"):
                fixed[i] = not value.varies & inner
            elif value.op in REDUCTIONS and value.over & apart:
                fixed[i] = False
            else:
                fixed[i] = not value.varies & inner and all(fixed[a] for a in value.args)
        wanted = [r for r in roots if fixed[r]]
        for i in needed:
            if not fixed[i] and not out.find(i) and i not in known:
                wanted += [a for a in ir[i].args if fixed[a]]
        out.define(list(dict.fromkeys(wanted)))

    # results

    def prepare_totals(self) -> None:
        """Accumulators of the vector gradients, before any loop."""
        out, tiling = self.out, self.tiling
        swept_vectors = bool(self.work.channels & set(tiling.swept))
        for total in self.work.totals:
            inside = total.over & set(tiling.resident)
            value = self.ir.mean(total.value, inside)
            lanes = frozenset(
                a for a in tiling.tile if a in self.ir[value].varies or a in total.over - inside
            ) - (set(tiling.swept) if swept_vectors else set())
            name = ""
            if (tiling.loop or tiling.swept) and not swept_vectors:
                name = out.fresh(f"sum_{total.name}")
                out.line(f"{name} = {out.zeros(lanes)}")
            self.sums.append((total, value, name, lanes, swept_vectors))

    def add_totals(self) -> None:
        """Inside the loops: what this tile adds."""
        out = self.out
        for n, (total, value, name, lanes, direct) in enumerate(self.sums):
            axes = [a for a in out.tile_axes(total.over) if a not in self.tiling.resident]
            text, precedence = out.get(value)
            missing = [a for a in axes if a not in self.ir[value].varies]
            mask = out.mask(axes)
            if mask and not (out.vanishes(value) and not missing):
                text, precedence = f"tl.where({mask}, {text}, 0.0)", 0
            if missing:
                text = f"{text if precedence <= 3 else f'({text})'} + {out.zeros(self.ir[value].varies | set(axes))}"
            if direct:
                self._add_in_memory(n, total, out.sum_text(text, self.ir[value].varies | set(axes), axes))
            elif name:
                out.line(f"{name} += {text}")
            else:
                self.sums[n] = (total, value, text if precedence <= 2 else f"({text})", lanes, direct)

    def _add_in_memory(self, n: int, total: Total, text: str) -> None:
        """Vectors that are swept over have no accumulator: this program's row is updated in memory."""
        out = self.out
        channels = self.work.channels
        if out.tile_axes(channels) and not set(out.tile_axes(self.ir[self.sums[n][1]].varies)) >= set(
            out.tile_axes(channels)
        ):
            text = f"({text} + {out.zeros(channels)})"
        mask = out.mask(channels)
        where = f"{out.at('partial', channels)} + {self.row(n)}"
        place = out.fresh("place")
        out.line(f"{place} = {where}")
        masked = f", mask={mask}" if mask else ""
        out.reads["partial"] = out.writes["partial"] = 1
        before = f"tl.load({place}{masked + ', other=0.0' if mask else ''})"
        out.line(f"tl.store({place}, {before} + {text}{self.scale(total)}{masked})")

    def scale(self, total: Total) -> str:
        """The sizes of the axes whose mean was taken within the tile."""
        inside = [a for a in self.tiling.resident if a in total.over]
        return "".join(f" * {self.out.size(a)}" for a in inside)

    def row(self, n: int) -> str:
        """Offset of this program's row for vector gradient n in the buffer ``partial`` [vectors, rows, channels]."""
        out, tiling = self.out, self.tiling
        over = self.sums[n][0].over
        row = "chunk" if tiling.loop else ""
        for a in tiling.spread:
            if a not in over:
                continue
            if a not in tiling.tile:
                row = f"({row}) * {out.size(a)} + {a}" if row else a
            elif tiling.blocks(a) > 1 or a not in tiling.exact:
                row = (
                    f"({row}) * tl.cdiv({out.size(a)}, BLOCK_{a.upper()}) + {a}_block"
                    if row
                    else f"{a}_block"
                )
        offset = f"{n} * {out.number('rows')}" if n else ""
        whole = " + ".join(part for part in (offset, row) if part) or "0"
        width = " * ".join(out.size(a) for a in tiling.axes if a in self.work.channels)
        return f"({whole}) * {width}" if "+" in whole or " " in whole else f"{whole} * {width}"

    def store_totals(self) -> None:
        """After the loops: the sums over lanes, to this program's row."""
        out = self.out
        for n, (total, _value, name, lanes, direct) in enumerate(self.sums):
            if direct:
                continue
            axes = [a for a in out.tile_axes(total.over) if a not in self.tiling.resident]
            text = out.sum_text(name, lanes, axes) if axes else name
            kept = lanes - set(axes)
            out.store_text(
                "partial", f"{text}{self.scale(total)}", kept, self.work.channels, f" + {self.row(n)}"
            )

    def store_tensors(self) -> None:
        for name, value in self.work.tensors.items():
            self.out.store(name, value, frozenset(self.tiling.axes))

    def store_statistics(self, inner: bool) -> None:
        """Statistics that vary along the swept axes (inner) or that do not."""
        swept = set(self.tiling.swept)
        for store in self.work.statistics:
            varies = self.ir[store.value].varies
            if bool(varies & swept) == inner:
                factor = " * ".join(self.out.size(a) for a in self.tiling.axes if a in store.times)
                self.out.store(store.name, store.value, varies, factor)


class _Apply(Kernel):
    """Computes and writes tensors, statistics and vector gradients."""

    def write(self) -> None:
        out, tiling = self.out, self.tiling
        self.frame()
        self.prepare_totals()
        if tiling.team:
            team.prologue(self)
        kept = [*self.work.tensors.values(), *(s.value for s in self.work.statistics)]
        roots = list(dict.fromkeys([*kept, *(value for _, value, *_ in self.sums)]))
        self.roots = roots
        if tiling.loop:
            self.hoist(roots, {tiling.loop, *tiling.swept})
            first, last = self.limits(tiling.loop, "steps", "chunk")
            self.open_loop(tiling.loop, first, last)
        if tiling.swept:
            self.sweeps()
        else:
            if tiling.team:
                level = self.ir.levels(roots, out.known, {tiling.team})
                for n in range(1, max(level.values(), default=0) + 1):
                    used = team.exchange(self, [i for i, at in level.items() if at == n])
                    self.slots = max(self.slots, used)
            elif self.work.again:
                level = self.ir.levels(roots, out.known)
                for n in range(1, max(level.values(), default=0) + 1):
                    here = [i for i, at in level.items() if at == n]
                    out.define(here)
                    out.forget(here[-1])
            out.define(roots)
            self.store_tensors()
            self.store_statistics(False)
            self.add_totals()
        if tiling.loop:
            out.close()
        self.store_totals()

    def sweeps(self) -> None:
        out, tiling, swept = self.out, self.tiling, set(self.tiling.swept)
        level = self.ir.levels(self.roots, out.known, swept)
        for n in range(1, max(level.values(), default=0) + 1):
            sweeps.sweep(self, [i for i, at in level.items() if at == n])
        self.hoist(self.roots, swept)
        self.store_statistics(False)
        inner = [
            r
            for r in self.roots
            if r in self.work.tensors.values()
            or self.ir[r].varies & swept
            or r in {v for _, v, *_ in self.sums}
        ]
        if not inner:
            return
        sweeps.open_sweep(self, inner)
        out.define(inner)
        self.store_tensors()
        self.store_statistics(True)
        self.add_totals()
        if any(direct for *_, direct in self.sums):
            # what this block wrote to its row, another warp may read in the next one
            out.line("tl.debug_barrier()")
        for _ in tiling.swept:
            out.close()


class _Partial(Kernel):
    """One sweep: partial means and variances of this program's share, to be merged."""

    @property
    def work_is_partial(self) -> bool:
        return True

    def store_passing(self) -> None:
        """What is complete within a block."""
        self.store_tensors()
        for store in self.work.passing:
            self.out.store(store.name, store.value, self.ir[store.value].varies)

    def write(self) -> None:
        self.frame()
        values = [s.value for s in self.work.statistics]
        first, last = self.limits(self.tiling.swept[0], "split_steps", "split")
        also = [*self.work.tensors.values(), *(s.value for s in self.work.passing)]
        sweeps.sweep(self, values, (first, last), also, self.store_passing)
        out = self.out
        slot = 0
        for i in values:
            value = self.ir[i]
            for name in self.found[i]:
                kept = out.tile_axes(value.varies)
                count = [out.size(a) for a in self.tiling.axes if a in value.varies]
                width = " * ".join(count) or "1"
                row = f"split * {out.number('slots')} + {slot}" if slot else f"split * {out.number('slots')}"
                out.store_text("partial", name, kept, value.varies, f" + ({row}) * ({width})")
                slot += 1


def apply_kernel(name: str, about: str, work: Work, tiling: Tiling) -> KernelText:
    """The kernel that writes what the work names."""
    return _text(name, about, _Apply(work, tiling))


def partial_kernel(name: str, about: str, work: Work, tiling: Tiling) -> KernelText:
    """The kernel that leaves partial statistics in ``partial`` [splits, slots, ...]."""
    return _text(name, about, _Partial(work, tiling))


def _text(name: str, about: str, kernel: _Apply | _Partial) -> KernelText:
    kernel.write()
    out = kernel.out
    blocks = tuple(f"BLOCK_{a.upper()}" for a in kernel.tiling.tile)
    if kernel.tiling.team:
        blocks = (*blocks, "BLOCK_MEMBERS")
    numbers = tuple(sorted(out.numbers, key=lambda n: (n.islower(), n)))
    arguments = [f"{p}_ptr" for p in out.pointers] + list(numbers) + [f"{b}: tl.constexpr" for b in blocks]
    listed = textwrap.fill(", ".join(arguments), 100, initial_indent="    ", subsequent_indent="    ")
    text = f'@triton.jit\ndef {name}(\n{listed},\n):\n    """{about}"""\n' + "\n".join(out.lines) + "\n"
    return KernelText(
        name,
        text,
        tuple(out.pointers),
        numbers,
        blocks,
        frozenset(out.helpers),
        slots=kernel.slots,
        reads=out.reads,
        writes=out.writes,
    )
