"""Comparing layers fairly: the trainings of a search's final table, for any layers.

Importing this does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonas.comparing.api import compare
    from evonas.comparing.comparison import Comparison

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":
        from evonas.comparing.api import compare

        return compare
    if name == "Comparison":
        from evonas.comparing.comparison import Comparison

        return Comparison
    raise AttributeError(name)
