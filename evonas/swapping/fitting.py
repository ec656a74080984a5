"""How a layer sees the tensors of a place: its layout and the view, or why it cannot stand there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from evonas.graph.cost import resolve_groups
from evonas.graph.layout import BTC, NCHW
from evonas.layers.layer import Layer
from evonas.swapping.sites import Site
from evonas.swapping.trace import Trace

_CHANNELS = {"c", "c/g"}


class Fit(NamedTuple):
    """layout of the layer; view of ``evonas.swapping.modules.Viewed``, "" for none."""

    layout: str
    view: str


def fit(layer: Layer, site: Site, trace: Trace, options: Mapping[str, Any]) -> Fit | str:
    """The fit for all calls of a place, or the reason against it.

    Args:
        trace: given images, the middle axes of a tensor (B, H, W, C) are space.
        options: of ``Layer.module``; the number of groups counts.
    """
    if site.channels is None or site.axis is None:
        return "where its channels are is not known, or not the same in all calls"
    shapes = {c.shape for c in site.calls}
    found: set[Fit | str] = set()
    for shape in shapes:
        dims = len(shape) if shape is not None else _implied_dims(site)
        if dims is None:
            return "the shape of its tensors is not known: give example="
        made = fit_dims(layer, dims, site.axis, trace.images)
        if trace.any_dims and made == Fit("btc", "") and _needs(layer) <= _CHANNELS:
            made = Fit("btc", "flat")
        found.add(made)
        single = "" if shape is None else _single_value(layer, shape, site.axis, options)
        if single:
            return single
    return found.pop() if len(found) == 1 else "is called with tensors of different kinds"


def fit_dims(layer: Layer, dims: int, axis: int, images: bool) -> Fit | str:
    """The fit for tensors with that many axes and the channels at ``axis``, or the reason against it."""
    needed = _needs(layer)
    if axis == 1 and dims in (2, 3, 4):
        view = {2: "vector", 3: "length", 4: ""}[dims]
        has = {"b", *_CHANNELS} if dims == 2 else set(NCHW.covers)
        shape = {2: "(B, C)", 3: "(B, C, L)", 4: "(B, C, H, W)"}[dims]
        return Fit("nchw", view) if needed <= has else _lacks(layer, needed - has, shape, has)
    if axis == 1:
        return f"tensors of {dims} axes with channels first, a layer takes at most (B, C, H, W)"
    if dims == 3:
        has = set(BTC.covers)
        return Fit("btc", "") if needed <= has else _lacks(layer, needed - has, "(B, T, C)", has)
    if needed <= _CHANNELS:
        return Fit("btc", "flat")
    if dims == 4 and images and needed <= set(NCHW.covers):
        return Fit("nchw", "last")
    maps = dims == 4 and images
    has = set(NCHW.covers) if maps else _CHANNELS
    return _lacks(layer, needed - has, "(B, H, W, C)" if maps else "(B, ..., C)", has)


def _needs(layer: Layer) -> set[str]:
    return {name for index in layer.graph.index_sets for name in index}


def _single_value(layer: Layer, shape: tuple[int, ...], axis: int, options: Mapping[str, Any]) -> str:
    """Why a deviation would be 0: its index set holds one value, as that of one channel of a pooled map does."""
    channels = shape[axis]
    size = options.get("group_size") or channels // resolve_groups(channels, options.get("groups", 32))
    space = shape[2:] if axis == 1 else shape[1:-1]
    counts = {"w": space[-1] if space else 1, "h": math.prod(space[:-1]), "c": channels, "c/g": size}
    for _, node in layer.graph.operations():
        index = node.index or ()
        if (
            node.op == "std"
            and index
            and set(index) <= set(counts)
            and math.prod(counts[i] for i in index) == 1
        ):
            return (
                f"std[{','.join(index)}] is that of a single value on {'x'.join(map(str, shape))} with groups of "
                f"{size} channels (a larger example= or fewer groups= help)"
            )
    return ""


def _lacks(layer: Layer, lacking: set[str], shape: str, has: set[str]) -> str:
    index = next(i for i in sorted(layer.graph.index_sets) if lacking & set(i))
    return (
        f"the layer's index set [{','.join(index)}] needs {', '.join(sorted(lacking))}, which tensors {shape} do not "
        f"have there (only {', '.join(sorted(has))})"
    )


def _implied_dims(site: Site) -> int | None:
    """Axes of a tensor that a module takes by its class alone."""
    if isinstance(site.module, nn.BatchNorm2d | nn.InstanceNorm2d):
        return 4
    first = site.axis == 1 and not isinstance(site.module, nn.modules.batchnorm._NormBase | nn.GroupNorm)
    return 4 if first else None
