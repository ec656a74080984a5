"""Bundles: a layer as a folder that needs torch alone, with its test, its kernels, its picture and its card.

``evonas.export(...)`` is ``evonas.export.bundle.export``: this package can be called, because it has the name of what
it does. Importing it does not import torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.export.bundle import Bundle, export
    from evonas.export.state import from_evonas_state, to_evonas_state

__all__ = ["Bundle", "export", "from_evonas_state", "to_evonas_state"]

_LAZY = {"Bundle": "bundle", "export": "bundle", "from_evonas_state": "state", "to_evonas_state": "state"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``evonas.export.bundle.export``."""
        from evonas.export.bundle import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
