"""The same as ``evonas.swapping.trace`` from the graph of ``torch.fx``, for models without an example to run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from evonas.swapping.functions import is_activation
from evonas.swapping.recognise import Act, Norm
from evonas.swapping.trace import DROPOUTS, OUTPUT, Call, Trace

#: Give their input back, or a copy of it.
_SAME = ("contiguous", "clone", "detach", "to", "type_as", "float", "half")


class _Tracer(fx.Tracer):
    def __init__(self, parts: Mapping[nn.Module, Norm | Act]) -> None:
        super().__init__()
        self.parts = parts

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.parts or super().is_leaf_module(m, module_qualified_name)


def trace_with_fx(model: nn.Module, parts: Mapping[nn.Module, Norm | Act]) -> Trace:
    """Who calls what, without shapes: only norms that imply a shape can be replaced then.

    Raises:
        whatever ``torch.fx`` raises for a model that it cannot trace.
    """
    training = {one: one.training for one in model.modules()}
    try:
        graph = _Tracer(parts).trace(model.eval())
    finally:
        for one, mode in training.items():
            one.training = mode
    trace = Trace("traced with torch.fx, shapes are not known")
    values: dict[fx.Node, int] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        given = [values[n] for n in node.all_input_nodes if n in values]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "output":
            for value in given:
                trace.consume(value, OUTPUT)
            continue
        if module is not None and module not in parts and given and _passes(module):
            values[node] = given[0]
            if not isinstance(module, nn.Identity):
                trace.between.setdefault(given[0], "a dropout")
            continue
        name = _name(node.target)
        if node.op in ("call_method", "call_function") and name in (*_SAME, *DROPOUTS) and given:
            values[node] = given[0]
            trace.between.setdefault(given[0], "a dropout" if name in DROPOUTS else f"{name}()")
            continue
        made = len(values) + len(trace.makers) + 1
        values[node] = made
        known = module if module is not None and module in parts else None
        for value in given:
            trace.consume(value, known or name)
            if node.op == "call_method" or is_activation(node.target):
                trace.activated.add(value)
        trace.makers[made] = known or name
        if known is not None and given:
            axis = parts[known].axis
            shape = None
            trace.calls.setdefault(known, []).append(Call(given[0], made, shape, axis))
    return trace


def _passes(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity) or "drop" in type(module).__name__.lower()


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
