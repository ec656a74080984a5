"""Layers with state by name, those of the zoo and those of plug-ins. Importing this does not import torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from evonas.errors import PluginError, UsageError, unknown_name
from evonas.graph.graph import Graph
from evonas.graph.layout import get_layout
from evonas.layers.stateful.builtin import BUILTIN
from evonas.layers.stateful.contract import StateContract
from evonas.layers.zoo import ZOO

if TYPE_CHECKING:
    from evonas.layers.stateful.base import StatefulLayer

C = TypeVar("C", bound="type[StatefulLayer]")


@dataclass(frozen=True)
class StatefulEntry:
    """A layer with state as the zoo knows it.

    formulas: layout -> the layer on one batch while it warms up, as a formula; the first layout is its own. It is what
    digests, costs and properties are computed of. where: "module:class" of the class, or empty if ``cls`` holds it.
    """

    formulas: Mapping[str, str]
    source: str
    summary: str
    contract: StateContract
    where: str = ""
    cls: type[StatefulLayer] | None = field(default=None, compare=False)

    @property
    def layout(self) -> str:
        """The layer's own layout."""
        return next(iter(self.formulas))

    @property
    def formula(self) -> str:
        """The formula in its own layout."""
        return self.formulas[self.layout]

    @property
    def class_name(self) -> str:
        """How the class is called."""
        return self.where.split(":")[-1] if self.cls is None else self.cls.__name__

    def graph(self, layout: str) -> Graph:
        """The formula in a layout, as a graph; ``UsageError`` for a layout that the layer is not for."""
        if layout not in self.formulas:
            raise UsageError(f"{self.class_name} is for {' and '.join(self.formulas)}, not for {layout}")
        return Graph.parse(self.formulas[layout])

    def load(self) -> type[StatefulLayer]:
        """The class; imports torch."""
        if self.cls is not None:
            return self.cls
        module, name = self.where.split(":")
        found: type[StatefulLayer] = getattr(import_module(module), name)
        return found


STATEFUL: dict[str, StatefulEntry] = {
    name: StatefulEntry(**values, contract=contract) for name, (values, contract) in BUILTIN.items()
}


def stateful_entry(name: str) -> StatefulEntry:
    """The entry of that name; ``UsageError`` with the nearest one otherwise."""
    if name not in STATEFUL:
        raise unknown_name("stateful layer", name, STATEFUL, hint="`evonas list layers` shows all")
    return STATEFUL[name]


def stateful_layer(
    name: str, *, formulas: Mapping[str, str], source: str, summary: str = ""
) -> Callable[[C], C]:
    """Register a subclass of ``StatefulLayer`` under a name, as a decorator.

    ``evonas.layer(name)`` finds it then, ``evonas show`` prints its contract, and a search takes it as a baseline.
    Registering the same file again replaces its own entry.

    Args:
        name: lower case with underscores; a prefix of your own avoids collisions.
        formulas: layout -> the layer on one batch, as a formula in that layout; its own layout first.
        source: the paper or the author. summary: one line; by default the first line of the docstring.

    Raises:
        PluginError: a name that is taken or malformed, no contract, no formula.
        FormulaError, UsageError: a formula or layout that does not exist.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise PluginError(f"{name!r} is no name of a layer", hint="lower case with underscores, acme_norm")
    if not formulas:
        raise PluginError(f"layer {name!r} has no formula", hint='formulas={"btc": "x / rms[b,t](x)"}')
    for layout, formula in formulas.items():
        for index in Graph.parse(formula).index_sets:
            get_layout(layout).check(index)

    def register(cls: C) -> C:
        contract = getattr(cls, "contract", None)
        if not isinstance(contract, StateContract):
            raise PluginError(
                f"{cls.__name__} declares no contract", hint="contract = evonas.layers.StateContract(...)"
            )
        known = STATEFUL.get(name)
        if name in ZOO or (known is not None and (known.cls is None or _defined(known.cls) != _defined(cls))):
            raise PluginError(
                f"there is a layer {name!r} already", hint="take a prefix of your own, acme_norm"
            )
        words = summary or (cls.__doc__ or "").strip().split("\n")[0].rstrip(".")
        STATEFUL[name] = StatefulEntry(dict(formulas), source, words, contract, cls=cls)
        return cls

    return register


def _defined(cls: type) -> tuple[str, str]:
    """File and name of a class: a script and a plug-in file may both be the one."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return os.path.realpath(file) if file else cls.__module__, cls.__qualname__
