"""How one kernel covers its axes: which are whole in a tile, which are swept in blocks, which are spread over programs.

A tile is what a program holds in registers at once. The *domain* of a kernel is the union of the axes that its
reductions cover. If it fits a tile it is resident and every reduction is a sum over registers; otherwise its outer
axes are swept in blocks, once for each level of reductions and once more to write the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that decide between schedules; the defaults are for an H100 or H200.

    processors: streaming multiprocessors that a grid should fill. resident_forward, resident_backward: elements of a
    resident tile at most (for 1024 threads 16 each in a forward and 8 in a backward kernel, which has two tensors and
    the adjoints alive). fill: elements that a tile is filled up to with further rows. sweep: elements of a swept block.
    splits: partial results that one merge adds up at most. small: elements of a domain up to which one program is
    enough for it, however few there are. registers: of 32 bits that all programs of a processor share; 0 if the
    compiler takes no limit and has plenty (AMD). launch: elements that are read while a kernel starts, which weigh
    against sweeps.
    """

    processors: int = 132
    resident_forward: int = 16384
    resident_backward: int = 8192
    fill: int = 2048
    sweep: int = 4096
    splits: int = 128
    small: int = 1 << 16
    cooperative: bool = False
    warps: int = 32
    registers: int = 1 << 16
    launch: int = 1 << 21

    def thread_registers(self, warps: int) -> int:
        """Registers that a thread of a program may have, if the program has a processor to itself; 0 for no limit."""
        return min(255, self.registers // (self.threads * warps))

    @property
    def threads(self) -> int:
        """Threads of a warp: a program has 1024 at most."""
        return 1024 // self.warps

    def warps_for(self, elements: int, *, again: bool = False, heavy: bool = False) -> int:
        """Warps of a program whose tile has so many elements.

        A thread has 8 of them, one load of 128 bits in the narrowest dtypes, if the program goes through tiles
        ``again`` and again: more would need more registers, and compilers as much longer as the code of a thread is.
        For one tile it has 16, as only then its instructions for addresses and sums are few for each; and so it has
        where 8 would leave it no more than 64 registers on CUDA, unless its work is ``heavy``.
        """
        most = self.warps if heavy or not again else self.warps // 2
        few = min(max(elements // (16 * self.threads), 1), self.warps)
        return max(few, min(elements // (8 * self.threads), most)) if again else few


LIMITS = Limits()


def limits_of(processors: int, *, cuda: bool = True) -> Limits:
    """What kernels for a GPU with so many processors are scheduled with; ``cuda`` False: one of AMD.

    ``EVONAS_KERNEL_COOPERATIVE=1`` allows kernels whose programs wait for one another.
    """
    together = os.environ.get("EVONAS_KERNEL_COOPERATIVE") == "1"
    known = replace(LIMITS, processors=processors, cooperative=together)
    return known if cuda else replace(known, warps=LIMITS.warps // 2, registers=0)


Axes = frozenset[str]


@dataclass(frozen=True)
class Tiling:
    """Blocks are powers of two.

    tile: axis -> block, in memory order, for axes with more than one element in the tile. swept: axes of the domain
    that a program goes through in blocks, outermost first. loop: an axis outside of the domain that each of ``chunks``
    programs walks along, ``steps`` blocks each, adding up vector gradients. blocked: axes outside of the domain
    that are cut into tiles; whatever is not resident, swept, looped or blocked has one program per coordinate. splits:
    programs that share the outermost swept axis, ``split_steps`` blocks each (statistics kernels only).
    idle: axes that nothing in the kernel varies over.
    team: an axis of the domain that ``members`` programs share, one block each; they exchange their parts of each
    reduction in the middle of the kernel, so all of them have to run at once.
    """

    axes: tuple[str, ...]
    sizes: Mapping[str, int] = field(hash=False)
    tile: Mapping[str, int] = field(hash=False)
    resident: tuple[str, ...]
    swept: tuple[str, ...]
    loop: str | None
    chunks: int
    steps: int
    splits: int
    split_steps: int
    warps: int
    team: str | None = None
    members: int = 1
    idle: frozenset[str] = frozenset()

    def block(self, axis: str) -> int:
        """Elements of the axis in one tile."""
        return self.tile.get(axis, 1)

    def blocks(self, axis: str) -> int:
        """Tiles along the axis."""
        return -(-self.sizes[axis] // self.block(axis))

    @property
    def exact(self) -> frozenset[str]:
        """Axes of which every block is full."""
        return frozenset(a for a in self.axes if self.sizes[a] % self.block(a) == 0)

    @property
    def spread(self) -> tuple[str, ...]:
        """Axes outside of the domain that programs are counted along, outermost first; ``loop`` is not among them."""
        inside = {*self.resident, *self.swept, *self.idle, self.loop, self.team}
        return tuple(a for a in self.axes if a not in inside)

    @property
    def programs(self) -> int:
        return prod(self.blocks(a) for a in self.spread) * self.chunks * self.splits * self.members

    @property
    def tile_elements(self) -> int:
        return prod(self.tile.values())


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def resident_tiling(
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    domain: Axes,
    channels: Axes,
    *,
    backward: bool,
    totals: bool,
    idle: Axes = frozenset(),
    limits: Limits = LIMITS,
) -> Tiling | None:
    """A tile that holds the whole domain, or None if it is too large.

    channels: axes of the vectors. totals: whether vector gradients are summed over what is outside of the domain. idle:
    axes that nothing varies over.
    """
    blocks = {a: power_of_two(sizes[a]) for a in axes if a in domain}
    if prod(blocks.values()) > (limits.resident_backward if backward else limits.resident_forward):
        return None
    loop = _loop_axis(axes, sizes, domain, channels) if totals else None
    most = limits.fill
    if loop is not None:
        # few programs leave few rows of vector gradients to add up, but every processor should have one
        share = power_of_two(prod(sizes.values()) // limits.processors + 1) // 2
        most = min(4 * limits.fill, max(limits.fill // 4, share))
    _fill(blocks, sizes, [a for a in reversed(axes) if a not in domain | idle], most)
    return _finish(axes, sizes, blocks, [a for a in axes if a in domain], [], loop, limits, idle=idle)


def swept_tiling(
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    domain: Axes,
    channels: Axes,
    sets: Iterable[Axes],
    *,
    totals: bool = False,
    split: bool = False,
    idle: Axes = frozenset(),
    limits: Limits = LIMITS,
) -> Tiling | None:
    """A tiling that sweeps outer axes of the domain, or None if some reduction forbids it. split, idle: see ``Tiling``.

    sets: the axes of each reduction in the kernel. Each must hold all swept axes or none of them: then it is summed
    up by the sweeps, or found within one tile.
    """
    inside = [a for a in axes if a in domain]
    told = list(sets)
    for most in (limits.fill, limits.resident_backward):
        for count in range(1, len(inside) + 1):
            swept, resident = inside[:count], inside[count:]
            fits = prod(power_of_two(sizes[a]) for a in resident) <= most
            if fits and all(not s & set(swept) or s >= set(swept) for s in told):
                loop = _loop_axis(axes, sizes, domain, channels) if totals else None
                return _sweep(axes, sizes, swept, resident, loop, split, idle, limits)
    return None


def team_tiling(
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    domain: Axes,
    channels: Axes,
    reductions: Iterable[tuple[Axes, Axes]],
    *,
    backward: bool,
    totals: bool,
    limits: Limits,
) -> Tiling | None:
    """A tiling in which several programs hold the domain together, or None if that is not possible.

    reductions: the axes that each covers, and those that its result varies over. What members exchange are single
    numbers, so the result of a reduction over the shared axis must not vary within the tile (a moment of moments does
    not, although it covers a part of the tile's axes alone); other reductions stay within a program. All programs must
    be able to run at once: one for each processor.
    """
    inside = [a for a in axes if a in domain]
    if not inside or (axes[-1] not in domain and sizes[axes[-1]] > 1):
        return None
    team, rest = inside[0], inside[1:]
    most = limits.resident_backward if backward else limits.resident_forward
    kept = prod(power_of_two(sizes[a]) for a in rest)
    if totals and team not in channels:
        return None
    if kept > most or any(team in over and varies & set(rest) for over, varies in reductions):
        return None
    block = min(power_of_two(sizes[team]), most // kept)
    members = -(-sizes[team] // block)
    free = [a for a in axes if a not in domain and not (totals and a in channels)]
    loop = max(free, key=lambda a: sizes[a], default=None)
    others = prod(sizes[a] for a in axes if a not in domain and a != loop)
    chunks = limits.processors // (members * others)
    if chunks < 1 or members < 2 or loop is None:
        return None
    blocks = {a: power_of_two(sizes[a]) for a in rest} | {team: block}
    base = _finish(axes, sizes, blocks, rest, [], loop, limits)
    steps = -(-sizes[loop] // chunks)
    return replace(
        base,
        chunks=-(-sizes[loop] // steps),
        steps=steps,
        team=team,
        members=members,
        warps=max(base.warps, 4),
    )


def _sweep(
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    swept: list[str],
    resident: list[str],
    loop: str | None,
    split: bool,
    idle: Axes,
    limits: Limits,
) -> Tiling:
    blocks = {a: power_of_two(sizes[a]) for a in resident}
    inner = axes[-1]
    if inner not in (*swept, *resident, *idle, loop):
        # neighbours in memory have to lie in one tile, or every load takes a cache line for one number
        room = limits.resident_forward // max(1, prod(blocks.values()))
        blocks[inner] = min(power_of_two(sizes[inner]), max(8, min(64, room)))
    _fill(blocks, sizes, list(reversed(swept)), limits.fill if split else limits.sweep)
    return _finish(axes, sizes, blocks, resident, swept, loop, limits, split, idle)


def _loop_axis(axes: tuple[str, ...], sizes: Mapping[str, int], domain: Axes, channels: Axes) -> str | None:
    free = [a for a in axes if a not in domain and a not in channels and sizes[a] > 1]
    return free[0] if free else None


def _fill(blocks: dict[str, int], sizes: Mapping[str, int], order: list[str], most: int) -> None:
    """Enlarge blocks along the axes of ``order`` until the tile has ``most`` elements."""
    for a in order:
        room = most // max(1, prod(blocks.values()))
        if room > 1 and a not in blocks:
            blocks[a] = min(power_of_two(sizes[a]), power_of_two(room + 1) // 2)


def _finish(
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    blocks: Mapping[str, int],
    resident: list[str],
    swept: list[str],
    loop: str | None,
    limits: Limits,
    split: bool = False,
    idle: Axes = frozenset(),
) -> Tiling:
    tile = {a: blocks[a] for a in axes if blocks.get(a, 1) > 1} or {axes[-1]: 1}
    elements = prod(tile.values())
    warps = limits.warps_for(elements, again=loop is not None or bool(swept))
    chunks = steps = splits = split_steps = 1

    def count(a: str) -> int:
        return -(-sizes[a] // tile.get(a, 1))

    others = prod(count(a) for a in axes if a not in (*resident, *swept, *idle, loop))
    wanted = limits.processors * max(1, 16 // limits.warps_for(elements))
    if loop is not None:
        # not one program more than run at once: a second wave of a few would cost as much as the first
        steps = -(-count(loop) // max(1, wanted // others))
        chunks = -(-count(loop) // steps)
    if split:
        split_steps = max(1, count(swept[0]) * others // wanted, -(-count(swept[0]) // limits.splits))
        splits = -(-count(swept[0]) // split_steps)
    return Tiling(
        axes,
        dict(sizes),
        tile,
        tuple(resident),
        tuple(swept),
        loop,
        chunks,
        steps,
        splits,
        split_steps,
        warps,
        idle=idle,
    )
