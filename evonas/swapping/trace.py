"""What norms and activations of a model are given and who uses what they make: seen in one run on an example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from evonas.swapping.functions import is_activation
from evonas.swapping.recognise import Act, Norm

#: A consumer of a value: a norm or activation, or an operation by name.
Consumer = nn.Module | str
OUTPUT = "the model's output"
_VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")
#: Functions of ``torch`` and ``torch.nn.functional`` that give back their input in evaluation.
DROPOUTS = frozenset((
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
))  # fmt: skip
_LAST = ("addmm", "mm", "linear", "bmm", "baddbmm", "embedding")


@dataclass(frozen=True)
class Call:
    """One call of a norm or an activation. axis: of the channels of its input, as far as it is known."""

    given: int
    made: int
    shape: tuple[int, ...] | None
    axis: int | None
    dtype: torch.dtype | None = None
    device: torch.device | None = None


@dataclass
class Trace:
    """calls: in order, by module. consumers, makers: by value. between: values that went through something that gave
    them back as they are and will not always, such as a dropout or ``to(dtype)``, and its name. activated: values that
    a function activates.

    images: whether the model was given a tensor of four axes. any_dims: it may be given vectors in tensors of another
    number of axes than it was. how: in words, for the report.
    """

    how: str
    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)
    consumers: dict[int, list[Consumer]] = field(default_factory=dict)
    makers: dict[int, Consumer] = field(default_factory=dict)
    between: dict[int, str] = field(default_factory=dict)
    activated: set[int] = field(default_factory=set)
    images: bool = False
    any_dims: bool = False

    def consume(self, value: int, consumer: Consumer) -> None:
        """Note that something reads a value."""
        self.consumers.setdefault(value, []).append(consumer)


def record(model: nn.Module, parts: Mapping[nn.Module, Norm | Act], args: Sequence[Any], kwargs: Mapping[str, Any],
           how: str) -> Trace:  # fmt: skip
    """Run the model once, in evaluation mode without gradients, and watch. Modes, buffers and random generators are
    afterwards what they were.

    Raises:
        whatever the model raises.
    """
    recorder = _Recorder(Trace(how))
    inputs = [t for t in tree_leaves((list(args), dict(kwargs))) if isinstance(t, Tensor)]
    recorder.trace.images = any(t.dim() == 4 and t.is_floating_point() for t in inputs)
    handles = []
    for module in model.modules():
        if module in parts:
            axis = parts[module].axis
            handles.append(module.register_forward_pre_hook(recorder.enter, with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.leave(axis), with_kwargs=True))
        elif "drop" in type(module).__name__.lower() and not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(recorder.drop))
    try:
        with untouched(model), torch.no_grad(), _Functions(recorder), recorder:
            out = model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for leaf in _tensors(out):
        recorder.trace.consume(recorder.value(leaf), OUTPUT)
    return recorder.trace


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; training flags, buffers and random generators as before afterwards."""
    training = {module: module.training for module in model.modules()}
    buffers = [(b, b.detach().clone(), b._version) for b in model.buffers()]
    try:
        with torch.random.fork_rng(devices=_cuda(model)):
            model.eval()
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        with torch.no_grad():
            for buffer, kept, version in buffers:
                if buffer._version != version:
                    buffer.copy_(kept)


def _cuda(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.is_cuda}, key=str)


def _tensors(out: Any) -> list[Tensor]:
    values = list(out.values()) if isinstance(out, Mapping) else out
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


class _Recorder(TorchDispatchMode):
    """Operations are seen where torch dispatches them, so that none is missed, whoever calls it; inside of norms and
    activations nothing is seen but the call as a whole."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self._values = WeakTensorKeyDictionary()
        self._axes: dict[int, int | None] = {}
        self._count = 0
        self._depth = 0
        self._given: list[tuple[int, tuple[int, ...], torch.dtype, torch.device] | None] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; True would import the compiler first, which takes longer than the run."""
        return False

    def value(self, tensor: Tensor) -> int:
        """The number of what a tensor holds now."""
        if tensor not in self._values:
            self.renew(tensor)
        found: int = self._values[tensor]
        return found

    def renew(self, tensor: Tensor) -> int:
        """A new number: the tensor is new or has been written to."""
        self._count += 1
        self._values[tensor] = self._count
        return self._count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._depth:
            return func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        read = [(self.value(t), t.dim(), t.shape) for t in given]
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for value, _, _ in read:
            self.trace.consume(value, name)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                axes = [(self._axes.get(value), dim, shape) for value, dim, shape in read]
                made = self.renew(tensor)
                self.trace.makers[made] = name
                self._axes[made] = _axis_after(name, args, axes, tensor)
        return out

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of norms and activations."""
        x = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
        if x is not None and self._depth == 0:
            value = self.value(x)
            self.trace.consume(value, module)
            self._given.append((value, tuple(x.shape), x.dtype, x.device))
        else:
            self._given.append(None)
        self._depth += 1

    def leave(self, axis: int | None) -> Any:
        """Forward hook of norms and activations."""

        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self._depth -= 1
            given = self._given.pop()
            if given is None or not isinstance(out, Tensor):
                return
            value, shape, dtype, device = given
            at = self._axes.get(value) if axis is None else axis
            made = self.renew(out)
            self._axes[made] = at
            self.trace.makers[made] = module
            self.trace.calls.setdefault(module, []).append(Call(value, made, shape, at, dtype, device))

        return hook

    def drop(self, module: Any, args: Any, out: Any) -> None:
        """Forward hook of dropouts, which do nothing in evaluation; functions are seen by ``call``."""
        if self._depth == 0 and isinstance(out, Tensor):
            self.trace.between.setdefault(self.value(out), "a dropout")

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function of torch."""
        given = args[0] if args else kwargs.get("input")
        if self._depth or not isinstance(given, Tensor):
            return func(*args, **kwargs)
        value = self.value(given)
        if is_activation(func):
            self.trace.activated.add(value)
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and self.value(out) == value:  # nothing was done to it
            name = getattr(func, "__name__", str(func))
            self.trace.between.setdefault(value, "a dropout" if name in DROPOUTS else f"{name}()")
        return out


class _Functions(TorchFunctionMode):
    """Sees functions where nothing is dispatched, such as dropouts in evaluation and casts to the dtype that is there;
    and activations that are functions, whatever operations they are made of."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.call(func, args, kwargs or {})


_Read = tuple[int | None, int, Sequence[int]]


def _axis_after(name: str, args: Any, read: Sequence[_Read], out: Tensor) -> int | None:
    """The axis of the channels of a result, 1 or -1: a convolution makes 1, a linear map -1, others keep it."""
    if "conv" in name:
        return 1
    if name.rstrip("_") in _LAST:
        return -1
    if not read or out.dim() < 2:
        return None
    axis, dim, shape = read[0]
    if axis is None:
        return next((a for a, d, _ in read[1:] if a is not None and d == out.dim()), None)
    if name in _VIEWS:
        kept = shape[-1] == out.shape[-1] if axis == -1 else tuple(shape[:2]) == tuple(out.shape[:2])
        return axis if kept else None
    if name in ("permute", "transpose", "t"):
        order = list(range(dim))
        if name == "permute":
            order = [int(i) % dim for i in args[1]]
        else:
            a, b = (0, 1) if name == "t" else (int(args[1]) % dim, int(args[2]) % dim)
            order[a], order[b] = order[b], order[a]
        at = order.index(axis % dim)
        return -1 if at == dim - 1 else 1 if at == 1 else None
    return axis if out.dim() == dim else None
