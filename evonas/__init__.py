"""evonas discovers normalization-activation layers by evolution.

The public names, loaded when first used (importing evonas does not import torch):

- ``search(space=..., workers=..., candidates=...)`` runs a search and returns a ``Run``.
- ``layer(spec)`` is a layer by zoo name, formula, file, or ``(run, candidate)``; ``layer(...).module(channels)``
  is an ``nn.Module``.
- ``open_run(path)`` is a run that exists.
- ``export(layer_or_run, candidate, out)`` writes a layer as a folder that needs torch alone.
- ``primitive(...)`` plugs in an operation of your own.
- ``compare(layer, layer, ...)`` trains layers alike, with paired seeds, and returns a ``Comparison``.
- ``swap(model, layer)`` puts a layer in place of the norms and activations of a model and returns a ``SwapReport``.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.comparing.api import compare
    from evonas.comparing.comparison import Comparison
    from evonas.export.bundle import export
    from evonas.layers.layer import Layer
    from evonas.primitives import primitive
    from evonas.run.api import search
    from evonas.run.run import Run
    from evonas.swapping.report import SwapReport
    from evonas.swapping.swap import swap

try:
    __version__ = metadata.version("evonas")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Comparison",
    "Layer",
    "Run",
    "SwapReport",
    "__version__",
    "compare",
    "export",
    "layer",
    "open_run",
    "primitive",
    "search",
    "swap",
]

_LAZY = {
    "Comparison": "evonas.comparing.comparison",
    "Layer": "evonas.layers.layer",
    "Run": "evonas.run.run",
    "SwapReport": "evonas.swapping.report",
    "compare": "evonas.comparing.api",
    "primitive": "evonas.primitives",
    "search": "evonas.run.api",
    "swap": "evonas.swapping.swap",
}


def layer(spec: Any) -> Any:
    """A layer from a zoo name, a formula, a file, a graph, or a pair ``(run, candidate id or "best")``.

    The text of an assembly (``norm: x / rms[c](x); act: x * sigmoid(x)``, or two names, ``rms_norm+silu``) gives an
    ``AssembledLayer``, which has a module per place in a network.

    Raises:
        UsageError, FormulaError: nothing of the kind; the message tells what was tried.
    """
    if isinstance(spec, tuple) and len(spec) == 2:
        run, candidate = spec
        return (run if hasattr(run, "layer") else open_run(run)).layer(candidate)
    from evonas.layers import ZOO, resolve_candidate, resolve_layer

    return resolve_layer(spec) if isinstance(spec, str) and spec.strip() in ZOO else resolve_candidate(spec)


def open_run(path: Any, root: Any = "runs") -> Run:
    """A run by folder, name, beginning of a name, or "latest"."""
    from evonas.run.run import Run

    return Run(path, root)


def __getattr__(name: str) -> Any:
    if name == "export":  # the package of that name can be called
        return import_module("evonas.export")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'evonas' has no attribute {name!r}")
