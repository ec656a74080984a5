"""Kernels whose text fits tensors of every size: for files that are used where this compiler is not.

The plans of ``plan`` are made for one size: masks are left out where blocks are full, and a domain that is too large is
swept. Here every axis of a tile has a mask and every block is an argument, and there is one kernel for
each way to cover the domain: whole in registers, or sweeping its outermost axis, its two outermost, and so on. Blocks,
grids and buffers are then a matter of arithmetic (``evonas.export.kernel_runtime`` is the text that does it). A layer
whose reductions do not nest has no sweeping kernel, and its large tensors none at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from evonas.kernels.emit import KernelText, Store, Work, apply_kernel
from evonas.kernels.ir import Axes
from evonas.kernels.lowering import passes
from evonas.kernels.planner import HEAVIEST, HEAVY, WEIGHTS
from evonas.kernels.programs import LayerSpec, Program, Total
from evonas.kernels.tiling import Tiling

from evonas.graph.layout import get_layout

_SIZE, _BLOCK = 3, 4


@dataclass(frozen=True)
class AnySizeKernel:
    """One kernel.

    tile: axes that have a block, in memory order. resident: of the domain, whole in the tile. swept: of the domain, in
    blocks. spread: outside of the domain, one program per block. loop: the axis that each of ``chunks`` programs walks
    along. rows: vector gradients that are summed over rows of the buffer "rows", in order. sums: other
    vector gradients, which the kernel leaves complete in buffers of their names. zeroed: whether rows start at zero.
    heavy: 1, or 2 for kernels whose programs get twice the warps. filled: elements that a tile is filled up to.
    """

    text: KernelText
    tensors: tuple[str, ...]
    tile: tuple[str, ...]
    resident: tuple[str, ...]
    swept: tuple[str, ...]
    spread: tuple[str, ...]
    loop: str | None
    rows: tuple[str, ...]
    row_axes: tuple[str, ...]
    sums: tuple[str, ...]
    zeroed: bool
    heavy: int
    filled: int


@dataclass(frozen=True)
class AnySizePass:
    """The kernels of one pass, the best first, and the axes that its buffers vary over."""

    kernels: tuple[AnySizeKernel, ...]
    buffers: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class AnySizeLayer:
    """Both passes. axes, parts: the kernels' axes and the dims of the layout that each covers. saved, batch: see
    ``Passes``."""

    forward: AnySizePass
    backward: AnySizePass
    axes: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    channels: tuple[str, ...]
    vectors: tuple[str, ...]
    saved: tuple[str, ...]
    batch: tuple[str, ...]


def any_size(spec: LayerSpec) -> AnySizeLayer:
    """The kernels of a layer.

    Raises:
        UsageError: a graph that cannot be lowered.
    """
    get_layout(spec.layout)
    both = passes(spec, False)
    program = both.forward
    return AnySizeLayer(
        _pass(both.forward, {}, spec, False),
        _pass(both.backward, both.known, spec, True),
        program.axes.names,
        program.axes.parts,
        tuple(a for a in program.axes.names if a in program.axes.of(("g", "k"))),
        spec.vectors,
        both.saved,
        both.batch,
    )


def _pass(program: Program, known: dict[int, str], spec: LayerSpec, backward: bool) -> AnySizePass:
    program = replace(program, ir=program.ir.copy())  # it is shared, and values are added
    axes, ir = program.axes.names, program.ir
    channels = program.axes.of(("g", "k"))
    statistics = [Store(name, value) for name, value in program.statistics.items()]
    domain = _domain(program, known, program.tensors.values())
    totals: list[Total] = []
    sums: list[str] = []
    for total in program.totals:
        value = ir.mean(total.value, total.over) if total.over <= domain and total.over else None
        if value is not None and ir[value].varies in (frozenset(), channels):
            statistics.append(Store(total.name, value, total.over))
            sums.append(total.name)
        else:
            totals.append(total)
    work = Work(ir, channels, program.tensors, statistics, totals, known, spec.residual)
    domain = _domain(program, known, work.roots)
    inside = [a for a in axes if a in domain]
    sets = [ir[i].over for i in ir.reductions(work.roots, known)]
    whole = [i for i in ir.reachable(work.roots, known) if len(ir[i].varies) == len(axes) and i not in known]
    rank = sum(WEIGHTS.get(ir[i].op, 1) for i in whole)
    kernels = []
    for count in range(len(inside) + 1):
        swept = set(inside[:count])
        if all(not s & swept or s >= swept for s in sets):
            kernels.append(_kernel(work, axes, inside[:count], inside[count:], tuple(sums), backward, rank))
    buffers = {store.name: tuple(a for a in axes if a in ir[store.value].varies) for store in work.statistics}
    return AnySizePass(tuple(kernels), buffers)


def _domain(program: Program, known: dict[int, str], roots: Iterable[int]) -> Axes:
    found: Axes = frozenset()
    for i in program.ir.reductions(list(roots), known):
        found |= program.ir[i].over
    return found


def _kernel(
    work: Work, axes: tuple[str, ...], swept: list[str], resident: list[str], sums: tuple[str, ...],
    backward: bool, rank: int,
) -> AnySizeKernel:  # fmt: skip
    free = [a for a in axes if a not in swept and a not in resident]
    loop = next((a for a in free if a not in work.channels), None) if work.totals else None
    # neighbours in memory lie in one tile; further free axes fill it up where the domain is small
    near = (
        [a for a in free if a != loop][-2:]
        if not swept
        else [a for a in axes[-1:] if a in free and a != loop]
    )
    if not (swept or resident or near):
        near = [axes[-1]]
    if near == [loop]:
        loop = None
    tile = {a: _BLOCK for a in axes if a in swept or a in resident or a in near}
    sizes = dict.fromkeys(axes, _SIZE)
    for a in near:
        sizes[a] = 2 * _BLOCK - 1  # more than one block, the last not full
    for a in swept:
        sizes[a] = 2 * _BLOCK - 1
    tiling = Tiling(axes, sizes, tile, tuple(resident), tuple(swept), loop, 2, 2, 1, 1, 4)
    name = ("backward" if backward else "forward") + (f"_sweep_{''.join(swept)}" if swept else "")
    text = apply_kernel(name, _about(tiling), work, tiling)
    over = work.totals[0].over if work.totals else frozenset()
    return AnySizeKernel(
        text,
        tuple("rows" if p == "partial" else p for p in text.pointers),
        tuple(tile),
        tuple(resident),
        tuple(swept),
        tiling.spread,
        loop,
        tuple(t.name for t in work.totals),
        tuple(a for a in tiling.spread if a in over),
        sums,
        bool(work.totals and work.channels & set(swept)),
        2 if backward and rank >= HEAVY else 1,
        1024 if backward and rank >= HEAVIEST else 2048,
    )


def _about(tiling: Tiling) -> str:
    """A docstring: what one program does."""
    words = "One program per block of " + ", ".join(tiling.spread) if tiling.spread else "One program"
    if tiling.loop:
        words += f"{' and' if tiling.spread else ' per'} chunk of {tiling.loop}"
    if tiling.resident:
        words += f"; ({', '.join(tiling.resident)}) whole in registers"
    if tiling.swept:
        words += f"; sweeps over ({', '.join(tiling.swept)})"
    return words + "."
