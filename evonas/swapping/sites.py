"""Places of a model: a norm with its activation, a norm alone, an activation alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from evonas.swapping.functions import FUNCTIONS
from evonas.swapping.recognise import Act, Norm
from evonas.swapping.trace import OUTPUT, Call, Trace

#: Operations that make an activation, or part of one, when they are called as functions.
_FUNCTIONS = frozenset((
    "relu", "relu6", "silu", "gelu", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "mish", "elu", "celu",
    "selu", "sigmoid", "tanh", "softplus", "softsign", "clamp", "clamp_min", "erf", "exp", "maximum", "log_sigmoid",
    "prelu", "_prelu_kernel", "rrelu", "rrelu_with_noise", "threshold",
))  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One place.

    kind: "norm_act", "norm" or "act". act: the activation module behind the norm, None if it is inside the norm's own
    module, a ``function`` of that name, or not there. unpaired: why a norm forms no pair with what stands behind it,
    which does not matter where the norm alone is replaced. channels, axis: of the norm; of an activation as far as
    seen. reason: why it cannot be replaced, "" if it can.
    """

    kind: str
    path: str
    module: nn.Module
    part: Norm | Act
    calls: tuple[Call, ...]
    act: nn.Module | None = None
    act_path: str = ""
    reason: str = ""
    function: str = ""
    unpaired: str = ""

    @property
    def channels(self) -> int | None:
        """C, None if unknown or different from call to call."""
        if isinstance(self.part, Norm):
            return self.part.channels
        sizes = {c.shape[c.axis] for c in self.calls if c.shape is not None and c.axis is not None}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def axis(self) -> int | None:
        """1, -1 or unknown."""
        if isinstance(self.part, Norm):
            return self.part.axis
        axes = {c.axis for c in self.calls}
        return axes.pop() if len(axes) == 1 else None

    @property
    def words(self) -> str:
        """The classes of what stands there."""
        name = type(self.module).__name__
        inner = getattr(self.module, "act", None) if isinstance(self.part, Norm) and self.part.act else None
        act = self.act or inner
        if self.function:
            return f"{name} + {self.function}()"
        return f"{name} + {type(act).__name__}" if isinstance(act, nn.Module) else name


def find_sites(model: nn.Module, parts: Mapping[nn.Module, Norm | Act], trace: Trace) -> list[Site]:
    """Every norm and activation of a model as a place, in the order of registration. An activation behind a norm
    that it forms a pair with is a place of its own too, with all its calls."""
    paths: dict[nn.Module, str] = {}
    for path, module in model.named_modules():
        paths.setdefault(module, path)
    return [
        _norm_site(paths, module, part, trace, parts)
        if isinstance(part, Norm)
        else _act_site(paths[module], module, part, trace)
        for module, part in parts.items()
    ]


def _norm_site(paths: Mapping[nn.Module, str], module: nn.Module, part: Norm, trace: Trace,
               parts: Mapping[nn.Module, Norm | Act]) -> Site:  # fmt: skip
    calls = tuple(trace.calls.get(module, ()))
    path = paths[module]
    own = bool(part.act) or part.made == "norm_act"
    kind = "norm_act" if own else "norm"
    reason = part.reason or ("" if calls else "is not called in evaluation")
    if reason or own or part.act == "":
        return Site(kind, path, module, part, calls, reason=reason)
    uses = [_use(call, trace, parts) for call in calls]
    if any(use != uses[0] for use in uses):
        why = f"is called {len(calls)} times, and what comes behind it is not always the same"
        return Site(kind, path, module, part, calls, unpaired=why)
    use = uses[0]
    if isinstance(use, str):
        return Site(kind, path, module, part, calls, unpaired=use)
    if isinstance(use, _Function):
        return Site("norm_act", path, module, part, calls, function=use.name)
    if use is None:
        return Site("norm", path, module, part, calls)
    several = len(trace.calls.get(use, ())) > len(calls)
    between = next((trace.between[call.made] for call in calls if call.made in trace.between), "")
    if several and between:
        reason = f"has {between} between norm and activation, and the activation is used elsewhere too"
    return Site("norm_act", path, module, part, calls, use, paths[use], reason)


class _Function(NamedTuple):
    """An activation that the model calls as a function."""

    name: str


def _use(
    call: Call, trace: Trace, parts: Mapping[nn.Module, Norm | Act]
) -> nn.Module | _Function | str | None:
    """The activation that alone reads a norm's output, or why the two cannot be told apart, or None for a norm without
    activation."""
    consumers = trace.consumers.get(call.made, [])
    acts = [c for c in consumers if isinstance(c, nn.Module) and isinstance(parts[c], Act)]
    functions = [c.rstrip("_") for c in consumers if isinstance(c, str) and c.rstrip("_") in _FUNCTIONS]
    if acts and len(consumers) == 1:
        return acts[0]
    if functions:
        name = functions[0]
        if name in FUNCTIONS and len(consumers) == 1 and call.made in trace.activated:
            if call.made not in trace.between:
                return _Function(name)
            return f"has {trace.between[call.made]} between norm and the function {name}"
        return (
            f"its activation is in the code of the model, with {name}, and is neither a module nor one function: it "
            f"would be applied again"
        )
    if acts:
        others = {type(c).__name__ if isinstance(c, nn.Module) else c for c in consumers if c not in acts}
        beside = " and ".join(sorted(o if o == OUTPUT else f"by {o}" for o in others)) or "by it twice"
        return f"its output is used beside the activation, {beside}"
    return None


def _act_site(path: str, module: nn.Module, part: Act, trace: Trace) -> Site:
    calls = tuple(_with_axis(call) for call in trace.calls.get(module, ()))
    reason = "" if calls else "is not called in evaluation"
    return Site("act", path, module, part, calls, reason=reason)


def _with_axis(call: Call) -> Call:
    """Tensors of two or three axes without a known origin have their channels last."""
    if call.axis is None and call.shape is not None and len(call.shape) in (2, 3):
        return Call(call.given, call.made, call.shape, -1, call.dtype, call.device)
    return call
