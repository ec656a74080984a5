"""From a program to the kernels that run it on tensors of given sizes.

One kernel if the reductions allow it: resident when the domain fits a tile, else swept. Otherwise the widest
reductions of the lowest level are found first by a kernel of their own, whose programs each take a share, and
merged by a second small one; what is left is planned again with those statistics as inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

from evonas.kernels.axes import CHANNELS
from evonas.kernels.emit import KernelText, Store, Work, apply_kernel, partial_kernel
from evonas.kernels.ir import Axes
from evonas.kernels.merge import merge_kernel
from evonas.kernels.peeling import Peel, by_parts, idle_axes, narrowest, next_peel, tensor_leaves
from evonas.kernels.plan import Buffer, Launch, Plan, sweeps
from evonas.kernels.pressure import tensors_held
from evonas.kernels.programs import Program, Total
from evonas.kernels.tiling import (
    LIMITS,
    Limits,
    Tiling,
    power_of_two,
    resident_tiling,
    swept_tiling,
    team_tiling,
)

from evonas.errors import UsageError

#: Operations of full rank from which on threads of a backward tile hold half as many elements, or registers spill.
HEAVY = 18
#: From here on a program takes half as many rows, so that a thread can have twice the registers.
HEAVIEST = 34
#: Operations that are worth many: the error function is a polynomial of high degree.
WEIGHTS = {"erf": 24}
#: Elements next to one another in memory from which on a load wastes nothing, in the narrowest dtype.
CACHE_LINE = 64
#: A kernel holds as many registers' worth of tensors as a thread has, and this much more, before it spills: compilers
#: find a better order of statements than the one they are written in.
PACKED = 1.2
#: Strides and positions are 32-bit integers; offsets of whole tensors have 64 bits.
LARGEST = 2**31
#: CUDA's limit on the programs of a one-dimensional grid.
MOST_PROGRAMS = 2**31 - 1


def plan(
    program: Program,
    sizes: Mapping[str, int],
    *,
    backward: bool,
    summed: bool = False,
    known: Mapping[int, str] | None = None,
    limits: Limits = LIMITS,
) -> Plan:
    """Kernels for one pass on tensors whose kernel axes have those sizes.

    known: values that are given in buffers, by name: the statistics that the forward pass saved.

    Raises:
        UsageError: an empty tensor, one whose axes or strides do not fit 32 bits, or more programs than a grid can
        have.
    """
    if any(n < 1 for n in sizes.values()):
        raise UsageError(
            f"a tensor with axes {dict(sizes)} is empty", hint="kernels need at least one element"
        )
    inner = prod(sizes[a] for a in program.axes.names[1:])
    if max(inner, *sizes.values()) >= LARGEST:
        raise UsageError(
            f"a tensor with axes {dict(sizes)} is too large: kernels address {LARGEST - 1} positions along "
            f"an axis, and as many elements below the outermost one",
            hint="use backend='eager'",
        )
    made = _Planner(program, sizes, backward, summed, known or {}, limits)
    first = made.run()
    if not any(launch.tiling is not None and launch.tiling.swept for launch in first.launches):
        return first
    apart = [
        _Planner(program, sizes, backward, summed, known or {}, limits).run(apart=True, lean=lean)
        for lean in (False, True)
    ]
    tensor = prod(sizes[a] for a in program.axes.names)

    def cost(made: Plan) -> int:
        passing = sum(prod(b.shape) for name, b in made.buffers.items() if name.startswith("passing"))
        return sweeps(made) * tensor + 2 * passing + len(made.launches) * limits.launch

    return min([first, *apart], key=cost)


class _Planner:
    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, int],
        backward: bool,
        summed: bool,
        known: Mapping[int, str],
        limits: Limits,
    ) -> None:
        # plans add values, and programs are shared
        self.program = replace(program, ir=program.ir.copy())
        self.ir = self.program.ir
        self.axes = program.axes.names
        self.sizes = {a: sizes[a] for a in self.axes}
        self.channels = program.axes.of(CHANNELS)
        self.backward = backward
        self.summed = summed
        self.limits = limits
        self.known: dict[int, str] = dict(known)
        self.given = {name: prod(self.sizes[a] for a in self.ir[i].varies) for i, name in self.known.items()}
        self.launches: list[Launch] = []
        self.buffers: dict[str, Buffer] = {}
        self.vectors: dict[str, tuple[str, int]] = {}

    def run(self, apart: bool = False, lean: bool = False) -> Plan:
        """apart: statistics have kernels of their own until what is left is resident.

        That costs launches, and saves sweeps where moments are taken of moments: those of the lower level are few
        numbers, and the layer's result may need nothing else. lean: see ``next_peel``.
        """
        ir, program = self.ir, self.program
        statistics = [Store(name, value) for name, value in program.statistics.items()]
        totals: list[Total] = []
        domain = self._domain(program.tensors.values())
        parts = narrowest(program, self.known, self.sizes) if apart else frozenset()
        for total in program.totals:
            value = by_parts(program, total, parts, self.known) if parts else None
            if value is None and total.over and total.over <= domain:
                value = ir.mean(total.value, total.over)
            if value is not None and ir[value].varies in (frozenset(), self.channels):
                statistics.append(Store(total.name, value, total.over))
            else:
                totals.append(total)
        work = Work(ir, self.channels, program.tensors, statistics, totals, self.known, self.summed)
        while work.roots:
            tiling = self._single(work)
            read = work.tensors or tensor_leaves(ir, work.roots, self.known, len(self.axes))
            more = apart and read and ir.reductions(work.roots, self.known)
            if tiling is not None and not (more and (tiling.swept or self._scattered(tiling))):
                self._apply(work, tiling)
                break
            peel = next_peel(work, self.known, self.sizes, self.axes, self.limits, apart=apart, lean=lean)
            work = self._statistics(peel, work)
        return Plan(tuple(self.launches), self.buffers, self.vectors, self.sizes, self.given)

    def _domain(self, roots: Iterable[int]) -> Axes:
        found: Axes = frozenset()
        for i in self.ir.reductions(list(roots), self.known):
            found |= self.ir[i].over
        return found

    def _single(self, work: Work) -> Tiling | None:
        """A tiling for all that is left, or None if statistics have to be found first."""
        roots = work.roots
        domain = self._domain(roots)
        totals = bool(work.totals)
        limits = self.limits
        work_each = self._full_rank(work) if self.backward else 0
        if work_each >= HEAVIEST or (totals and work_each >= HEAVY and self.axes[-1] in self.channels):
            # sums for the vectors' gradients take as many registers as tensors do where channels lie innermost
            limits = replace(limits, fill=limits.fill // 2)
        elif totals and self.sizes[self.axes[-1]] % 8:
            # every element has an address and a mask of its own
            limits = replace(limits, fill=limits.fill // 2)
        elements = prod(self.sizes[a] for a in domain)

        def enough(tiling: Tiling) -> bool:
            return tiling.programs * 2 >= limits.processors or elements <= limits.small

        idle = frozenset[str]()
        if not work.tensors and not work.totals:
            idle = idle_axes(self.ir, roots, self.known, self.axes)
        found = resident_tiling(
            self.axes,
            self.sizes,
            domain,
            self.channels,
            backward=self.backward,
            totals=totals,
            idle=idle,
            limits=limits,
        )
        if found is not None and (not domain or enough(found)):
            return found
        left = [self.ir[i] for i in self.ir.reductions(roots, self.known)]
        if limits.cooperative:
            found = team_tiling(
                self.axes,
                self.sizes,
                domain,
                self.channels,
                [(value.over, value.varies) for value in left],
                backward=self.backward,
                totals=totals,
                limits=limits,
            )
            if found is not None:
                return found
        sets = [value.over for value in left]
        found = swept_tiling(
            self.axes, self.sizes, domain, self.channels, sets, totals=totals, idle=idle, limits=limits
        )
        return found if found is not None and enough(found) else None

    def _scattered(self, tiling: Tiling) -> bool:
        """Whether a tile has so few neighbours in memory that much of each cache line is read for nothing."""
        inner = self.axes[-1]
        return tiling.block(inner) < min(CACHE_LINE, self.sizes[inner])

    def _statistics(self, peel: Peel, work: Work) -> Work:
        """Kernels for a group of statistics; returns the work that is left."""
        number = sum(name.startswith("partial") for name in self.buffers)
        group, tiling = peel.group, peel.tiling
        over = self.ir[group[0]].over
        passing = {i: f"passing{number}_{n}" for n, i in enumerate(peel.passing)}
        part = Work(
            self.ir,
            self.channels,
            {name: work.tensors[name] for name in peel.tensors},
            [Store("", i) for i in group],
            known=dict(self.known),
            summed=self.summed,
            passing=[Store(name, i) for i, name in passing.items()],
        )
        about = (
            f"Partial statistics over ({', '.join(a for a in self.axes if a in over)}), one row per split."
        )
        kernel = partial_kernel(f"statistics{number or ''}", about, part, tiling)
        shape = self._shape(group[0])
        # the mean inside a variance may be written as a product, or known to be zero
        slots: list[tuple[str, int]] = []
        for i in group:
            op, args = self.ir[i].op, self.ir[i].args
            slots += [("mean", args[1]), ("var", i)] if op == "var" else [("mean", i)]
        partial, merged = f"partial{number}", f"merged{number}"
        self.buffers[partial] = Buffer((tiling.splits, len(slots), *shape))
        self._launch(kernel, {"partial": partial}, tiling, {"slots": len(slots), "splits": tiling.splits})
        for i, name in passing.items():
            self.known[i] = name
            self.buffers[name] = Buffer(self._shape(i))
        # several reductions may be one value twice: the mean of a variance that is also wanted by itself
        names = [f"{merged}_{n}" for n in range(len(slots))]
        for n, (_, i) in enumerate(slots):
            if self.ir[i].op != "const":
                self.known.setdefault(i, names[n])
            self.buffers[names[n]] = Buffer(shape)
        instances = prod(shape)
        outer = tiling.swept[0]
        rows = power_of_two(tiling.splits)
        columns = min(power_of_two(instances), max(1, 1024 // rows))
        text = merge_kernel([op for op, _ in slots])
        numbers = {
            "splits": tiling.splits,
            "instances": instances,
            "length": self.sizes[outer],
            "share": tiling.split_steps * tiling.block(outer),
            "inverse_length": 1.0 / self.sizes[outer],
            "inverse_count": 1.0 / prod(self.sizes[a] for a in over),
        }
        self.launches.append(
            Launch(text, (partial, *names), {n: numbers[n] for n in text.numbers},
                   {"BLOCK_S": rows, "BLOCK_I": columns}, -(-instances // columns), 4, None)
        )  # fmt: skip
        return replace(work, tensors={n: v for n, v in work.tensors.items() if n not in peel.tensors})

    def _shape(self, value: int) -> tuple[int, ...]:
        varies = self.ir[value].varies
        return tuple(self.sizes[a] for a in self.axes if a in varies)

    def _apply(self, work: Work, tiling: Tiling) -> None:
        work = replace(work, known=dict(self.known))
        if self.backward and self._full_rank(work) >= HEAVY:
            more = self.limits.warps_for(tiling.tile_elements, again=True, heavy=True)
            tiling = replace(tiling, warps=max(tiling.warps, more))
        work = replace(work, again=self._too_much(work, tiling))
        name = "backward" if self.backward else "forward"
        kernel = apply_kernel(name, _describe(tiling), work, tiling)
        for store in work.statistics:
            self.buffers[store.name] = Buffer(self._shape(store.value))
        rows = 1
        if work.totals:
            over = work.totals[0].over
            rows = tiling.chunks * prod(tiling.blocks(a) for a in tiling.spread if a in over)
            width = prod(self.sizes[a] for a in self.channels)
            zeroed = bool(self.channels & set(tiling.swept))
            self.buffers["rows"] = Buffer((len(work.totals), rows, width), zeroed)
            for n, total in enumerate(work.totals):
                self.vectors[total.name] = ("rows", n)
        if tiling.team:
            teams = tiling.programs // tiling.members
            self.buffers["exchange"] = Buffer((2, teams, kernel.slots, tiling.members))
            self.buffers["counters"] = Buffer((teams,), zeroed=True, integer=True)
        self._launch(kernel, {"partial": "rows"}, tiling, {"rows": rows, "slots": kernel.slots})

    def _too_much(self, work: Work, tiling: Tiling) -> bool:
        """Whether a thread has too few registers for all that it would hold while reductions run."""
        room = self.limits.thread_registers(tiling.warps)
        if tiling.swept or tiling.team or not room:
            return False
        totals = [self.ir.mean(t.value, t.over & set(tiling.resident)) for t in work.totals]
        kept = [*work.tensors.values(), *(s.value for s in work.statistics), *totals]
        held = tensors_held(self.ir, kept, work.known, len(self.axes))
        threads = tiling.warps * self.limits.threads
        return held * tiling.tile_elements > PACKED * room * threads

    def _full_rank(self, work: Work) -> int:
        """Operations on whole tensors that are left: a measure of how many registers a thread needs."""
        rank = len(self.axes)
        needed = self.ir.reachable(work.roots, self.known)
        whole = [i for i in needed if len(self.ir[i].varies) == rank and i not in self.known]
        return sum(WEIGHTS.get(self.ir[i].op, 1) for i in whole)

    def _launch(
        self, kernel: KernelText, rename: Mapping[str, str], tiling: Tiling, more: Mapping[str, int]
    ) -> None:
        if tiling.programs > MOST_PROGRAMS:
            raise UsageError(
                f"{tiling.programs} programs for a tensor with axes {self.sizes}, a grid has at most {MOST_PROGRAMS}",
                hint="split the batch",
            )
        numbers: dict[str, int | float] = {}
        for name in kernel.numbers:
            numbers[name] = self._number(name, tiling, more)
        tensors = tuple(rename.get(p, p) for p in kernel.pointers)
        blocks = {f"BLOCK_{a.upper()}": tiling.block(a) for a in tiling.tile}
        if tiling.team:
            blocks["BLOCK_MEMBERS"] = power_of_two(tiling.members)
        # as many threads as can be have no choice
        few = tiling.warps < self.limits.warps and (tiling.swept or self.axes[-1] not in tiling.resident)
        registers = self.limits.thread_registers(tiling.warps) if few else 0
        self.launches.append(
            Launch(
                kernel,
                tensors,
                numbers,
                blocks,
                tiling.programs,
                tiling.warps,
                tiling,
                registers=registers or None,
            )
        )

    def _number(self, name: str, tiling: Tiling, more: Mapping[str, int]) -> int | float:
        if name in more:
            return more[name]
        if name.startswith("inverse_"):
            # axis names have one letter each
            return 1.0 / prod(self.sizes[a] for a in name.removeprefix("inverse_"))
        if name.startswith("count_"):
            return float(prod(self.sizes[a] for a in name.removeprefix("count_")))
        if name == "teams":
            return tiling.programs // tiling.members
        if name == "zero":
            return 0
        if name.isupper():
            return self.sizes[name.lower()]
        return int(getattr(tiling, name))


def _describe(tiling: Tiling) -> str:
    """A docstring: what one program does."""
    one = [a if tiling.block(a) == 1 else f"a block of {a}" for a in tiling.spread]
    words = f"One program per {', '.join(one)}" if one else "One program"
    if tiling.loop:
        words += f"{' and' if one else ' per'} chunk of {tiling.loop}"
    if tiling.resident:
        words += f"; ({', '.join(tiling.resident)}) whole in registers"
    if tiling.team:
        words += f"; {tiling.team} shared by a team of programs"
    if tiling.swept:
        words += f"; sweeps over ({', '.join(tiling.swept)})"
    return words + "."
