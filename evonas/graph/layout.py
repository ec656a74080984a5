"""Named axes: which ones a tensor layout has, and where they lie once channels are split into groups.

Inside a layer every tensor is viewed with the channel axis split in two, ``g`` groups of ``k`` channels, so
that each index set is a set of plain axes and every statistic broadcasts back without a copy. The channel
axis ``c`` covers both, ``c/g`` (the channels of one group) covers ``k`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evonas.errors import FormulaError, unknown_name

IndexSet = tuple[str, ...]
#: Canonical order of axis names in a printed index set.
AXES = ("b", "t", "w", "h", "c", "c/g")


@dataclass(frozen=True, slots=True)
class Layout:
    """``dims`` are the axes of the split view, ``covers`` says which of them a named axis stands for."""

    name: str
    shape: str
    dims: tuple[str, ...]
    covers: dict[str, tuple[str, ...]]

    @property
    def axes(self) -> tuple[str, ...]:
        """Names that an index set of this layout may use."""
        return tuple(self.covers)

    def positions(self, index: Iterable[str]) -> tuple[int, ...]:
        """Positions in the split view of the axes of an index set, ascending."""
        return tuple(sorted(self.dims.index(d) for axis in index for d in self.covers[axis]))

    def covered(self, index: Iterable[str]) -> frozenset[str]:
        """Dims of the split view that an index set reduces."""
        return frozenset(d for axis in index for d in self.covers[axis])

    @property
    def channel_dims(self) -> tuple[int, int]:
        """Positions of the two halves of the channel axis."""
        return self.dims.index("g"), self.dims.index("k")

    def check(self, index: Iterable[str]) -> IndexSet:
        """The index set in canonical order.

        Raises:
            FormulaError: empty, an axis that the layout does not have, a repeated one, or both c and c/g.
        """
        given = tuple(index)
        for axis in given:
            if axis not in self.covers:
                raise FormulaError(
                    f"index set [{','.join(given)}] uses axis {axis!r}, which layout {self.name!r} ({self.shape}) "
                    f"does not have",
                    hint=f"use some of {', '.join(self.axes)}",
                )
        return canonical_index(given)


def canonical_index(index: Iterable[str]) -> IndexSet:
    """Axis names in canonical order; ``FormulaError`` if empty, unknown, repeated or with both c and c/g."""
    given = tuple(index)
    unknown = [axis for axis in given if axis not in AXES]
    if unknown or not given or len(set(given)) != len(given) or {"c", "c/g"} <= set(given):
        what = f"unknown axis {unknown[0]!r}" if unknown else "empty" if not given else "c and c/g" \
            if {"c", "c/g"} <= set(given) else "a repeated axis"  # fmt: skip
        raise FormulaError(
            f"index set [{','.join(given)}] is not usable: {what}",
            hint=f"write for example mean[w,h](x) or std[w,h,c/g](x); axes are {', '.join(AXES)}",
        )
    return tuple(sorted(given, key=AXES.index))


NCHW = Layout(
    "nchw", "(batch, channels, height, width)", ("b", "g", "k", "h", "w"),
    {"b": ("b",), "w": ("w",), "h": ("h",), "c": ("g", "k"), "c/g": ("k",)},
)  # fmt: skip
BTC = Layout(
    "btc", "(batch, tokens, channels)", ("b", "t", "g", "k"),
    {"b": ("b",), "t": ("t",), "c": ("g", "k"), "c/g": ("k",)},
)  # fmt: skip
LAYOUTS = {layout.name: layout for layout in (NCHW, BTC)}


def get_layout(name: str) -> Layout:
    """The layout of that name; ``UsageError`` otherwise."""
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    return LAYOUTS[name]
