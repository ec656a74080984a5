"""Putting a layer into an existing ``nn.Module``: finding norms and activations, replacing them, and undoing it.

Importing this does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.swapping.report import SwapReport
    from evonas.swapping.swap import swap

__all__ = ["SwapReport", "swap"]


def __getattr__(name: str) -> Any:
    if name == "swap":
        from evonas.swapping.swap import swap

        return swap
    if name == "SwapReport":
        from evonas.swapping.report import SwapReport

        return SwapReport
    raise AttributeError(name)
