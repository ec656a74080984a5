"""Layers: graph -> ``nn.Module`` (the eager reference), running statistics, and the zoo of known layers.

``GraphLayer`` and ``vector_parameters`` need torch, which is imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evonas.layers.assembled import AssembledLayer, candidate_from, candidate_of, resolve_candidate
from evonas.layers.layer import Layer, named_layer, resolve_layer
from evonas.layers.zoo import ZOO, ZooEntry

if TYPE_CHECKING:
    from evonas.layers.module import GraphLayer, vector_parameters

__all__ = [
    "ZOO", "AssembledLayer", "GraphLayer", "Layer", "ZooEntry", "candidate_from",
    "candidate_of", "named_layer", "resolve_candidate",
    "resolve_layer", "vector_parameters",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("GraphLayer", "vector_parameters"):
        from evonas.layers import module

        return getattr(module, name)
    raise AttributeError(name)
