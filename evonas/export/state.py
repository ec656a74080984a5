"""State dicts of evonas modules and of exported ones: the same parameters, running averages under readable names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evonas.errors import UsageError
from evonas.export.forms import forms_of
from evonas.export.statements import program
from evonas.graph import Graph
from evonas.layers.stateful.registry import STATEFUL

if TYPE_CHECKING:
    from evonas.layers.module import GraphLayer


def _keys(graph: Graph, layout: str) -> dict[str, str]:
    """Of running averages: evonas -> exported."""
    form, _ = forms_of(graph.active(), layout)
    return {s.key: s.name for s in program(graph, form).statistics}


def from_evonas_state(state: Mapping[str, Any], formula: str | Graph, layout: str = "nchw") -> dict[str, Any]:
    """The state of an exported layer from that of ``Layer.module(...)``.

    Args:
        state: ``module.state_dict()``; ``statistics.<n>.running`` have the shape of the split view there.
        formula: of the layer; of a layer with state its name, and the state is the same there and here.
        layout: of the module, "nchw" or "btc".

    Raises:
        UsageError: a key that a module of that formula does not have.
    """
    if isinstance(formula, str) and formula in STATEFUL:
        return dict(state)
    graph = Graph.parse(formula) if isinstance(formula, str) else formula
    keys = _keys(graph, layout)
    made: dict[str, Any] = {}
    for key, value in state.items():
        if key in keys:
            made[keys[key]] = value.reshape(-1)
        elif key.startswith("statistics."):
            raise UsageError(f"{key} is no statistic of {graph}", hint="give the formula of the module")
        else:
            made[key] = value
    return made


def to_evonas_state(state: Mapping[str, Any], module: GraphLayer) -> dict[str, Any]:
    """The state for a module of evonas from that of an exported layer of the same formula and channels.

    Raises:
        UsageError: a running average that is missing.
    """
    keys = {name: key for key, name in _keys(module.graph, module.layout.name).items()}
    missing = [name for name in keys if name not in state]
    if missing:
        raise UsageError(
            f"the state has no {', '.join(missing)}", hint="give the state of the exported layer"
        )
    own = module.state_dict()
    return {
        keys.get(name, name): value.reshape(own[keys[name]].shape) if name in keys else value
        for name, value in state.items()
    }
