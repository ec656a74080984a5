"""Activations that a model calls away from the norm before them: as functions, ``F.relu(self.bn(x))``, or with a
module that has other places too. A layer that contains its activation marks the tensor that it makes, and what would
activate it again gives it back as it is.

The model's code stays as it is. A mark is an attribute of the tensor, which is of a subclass besides, so that functions
see it. It does not matter where the activation is called from, in a checkpointed part or in a part that is called by
itself, and ``torch.compile`` and ``torch.export(strict=True)`` see no activation. Whatever else computes with such a
tensor raises: the model takes another path than when it was looked at, and the activation would come twice or not at
all. Tensors that have a class of their own already carry the attribute alone, which a module sees.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as _hooks_of_all
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction

from evonas.errors import UsageError

#: Operations as torch dispatches them or torch.fx names them -> the functions that are nothing but this operation.
#: ``torch.relu_`` and its kin and ``F.hardswish`` are not among them: torch.compile calls them without asking the
#: tensor's class.
FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "relu": (F.relu, torch.relu, Tensor.relu, Tensor.relu_),
    "relu6": (F.relu6,),
    "hardtanh": (F.relu6,),
    "silu": (F.silu,),
    "gelu": (F.gelu,),
    "leaky_relu": (F.leaky_relu,),
    "elu": (F.elu,),
    "selu": (F.selu, torch.selu),
    "celu": (F.celu, torch.celu),
    "mish": (F.mish,),
}
_ALL = frozenset(function for functions in FUNCTIONS.values() for function in functions)
#: Attribute of a tensor: the path of the layer that has just made it, "" once that is over.
_MARK = "_evonas_activated"
#: Functions that give no tensor back and still read or write values of one.
_NO_GETTERS = frozenset((Tensor.__setitem__, Tensor.__iter__))


class Activated(Tensor):
    """What a layer with its activation inside has just made, for the function behind it."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            marked = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Activated) and is_marked(t)]
            if not marked:  # written to by its activation, while torch.compile looked on
                return func(*args, **kwargs)
            if func in _ALL:
                in_place = func is Tensor.relu_ or kwargs.get("inplace", False) or (args and args[-1] is True)
                return passed(marked[0], bool(in_place))
            if func is Tensor.as_subclass:
                return func(*args, **kwargs)
            out = None if func in _NO_GETTERS else func(*args, **kwargs)
            if func in _NO_GETTERS or any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
                _check_getter(func, marked[0])
            return out


def _check_getter(function: Any, marked: Tensor) -> None:
    name = getattr(function, "__name__", str(function))
    if name == "__get__":  # attributes, which torch.compile reads of what comes into a graph
        return
    path = getattr(marked, _MARK, "")
    raise UsageError(
        f"{path}, a layer that contains the activation behind it, made a tensor for that activation, and {name} uses "
        "it: the model takes another path than when it was swapped",
        hint=f"swap with skip={path!r}; a hook may read output.as_subclass(torch.Tensor)",
    )


def is_marked(x: Tensor) -> bool:
    """Whether a layer with its activation inside has just made this tensor."""
    mark = getattr(x, _MARK, "")
    return isinstance(mark, str) and mark != ""


def passed(x: Tensor, in_place: bool) -> Tensor:
    """What an activation gives back for a marked tensor: a plain one on the same memory. In place it is the tensor
    itself, whose mark is over."""
    if type(x) is Activated and not in_place:
        with torch._C.DisableTorchFunctionSubclass():
            return x.view_as(x)
    setattr(x, _MARK, "")  # torch.compile knows no delattr
    if type(x) is Activated and not torch.compiler.is_compiling():
        x.__class__ = Tensor  # type: ignore[assignment]
    return x


class Mark:
    """Forward hook of a layer with its activation inside, which a module with other places calls too, or a function.

    path: of the layer in the model.

    Raises:
        UsageError: with a function, a tensor of a class that cannot be marked; a backward hook on the layer, which
            puts another tensor in the place of the marked one.
    """

    def __init__(self, path: str, function: bool) -> None:
        self.path = path
        self.function = function

    def __call__(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        hooks = (
            module._backward_hooks or module._backward_pre_hooks
            or _hooks_of_all._global_backward_hooks or _hooks_of_all._global_backward_pre_hooks
        )  # fmt: skip
        if hooks and output.requires_grad:
            raise UsageError(
                f"{self.path} has a backward hook: torch gives its output on as another tensor, which does not say "
                "that the activation behind it is done",
                hint=f"output.register_hook(...) in a forward hook sees the gradient too; or skip={self.path!r}",
            )
        if type(output) in (Tensor, nn.Parameter, Activated):
            output = output.as_subclass(Activated)
        elif self.function:
            raise _cannot_mark(self.path, type(output))
        setattr(output, _MARK, self.path)
        return output


def mark_of(module: nn.Module) -> Mark | None:
    """The mark that a layer sets."""
    return next((hook for hook in module._forward_hooks.values() if isinstance(hook, Mark)), None)


def _cannot_mark(path: str, kind: type) -> UsageError:
    hint = f"make the activation a module of its own, which needs no mark, or swap with skip={path!r}"
    if kind.__name__ in ("FakeTensor", "FunctionalTensor"):
        hint = "torch.export.export(model, args, strict=True) sees the mark, and so does torch.compile"
    elif kind.__name__ != "DTensor":
        hint = f"give plain tensors, x.as_subclass(torch.Tensor), or {hint}"
    return UsageError(
        f"{path} stands before an activation that is a function and makes a {kind.__name__}, which cannot be marked "
        "to say that the activation is done",
        hint=hint,
    )


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
