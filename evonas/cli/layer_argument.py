"""The layer and the tensor that a verb is about, as people type them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evonas.cli.values import shape as read_shape
from evonas.errors import UsageError, unknown_name
from evonas.graph.cost import resolve_groups
from evonas.layers import ZOO, AssembledLayer, Layer, resolve_candidate, resolve_layer

#: What --layout takes -> layout and memory order.
ORDERS = {
    "nchw": ("nchw", "contiguous"),
    "channels_last": ("nchw", "channels_last"),
    "btc": ("btc", "contiguous"),
}


def read_layer(target: str, candidate: str | None, plugins: Sequence[str], runs: str) -> Layer:
    """A layer by name, formula or file; or a candidate of a run.

    Raises:
        UsageError, FormulaError, PluginError: see ``resolve_layer``, ``Run`` and ``load_plugins``.
    """
    from evonas.plugins import describe_plugins, load_all_plugins

    load_all_plugins(describe_plugins(plugins))
    if candidate is None and not _is_run(target):
        found = resolve_layer(target) if target.strip() in ZOO else resolve_candidate(target)
        return _one(found)
    from evonas.cli.history import History
    from evonas.run.run import Run

    return _one(History(Run(target, runs), candidate or "best").layer())


def _one(found: Layer | AssembledLayer) -> Layer:
    """The layer, if it is one with kernels; an assembly has several layers, and the verb is about one."""
    if isinstance(found, Layer):
        if found.stateful:
            raise UsageError(
                f"{found.stateful} keeps state and has no generated kernels",
                hint=f'its formula has, which is one batch in its warm-up: "{found.formula}"',
            )
        return found
    parts = found.parts
    raise UsageError(
        f"{found.text!r} has a layer for each of {', '.join(parts)}; this verb takes one layer",
        hint=f"give one of them by its formula: {', '.join(repr(one.formula) for one in parts.values())}",
    )


def _is_run(target: str) -> bool:
    try:
        return (Path(target) / "run.json").is_file()
    except OSError:  # a text that no file system takes for a name, such as a long formula
        return False


def read_order(layout: str | None, layer: Layer) -> tuple[str, str]:
    """Layout and memory order; by default the layer's own layout, contiguous.

    Raises:
        UsageError: no such layout. FormulaError: the layer uses an axis that it does not have.
    """
    name = layer.layout if layout is None else layout
    if name not in ORDERS:
        raise unknown_name("layout", name, ORDERS)
    from evonas.graph.layout import get_layout

    for index in layer.graph.index_sets:
        get_layout(ORDERS[name][0]).check(index)
    return ORDERS[name]


def read_size(shape: str, layout: str, groups: int) -> tuple[tuple[int, ...], int]:
    """A shape, and the number of groups that a layer has there: at most ``groups``, a divisor of the channels.

    Raises:
        UsageError: not as many positive integers as the layout has axes.
    """
    sizes = read_shape(shape, layout)
    return sizes, resolve_groups(sizes[1] if layout == "nchw" else sizes[-1], groups)
