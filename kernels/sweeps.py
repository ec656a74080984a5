"""Sweeps: reductions over a domain that a program goes through in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evonas.kernels.ir import Axes

if TYPE_CHECKING:
    from evonas.kernels.emit import Kernel


def open_sweep(kernel: Kernel, targets: Sequence[int], limits: tuple[str, str] | None = None) -> None:
    """Open one loop per swept axis, defining on the way in what does not depend on the inner ones."""
    swept = list(kernel.tiling.swept)
    for n, a in enumerate(swept):
        kernel.hoist(targets, set(swept[n:]))
        first, last = limits if limits and n == 0 else ("0", kernel.out.size(a))
        kernel.open_loop(a, first, last)


def sweep(
    kernel: Kernel,
    reductions: Sequence[int],
    limits: tuple[str, str] | None = None,
    also: Sequence[int] = (),
    in_block: Callable[[], None] | None = None,
) -> None:
    """One sweep over the domain that finds reductions of one level.

    also: values that are made in each block beside them, in_block: what is then done with these.

    Means are summed lane by lane; variances (with their means) block by block, each block in two passes, blocks
    merged by the formula of Chan, Golub and LeVeque (1983). With limits, results stay partial: the mean, and for a
    variance the sum of squared deviations after it.
    """
    out, ir, tiling = kernel.out, kernel.ir, kernel.tiling
    variances = [i for i in reductions if ir[i].op == "var"]
    centres = ir.centres(variances)
    means = [i for i in reductions if ir[i].op == "mean" and i not in centres]
    swept = set(tiling.swept)
    partial = limits is not None
    state: dict[int, tuple[str, ...]] = {}
    for i in means:
        name = out.fresh("sum_" + "".join(a for a in tiling.axes if a in ir[i].over))
        out.line(f"{name} = {out.zeros(ir[ir[i].args[0]].varies)}")
        state[i] = (name,)
    for i in variances:
        label = "".join(a for a in tiling.axes if a in ir[i].over)
        names = (out.fresh(f"mean_{label}"), out.fresh(f"squares_{label}"), out.fresh(f"seen_{label}"))
        for name in names[:2]:
            out.line(f"{name} = {out.zeros(ir[i].varies)}")
        out.line(f"{names[2]} = 0.0")
        state[i] = names
    arguments = list(dict.fromkeys([*(ir[i].args[0] for i in [*means, *variances]), *also]))
    open_sweep(kernel, arguments, limits)
    out.define(arguments)
    if in_block is not None:
        in_block()
    for i in means:
        a = ir[i].args[0]
        axes = out.tile_axes(ir[i].over)
        mask, text = out.mask(axes), out.get(a)[0]
        if mask and not (out.vanishes(a) and set(axes) <= ir[a].varies):
            text = f"tl.where({mask}, {text}, 0.0)"
        out.line(f"{state[i][0]} += {text}")
    for i in variances:
        _merge_block(kernel, i, state[i])
    for _ in swept:
        out.close()
    kernel.found = {}
    for i in means:
        name = state[i][0]
        text = out.sum_text(name, ir[ir[i].args[0]].varies, ir[i].over)
        if not out.tile_axes(ir[i].over):
            text = name
        if partial:
            done = out.fresh("mean")
            share = _share(kernel, ir[i].over, limits)
            out.helpers.add("quotient")
            out.line(f"{done} = quotient({text}, {share})")
            kernel.found[i] = (done,)
        else:
            done = out.fresh("mean_" + "".join(a for a in tiling.axes if a in ir[i].over))
            out.line(f"{done} = {out.divided(text, ir[i].over, exact=out.of_input(i))}")
            out.name(i, done)
    for i in variances:
        centre, squares, _ = state[i]
        if partial:
            kernel.found[i] = (centre, squares)
            continue
        if ir[i].args[1] in centres:
            out.name(ir[i].args[1], centre)
        done = out.fresh("var_" + "".join(a for a in tiling.axes if a in ir[i].over))
        out.line(f"{done} = {squares} * {out.inverse(ir[i].over)}")
        out.name(i, done)


def _share(kernel: Kernel, over: Axes, limits: tuple[str, str] | None) -> str:
    """Elements of this program's part of a reduction."""
    assert limits is not None
    outer = kernel.tiling.swept[0]
    rest = [kernel.out.size(a) for a in kernel.tiling.axes if a in over and a != outer]
    return " * ".join(["1.0", f"({limits[1]} - {limits[0]})", *rest])


def _merge_block(kernel: Kernel, i: int, state: tuple[str, ...]) -> None:
    """Mean and squared deviations of one block, merged into those of the blocks before it."""
    out, ir, tiling = kernel.out, kernel.ir, kernel.tiling
    value = ir[i]
    mean, squares, count = state
    a = value.args[0]
    parts = ["1.0"]
    for axis in (b for b in tiling.axes if b in value.over):
        if axis in tiling.resident:
            parts.append(out.size(axis))
        elif tiling.block(axis) > 1:
            block = f"BLOCK_{axis.upper()}"
            parts.append(
                block if axis in tiling.exact else f"tl.minimum({block}, {out.size(axis)} - {axis}0)"
            )
    here, centre, change, both = (out.fresh(n) for n in ("here", "centre", "change", "both"))
    out.line(f"{here} = {' * '.join(parts)}")
    if out.tile_axes(value.over):
        out.helpers.add("quotient")
        out.line(f"{centre} = quotient({out.total(a, value.over)}, {here})")
        out.line(f"{squares} += {out.squares(a, centre, value.over)}")
    else:
        out.line(f"{centre} = {out.get(a)[0]}")
    out.line(f"{change} = {centre} - {mean}")
    out.line(f"{both} = {count} + {here}")
    out.line(f"{mean} += {change} * ({here} / {both})")
    out.line(f"{squares} += {change} * {change} * ({count} * {here} / {both})")
    out.line(f"{count} = {both}")
