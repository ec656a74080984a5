"""Which statistics a kernel of their own finds first, and what that kernel can do on the way.

A *whole* reduction is one of a tensor of full rank: it needs a sweep over memory, while reductions of few numbers cost
next to nothing. So what counts is that every tensor is gone through as rarely as possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from evonas.kernels.emit import Work
from evonas.kernels.ir import IR, Axes
from evonas.kernels.programs import Program, Total
from evonas.kernels.tiling import Limits, Tiling, swept_tiling


@dataclass(frozen=True)
class Peel:
    """Reductions over the same axes that one kernel finds.

    passing: reductions within one block of the sweep, stored as it passes by. tensors: names of those that it writes
    on the way, because they need nothing that is not there yet.
    """

    group: tuple[int, ...]
    tiling: Tiling
    passing: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()


def whole(ir: IR, roots: Iterable[int], known: Iterable[int], rank: int) -> set[int]:
    """Unknown reductions of tensors of full rank that the roots need."""
    return {i for i in ir.reductions(roots, known) if len(ir[ir[i].args[0]].varies) == rank}


def tensor_leaves(ir: IR, roots: Iterable[int], known: Iterable[int], rank: int) -> set[int]:
    """Leaves of full rank that have to be read for the roots."""
    return {i for i in ir.reachable(roots, known) if ir[i].op == "leaf" and len(ir[i].varies) == rank}


def idle_axes(ir: IR, roots: Iterable[int], known: Iterable[int], axes: Iterable[str]) -> Axes:
    """Axes along which there is nothing to do for statistics: a kernel of few numbers needs no programs along them."""
    return frozenset(axes).difference(*(ir[i].varies for i in ir.reachable(roots, known)))


def narrowest(program: Program, known: Mapping[int, str], sizes: Mapping[str, int]) -> Axes:
    """The narrowest axes of a whole reduction of the lowest level: of those that the tensors need, or else the vector
    gradients. No axes if there is no such reduction."""
    ir, rank = program.ir, len(program.axes.names)
    for roots in (list(program.tensors.values()), [t.value for t in program.totals]):
        level = ir.levels(roots, known)
        sets = [ir[i].over for i in whole(ir, roots, known, rank) if level[i] == 1]
        if sets:
            return min(sets, key=lambda s: (prod(sizes[a] for a in s), sorted(s)))
    return frozenset()


def by_parts(program: Program, total: Total, parts: Axes, known: Mapping[int, str]) -> int | None:
    """The mean that a vector gradient is, as a mean of means over ``parts``; or None if these would have to be found by
    reading tensors that nobody reads for such means anyway."""
    if not parts <= total.over:
        return None
    ir, rank = program.ir, len(program.axes.names)
    level = ir.levels(program.roots, known)
    there = [i for i in whole(ir, program.roots, known, rank) if level[i] == 1 and ir[i].over == parts]
    read = tensor_leaves(ir, there, known, rank)
    value = ir.mean(ir.mean(total.value, parts), total.over)
    for i in whole(ir, [value], known, rank) - set(there):
        lowest = not ir.reductions(ir[i].args[:1], known)
        if not lowest or ir[i].over != parts or not tensor_leaves(ir, [i], known, rank) <= read:
            return None
    return value


def next_peel(
    work: Work,
    known: Mapping[int, str],
    sizes: Mapping[str, int],
    axes: tuple[str, ...],
    limits: Limits,
    *,
    apart: bool,
    lean: bool,
) -> Peel:
    """The widest reductions of the lowest level that are still unknown.

    apart: also those of higher levels whose own statistics lie within one block of the sweep, with whatever else the
    sweep finds for nothing. lean: leave for later what only tensors need, as the kernel that writes these may hold it
    in registers.
    """
    ir = work.ir
    level = ir.levels(work.roots, known)
    lowest = [i for i, at in level.items() if at == 1]
    if lean:
        # the mean inside a variance comes with it
        arguments = [ir[i].args[0] for i in level]
        others = [s.value for s in work.statistics] + [t.value for t in work.totals]
        used = set(ir.reachable([*arguments, *others], known))
        lowest = [i for i in lowest if i in used] or lowest

    def size(over: Axes) -> tuple[int, list[str]]:
        return prod(sizes[a] for a in over), sorted(over)

    def tiling_of(group: Iterable[int]) -> Tiling | None:
        over = ir[next(iter(group))].over
        below = [ir[j].over for i in group for j in ir.reductions(ir[i].args[:1], known)]
        idle = idle_axes(ir, group, known, axes)
        sets = [over, *below]
        made = swept_tiling(axes, sizes, over, work.channels, sets, split=True, idle=idle, limits=limits)
        return made if made is not None and all(s <= set(made.resident) for s in below) else None

    group = _alike(ir, lowest, max((ir[i].over for i in lowest), key=size))
    if apart:
        high = [i for i in whole(ir, work.roots, known, len(axes)) - ir.centres(level) if level[i] > 1]
        for i in sorted(high, key=lambda i: (-level[i], size(ir[i].over), i)):
            if tiling_of([i]) is not None:
                group = [i]
                for j in _alike(ir, level, ir[i].over):
                    if j != i and ir[j].varies == ir[i].varies and tiling_of([*group, j]) is not None:
                        group.append(j)
                break
    # one buffer of partial results holds what varies alike
    group = [i for i in group if ir[i].varies == ir[group[0]].varies]
    tiling = tiling_of(group)
    assert tiling is not None
    passing, tensors = _on_the_way(work, known, group, tiling) if apart else ((), ())
    return Peel(tuple(group), tiling, passing, tensors)


def _alike(ir: IR, reductions: Iterable[int], over: Axes) -> list[int]:
    """Those over these axes, without means that are found with a variance."""
    found = [i for i in reductions if ir[i].over == over]
    centres = ir.centres(found)
    return [i for i in found if i not in centres]


def _on_the_way(
    work: Work, known: Mapping[int, str], group: list[int], tiling: Tiling
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Reductions within a block, and tensors, for which the sweep reads all that they need."""
    ir, rank, resident = work.ir, len(tiling.axes), set(tiling.resident)
    read = tensor_leaves(ir, group, known, rank)
    if not read:
        return (), ()

    def at_hand(roots: list[int]) -> bool:
        within = all(ir[j].over <= resident for j in ir.reductions(roots, known))
        return within and tensor_leaves(ir, roots, known, rank) <= read

    tensors = tuple(name for name, value in work.tensors.items() if at_hand([value]))
    rest = [v for name, v in work.tensors.items() if name not in tensors]
    rest += [s.value for s in work.statistics] + [t.value for t in work.totals]
    left = whole(ir, rest, [*known, *group], rank)
    passing = tuple(i for i in sorted(left | (ir.centres(left) - set(known))) if at_hand([i]))
    return passing, tensors
