"""Axes of a kernel: the dims of a layout in memory order, neighbours that nothing tells apart merged into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from evonas.errors import UsageError, unknown_name
from evonas.graph.layout import LAYOUTS, get_layout

#: Memory orders per layout, outermost dim first. A BTC tensor of contiguous memory is (b, t, g, k).
MEMORY_ORDERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("nchw", "contiguous"): ("b", "g", "k", "h", "w"),
    ("nchw", "channels_last"): ("b", "h", "w", "g", "k"),
    ("btc", "contiguous"): ("b", "t", "g", "k"),
}
CHANNELS = frozenset({"g", "k"})
#: Names of merged axes: channels, pixels, rows (all that is not a channel), and all elements.
_MERGED = {("g", "k"): "c", ("h", "w"): "p", ("b", "h", "w"): "r", ("b", "t"): "r"}
_SPARE = ("e", "m", "n", "u", "v")


@dataclass(frozen=True, slots=True)
class KernelAxes:
    """``names`` in memory order, outermost first; ``parts`` says which dims of the layout each one covers."""

    names: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]

    def of(self, dims: Iterable[str]) -> frozenset[str]:
        """The axes that cover those dims of the layout."""
        dims = frozenset(dims)
        return frozenset(n for n, parts in zip(self.names, self.parts, strict=True) if dims & set(parts))

    def sizes(self, dims: Mapping[str, int]) -> dict[str, int]:
        """Size per axis from the sizes of the layout's dims."""
        return {n: prod(dims[d] for d in parts) for n, parts in zip(self.names, self.parts, strict=True)}


def merge_axes(layout: str, memory: str, sets: Iterable[frozenset[str]]) -> KernelAxes:
    """Axes for a kernel whose leaves vary over, and whose reductions cover, exactly those sets of dims.

    Raises:
        UsageError: an unknown layout or a memory order that it does not have.
    """
    get_layout(layout)
    if (layout, memory) not in MEMORY_ORDERS:
        known = [m for (where, m) in MEMORY_ORDERS if where == layout]
        raise unknown_name("memory order", memory, known, hint=f"layout {layout!r} has {', '.join(known)}")
    order = MEMORY_ORDERS[layout, memory]
    together: list[list[str]] = []
    told = list(sets)
    for dim in order:
        if together and all((together[-1][-1] in s) == (dim in s) for s in told):
            together[-1].append(dim)
        else:
            together.append([dim])
    parts = tuple(tuple(group) for group in together)
    names: list[str] = []
    for part in parts:
        wish = part[0] if len(part) == 1 else _MERGED.get(part, "e")
        names.append(next(n for n in (wish, *_SPARE) if n not in names))
    return KernelAxes(tuple(names), parts)


def dim_sizes(layout: str, shape: tuple[int, ...], groups: int) -> dict[str, int]:
    """Sizes of a layout's dims for a tensor of that public shape and that very number of groups.

    Raises:
        UsageError: the wrong number of dimensions, or groups that do not divide the channels.
    """
    if layout not in LAYOUTS or len(shape) != len(LAYOUTS[layout].dims) - 1:
        raise UsageError(
            f"shape {shape} does not fit layout {layout!r}", hint="give (B, C, H, W) or (B, T, C)"
        )
    channels = shape[1] if layout == "nchw" else shape[2]
    if groups < 1 or channels % groups:
        raise UsageError(f"{groups} groups do not divide {channels} channels", hint="use a divisor")
    split = {"g": groups, "k": channels // groups}
    if layout == "nchw":
        return {"b": shape[0], **split, "h": shape[2], "w": shape[3]}
    return {"b": shape[0], "t": shape[1], **split}
