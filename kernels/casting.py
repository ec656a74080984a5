"""Autocast off, where there is one: on the meta device, where shapes are tried, there is none.

It would multiply in half precision what is to be summed in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def uncast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast changes nothing on the device of ``x``."""
    if not torch.amp.is_autocast_available(x.device.type):
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)
