"""From the name of a layer with state to its module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from evonas.errors import UsageError
from evonas.layers.stateful.base import StatefulLayer
from evonas.layers.stateful.registry import stateful_entry

#: Options of layers that are given as graphs, which a search hands to every layer alike.
OF_GRAPHS = ("groups", "group_size", "momentum")


def make_stateful(
    name: str, channels: int, layout: str, backend: str, options: Mapping[str, Any]
) -> StatefulLayer:
    """The module of a layer with state.

    ``groups``, ``group_size`` and ``momentum`` are left out where the class does not take them: they are options of
    graphs, and a search hands them to all layers alike.

    Raises:
        UsageError: a layout that it is not for, backend "triton" or "c", or an option that it does not have.
    """
    entry = stateful_entry(name)
    if layout not in entry.formulas:
        raise UsageError(f"layer {name} is for {' and '.join(entry.formulas)}, not for {layout!r}")
    if backend not in ("auto", "eager"):
        raise UsageError(
            f"backend={backend!r}: layer {name} keeps state and has a class of its own, there are no generated kernels",
            hint="use backend='auto' or backend='eager'",
        )
    cls = entry.load()
    known = _keywords(cls)
    kept = {key: value for key, value in options.items() if key in known or key not in OF_GRAPHS}
    if kept.keys() - known:
        raise UsageError(
            f"layer {name} has no option {', '.join(sorted(kept.keys() - known))}",
            hint=f"its options are {', '.join(sorted(known))}",
        )
    return cls(channels, layout=layout, **kept)


def options_of(name: str) -> set[str]:
    """The options of a layer with state; ``UsageError`` for an unknown name."""
    return _keywords(stateful_entry(name).load())


def _keywords(cls: type[StatefulLayer]) -> set[str]:
    """Keywords of the constructors of a class and its bases, the layer's common ones among them."""
    found: set[str] = set()
    for one in cls.__mro__:
        if not issubclass(one, StatefulLayer):
            break
        parameters = inspect.signature(one.__init__).parameters.values()
        found |= {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found - {"layout", "sizes"}
