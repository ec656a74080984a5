"""Layers: graph -> ``nn.Module`` (the eager reference), running statistics, layers with state, folding, and the zoo.

Importing this does not import torch; what needs it (``GraphLayer``, ``vector_parameters``, ``StatefulLayer``, ``fold``
and others) is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evonas.layers.assembled import (
    AssembledLayer,
    assembly_from,
    candidate_from,
    candidate_of,
    resolve_candidate,
)  # fmt: skip
from evonas.layers.layer import Layer, named_layer, resolve_layer
from evonas.layers.stateful.contract import Buffer, StateContract
from evonas.layers.stateful.registry import STATEFUL, stateful_layer
from evonas.layers.zoo import ZOO, ZooEntry

if TYPE_CHECKING:
    from evonas.layers.folding import Folded, fold, fold_layer
    from evonas.layers.module import GraphLayer, vector_parameters
    from evonas.layers.stateful.base import StatefulLayer
    from evonas.layers.stateful.power_norm import PowerNorm
    from evonas.layers.stateful.unified_norm import UnifiedNorm
    from evonas.layers.statistics import source_weight

__all__ = [
    "STATEFUL",
    "ZOO",
    "AssembledLayer",
    "Buffer",
    "Folded",
    "GraphLayer",
    "Layer",
    "PowerNorm",
    "StateContract",
    "StatefulLayer",
    "UnifiedNorm",
    "ZooEntry",
    "assembly_from",
    "candidate_from",
    "candidate_of",
    "fold",
    "fold_layer",
    "named_layer",
    "resolve_candidate",
    "resolve_layer",
    "source_weight",
    "stateful_layer",
    "vector_parameters",
]

_LAZY = {
    "Folded": "folding",
    "GraphLayer": "module",
    "PowerNorm": "stateful.power_norm",
    "StatefulLayer": "stateful.base",
    "UnifiedNorm": "stateful.unified_norm",
    "fold": "folding",
    "fold_layer": "folding",
    "source_weight": "statistics",
    "vector_parameters": "module",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"evonas.layers.{_LAZY[name]}"), name)
    raise AttributeError(name)
