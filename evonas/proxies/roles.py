"""Which axes of a network's weights grow with its width, found by comparing two widths of it; no weight is made.

The role of a tensor decides how its scale and its rate must follow the width (Yang and Hu 2021, arXiv 2011.14522;
Yang et al. 2022, arXiv 2203.03466, table 8): ``hidden`` has two axes that grow, ``input`` only that of its outputs,
``readout`` only that of its inputs, ``vector`` is of one axis or belongs to a layer, ``fixed`` does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from evonas.errors import UsageError, unknown_name

ROLES = ("input", "hidden", "readout", "vector", "fixed")
#: shapes of a network's parameters by name.
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Growth:
    """How a parameter grows from the base width to the present one.

    ``fan_in``, ``fan_out``: factors, kernel area left out since it does not grow. ``size``: the factor on the number
    of its elements, which is the width's own where one axis grows. ``base``: its shape at the base width.
    """

    role: str
    fan_in: float
    fan_out: float
    size: float
    base: tuple[int, ...]


def meta(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that ``make`` builds, with shapes and without memory."""
    with torch.device("meta"):
        return make()


def shapes(network: nn.Module) -> Shapes:
    """Shape of every parameter by name; one that has two names is there under both."""
    return {name: tuple(p.shape) for name, p in network.named_parameters(remove_duplicate=False)}


def owners(network: nn.Module) -> dict[str, nn.Module]:
    """Parameter name -> the module that holds it."""
    return {
        f"{prefix}.{name}" if prefix else name: module
        for prefix, module in network.named_modules(remove_duplicate=False)
        for name in module._parameters
        if module._parameters[name] is not None
    }


def growths(
    network: nn.Module,
    base: nn.Module,
    wide: nn.Module,
    *,
    vectors: frozenset[int] = frozenset(),
    overrides: Mapping[str, str] | None = None,
) -> dict[str, Growth]:
    """Role and growth of every parameter of ``network`` by name.

    Args:
        base: the same network at the base width. wide: at a width at which everything that can grow has grown;
            both may be on the meta device.
        vectors: ids of parameters that are vectors whatever their shape: those of the layers.
        overrides: parameter name -> role, where the shapes say something else. ``network.parameter_roles``, a mapping
            of the same kind, is what a network itself says; ``overrides`` come last.

    Raises UsageError where the networks do not have the same parameters, and for a role or name that does not exist.
    """
    small, large = shapes(base), shapes(wide)
    here, holders = shapes(network), owners(network)
    if not here.keys() == small.keys() == large.keys():
        odd = sorted((here.keys() ^ small.keys()) | (here.keys() ^ large.keys()))[0]
        raise UsageError(
            f"the parameter {odd!r} is not in the network at every width: one function must build all"
        )
    said = {**getattr(network, "parameter_roles", {}), **(overrides or {})}
    for name, role in said.items():
        if name not in here:
            raise unknown_name("parameter", name, list(here))
        if role not in ROLES:
            raise unknown_name("role", role, ROLES)
    found = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        one, many, now = small[name], large[name], here[name]
        if not len(one) == len(many) == len(now):
            raise UsageError(
                f"the parameter {name!r} has shapes {one}, {now} and {many}: needed are as many axes"
            )
        ins, outs = _axes(holders[name], now)
        grows_in, grows_out = (any(many[a] != one[a] for a in axes) for axes in (ins, outs))
        vector = id(parameter) in vectors or len(now) < 2
        role = _role(grows_in, grows_out, vector)
        fan_in, fan_out = (prod(now[a] / one[a] for a in axes) for axes in (ins, outs))
        found[name] = Growth(said.get(name, role), fan_in, fan_out, prod(now) / max(1, prod(one)), one)
    return found


def _role(grows_in: bool, grows_out: bool, vector: bool) -> str:
    if not (grows_in or grows_out):
        return "fixed"
    if vector:
        return "vector"
    return "hidden" if grows_in and grows_out else "input" if grows_out else "readout"


def _axes(module: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the inputs and of the outputs of a parameter, as torch lays them out.

    Linear maps and convolutions: outputs first. An embedding is read by rows: its outputs come last.
    """
    if not shape:
        return (), ()
    if isinstance(module, nn.Embedding):
        return (0,), (1,)
    return tuple(range(1, len(shape))), (0,)
