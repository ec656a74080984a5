"""Reductions whose axes are shared by a team of programs: each stores its part, all meet, each merges all parts.

Parts are merged in the order of the members, so every member finds the same bits. Two buffers take turns: a member
can only be one exchange ahead of another, because both had to meet in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evonas.kernels.emit import Kernel

from evonas.kernels.ir import Value


def prologue(kernel: Kernel) -> None:
    """What every exchange needs, before any loop."""
    out, tiling = kernel.out, kernel.tiling
    assert tiling.team is not None
    size, block = out.size(tiling.team), out.block(tiling.team)
    out.line("s = tl.arange(0, BLOCK_MEMBERS)")
    share = f"tl.minimum({size} - s * {block}, {block})"
    out.line(f"weight_s = tl.where(s < {out.number('members')}, {share} * 1.0 / {size}, 0.0)")
    out.line("turn = 0")


def exchange(kernel: Kernel, reductions: Sequence[int]) -> int:
    """Find reductions of one level, all of which cover the whole tile; returns how many numbers were exchanged."""
    out, ir = kernel.out, kernel.ir
    centres = ir.centres(reductions)
    singles = [i for i in reductions if i not in centres]
    out.define(list(dict.fromkeys(ir[i].args[0] for i in singles)))
    place = out.fresh("place")
    slots, members = out.number("slots"), out.number("members")
    pointer = out.pointer("exchange")
    out.reads["exchange"] = out.writes["exchange"] = 1
    out.line(f"{place} = {pointer} + ((turn % 2) * {out.number('teams')} + team) * ({slots} * {members})")
    used = 0
    parts: list[tuple[int, int]] = []
    for i in singles:
        value = ir[i]
        parts.append((i, used))
        here, mine = out.fresh("here"), out.fresh("mine")
        out.line(f"{here} = {_count(kernel, value)}")
        out.helpers.add("quotient")
        out.line(f"{mine} = quotient({out.total(value.args[0], value.over)}, {here})")
        out.line(f"tl.store({place} + {used} * {members} + member, {mine})")
        used += 1
        if value.op == "var":
            squares = out.squares(value.args[0], mine, value.over)
            out.line(f"tl.store({place} + {used} * {members} + member, {squares})")
            used += 1
    out.helpers.add("meet")
    out.line(f"turn += 1\n{'    ' * out.depth}meet({out.pointer('counters')} + team, turn * {members})")
    for i, slot in parts:
        value = ir[i]
        label = "".join(a for a in kernel.tiling.axes if a in value.over)
        mean = _merge(kernel, place, slot, label)
        if value.op == "mean":
            out.name(i, mean)
            continue
        if value.args[1] in centres:
            out.name(value.args[1], mean)
        far, squares, var = out.fresh("far"), out.fresh("squares"), out.fresh(f"var_{label}")
        out.line(f"{far} = part{slot} - {mean}")
        out.line(f"{squares} = {_load(kernel, place, slot + 1)}")
        inverse = out.inverse(value.over)
        out.line(f"{var} = tl.sum(weight_s * {far} * {far}) + tl.sum({squares}) * {inverse}")
        out.name(i, var)
    return used


def _count(kernel: Kernel, value: Value) -> str:
    """Elements of this member's part."""
    out, tiling = kernel.out, kernel.tiling
    factors = ["1.0"]
    for a in (b for b in tiling.axes if b in value.over):
        if a != tiling.team:
            factors.append(out.size(a))
        elif a in tiling.exact:
            factors.append(out.block(a))
        else:
            factors.append(f"tl.minimum({out.block(a)}, {out.size(a)} - {a}0)")
    return " * ".join(factors)


def _load(kernel: Kernel, place: str, slot: int) -> str:
    # past the first-level cache, which may hold what stood there two exchanges ago
    members = kernel.out.number("members")
    return f"tl.load({place} + {slot} * {members} + s, mask=s < {members}, other=0.0, cache_modifier='.cg')"


def _merge(kernel: Kernel, place: str, slot: int, label: str) -> str:
    """The mean of the members' means, as differences from the first one."""
    out = kernel.out
    part, shift, mean = f"part{slot}", out.fresh("shift"), out.fresh(f"mean_{label}")
    out.line(f"{part} = {_load(kernel, place, slot)}")
    out.line(f"{shift} = tl.load({place} + {slot} * {out.number('members')}, cache_modifier='.cg')")
    out.line(f"{mean} = {shift} + tl.sum(({part} - {shift}) * weight_s)")
    return mean
