"""Activations that a model calls as functions, ``F.relu(self.bn(x))``: a layer that contains its activation says so on
the tensor that it makes, and the function gives that tensor back.

The model's code stays as it is. The mark is a subclass of tensors that lives until the first operation that reads it:
one of the functions below returns its values as they are, anything else sees them as a plain tensor. So it does not
matter where the function is called from, in a checkpointed part or in a part that is called by itself; and
``torch.compile`` and ``torch.export(strict=True)`` see no activation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from evonas.errors import UsageError

#: Operations as torch dispatches them or torch.fx names them -> the functions that are nothing but this operation.
FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "relu": (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    "relu6": (F.relu6,),
    "hardtanh": (F.relu6,),
    "silu": (F.silu,),
    "gelu": (F.gelu,),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_),
    "elu": (F.elu, F.elu_),
    "selu": (F.selu, torch.selu, torch.selu_),
    "celu": (F.celu, torch.celu, torch.celu_),
    "mish": (F.mish,),
    "hardswish": (F.hardswish,),
}
_ALL = frozenset(function for functions in FUNCTIONS.values() for function in functions)


class Activated(Tensor):
    """What a layer with its activation inside has just made."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _ALL:
                x = args[0] if args else (kwargs or {})["input"]
                return x.view_as(x)  # a plain tensor on the same memory
            return func(*args, **(kwargs or {}))


def pass_function(module: nn.Module, args: object, output: Tensor) -> Tensor:
    """Forward hook of a layer whose activation stands as a function in the code of the model.

    Raises:
        UsageError: under ``torch.export`` without ``strict=True``, whose tensors cannot be marked.
    """
    if type(output) not in (Tensor, nn.Parameter, Activated) and isinstance(output, Tensor):
        raise UsageError(
            f"a layer in front of an activation that is a function got a {type(output).__name__}, which cannot carry "
            "the mark that the activation is done",
            hint="torch.export.export(model, args, strict=True) sees it, and so does torch.compile",
        )
    return output.as_subclass(Activated)


def is_activation(function: Any) -> bool:
    """Whether a function of torch is one of ``FUNCTIONS``, and is not part of a ``torch.autograd.Function``, which has
    a backward pass of its own."""
    if function not in _ALL:
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            return True  # its backward pass runs the same code again
        if frame.f_code is torch.autograd.Function.apply.__code__:
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return True
