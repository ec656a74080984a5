"""Layers with state: a contract that declares buffers, warm-up, both formulas and the gradient rule, and the layers
that are written under it. ``StatefulLayer``, ``PowerNorm`` and ``UnifiedNorm`` need torch, which is imported when they
are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evonas.layers.stateful.contract import Buffer, StateContract
from evonas.layers.stateful.of_graph import graph_contract
from evonas.layers.stateful.registry import STATEFUL, StatefulEntry, stateful_entry, stateful_layer

if TYPE_CHECKING:
    from evonas.layers.stateful.base import StatefulLayer
    from evonas.layers.stateful.power_norm import PowerNorm
    from evonas.layers.stateful.unified_norm import UnifiedNorm

__all__ = [
    "STATEFUL",
    "Buffer",
    "PowerNorm",
    "StateContract",
    "StatefulEntry",
    "StatefulLayer",
    "UnifiedNorm",
    "graph_contract",
    "stateful_entry",
    "stateful_layer",
]

_LAZY = {"StatefulLayer": "base", "PowerNorm": "power_norm", "UnifiedNorm": "unified_norm"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"evonas.layers.stateful.{_LAZY[name]}"), name)
    raise AttributeError(name)
