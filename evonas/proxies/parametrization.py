"""muP: initial scales, multipliers and rates under which the best learning rate does not move with the width.

With m the growth of a tensor from the base width to the present one (Yang et al. 2022, arXiv 2203.03466, table 8):

| role    | initial standard deviation     | multiplier | rate of adamw, adamp | rate of sgd, sgdp |
| ------- | ------------------------------ | ---------- | -------------------- | ----------------- |
| input   | that of the base width         | 1          | 1                    | m                 |
| vector  | its own, a constant            | 1          | 1                    | m                 |
| hidden  | base width's / sqrt(m_in)      | 1          | 1 / m_in             | m_out / m_in      |
| readout | that of the base width         | 1 / m      | 1                    | m                 |

Logits of attention fall as 1 / d_head in place of 1 / sqrt(d_head). At the base width all of it is the standard
parametrization, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evonas.errors import UsageError, unknown_name
from evonas.proxies.optimisers import ADAPTIVE
from evonas.proxies.roles import Growth, growths, meta, owners

PARAMETRIZATIONS = ("standard", "mup")
#: (module, shape of its weight) -> standard deviation at the start, None: the same for every shape.
InitialStd = Callable[[nn.Module, tuple[int, ...]], float | None]
#: so many times the larger of the two widths is where everything that can grow has grown.
_WIDE = 8


class BuiltNetwork(Protocol):
    """A network and which of its modules are layer sites: ``evonas.proxies.building.Built`` is one."""

    network: nn.Module
    sites: list[nn.Module]

    def decayed(self) -> list[nn.Parameter]: ...


def fan_std(module: nn.Module, shape: tuple[int, ...]) -> float | None:
    """What ``evonas.proxies.build`` draws: convolutions sqrt(2 / fan-out), linear maps sqrt(1 / fan-in), of weights of
    ``shape``. None for all else: their scale does not depend on the shape."""
    if isinstance(module, nn.Conv2d):
        return math.sqrt(2.0 / (shape[0] * math.prod(shape[2:])))
    return math.sqrt(1.0 / shape[1]) if isinstance(module, nn.Linear) else None


class Multiplier:
    """A forward pre-hook that multiplies a module's input, so that its bias is left alone."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * self.factor, *inputs[1:])


def parametrize(
    built: BuiltNetwork,
    *,
    kind: str,
    base_width: float,
    width: float,
    network: Callable[[float], nn.Module] | None = None,
    optimiser: str = "adamw",
    weight_decay: float = 0.0,
    initial: InitialStd = fan_std,
    roles: Mapping[str, str] | None = None,
    zero_readout: bool = False,
) -> list[dict[str, Any]]:
    """Rescale a freshly built network in place and say how its parameters are to be trained.

    Args:
        built: of width ``width``, with the initial weights of the standard parametrization.
        kind: "standard" leaves everything as it is; "mup".
        network: width -> the same network, for its shapes; called on the meta device, so it must not draw from a
            generator of its own. Needed for "mup".
        optimiser: one of ``evonas.proxies.optimisers.OPTIMISERS``: adaptive ones scale otherwise than the others.
        weight_decay: of what ``built.decayed()`` gives. A decay acts in proportion to the rate, so it is divided by
            the group's factor: rate x decay stays what it was.
        initial: how the weights were drawn.
        roles: parameter name -> role, over what the shapes and ``network.parameter_roles`` say.
        zero_readout: whether readouts start at zero, which removes a transient of the order 1 / sqrt(width).

    A module with a readout weight gets its multiplier as the attribute ``multiplier`` where it has one, else as a hook
    on its input. A module with the attributes ``logit_scale`` and ``head_dim`` (attention) gets the scale that makes
    logits fall as 1 / head_dim and agree with its own at the base width; one with ``query_scale`` (softmax-free
    attention) the scale that does so to squared distances.

    Returns:
        Parameter groups of torch for ``make_optimiser``, with "weight_decay" and "lr_scale".

    Raises UsageError for an unknown kind, for widths that are not above 0, and for a network whose parameters change
    their names or number of axes with the width.
    """
    if kind not in PARAMETRIZATIONS:
        raise unknown_name("parametrization", kind, PARAMETRIZATIONS, hint="--parametrization mup")
    decayed = {id(p) for p in built.decayed()}
    if kind == "standard":
        return _groups(built.network, decayed, weight_decay, {})
    if network is None:
        raise UsageError(
            "muP needs the network at other widths, none was given", hint="network=a function of width"
        )
    if not (base_width > 0 and width > 0):
        raise UsageError(f"the base width is {base_width} and the width {width}, needed are numbers above 0")
    base = meta(lambda: network(base_width))
    wide = meta(lambda: network(_WIDE * max(base_width, width)))
    vectors = {id(p) for site in built.sites for p in site.parameters()}
    # what is no weight of a linear map, such as the angles of positions
    vectors |= {
        id(p) for m in built.network.modules() if getattr(m, "undecayed", False) for p in m.parameters()
    }
    found = growths(built.network, base, wide, vectors=frozenset(vectors), overrides=roles)
    _rescale(built.network, found, initial, zero_readout)
    _attention(built.network, base)
    scales: dict[int, float] = {}
    for name, parameter in built.network.named_parameters():
        scales[id(parameter)] = rate_factor(found[name], adaptive=optimiser in ADAPTIVE)
    return _groups(built.network, decayed, weight_decay, scales)


def rate_factor(growth: Growth, *, adaptive: bool) -> float:
    """The factor on the learning rate of a parameter, by the table above."""
    if growth.role == "hidden":
        return (1.0 if adaptive else growth.fan_out) / growth.fan_in
    return 1.0 if adaptive or growth.role == "fixed" else growth.size


def _rescale(
    network: nn.Module, found: Mapping[str, Growth], initial: InitialStd, zero_readout: bool
) -> None:
    done: set[int] = set()
    holders = owners(network)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        growth, module = found[name], holders[name]
        if growth.role == "readout":
            _multiply(module, 1.0 / growth.size)
        if id(parameter) in done or growth.role not in ("input", "hidden", "readout"):
            continue
        done.add(id(parameter))
        then, now = initial(module, growth.base), initial(module, tuple(parameter.shape))
        factor = then / now if then and now else 1.0
        if growth.role == "hidden":
            factor /= math.sqrt(growth.fan_in)
        with torch.no_grad():
            if growth.role == "readout" and zero_readout:
                parameter.zero_()
            elif factor != 1.0:
                parameter.mul_(factor)


def _multiply(module: nn.Module, factor: float) -> None:
    if isinstance(getattr(module, "multiplier", None), float):
        setattr(module, "multiplier", factor)  # noqa: B010
    elif factor != 1.0:
        module.register_forward_pre_hook(Multiplier(factor))


def _attention(network: nn.Module, base: nn.Module) -> None:
    modules = dict(base.named_modules())
    for name, module in network.named_modules():
        if isinstance(getattr(module, "logit_scale", None), float) and hasattr(module, "head_dim"):
            before = modules[name]
            setattr(module, "logit_scale", before.logit_scale * before.head_dim / module.head_dim)  # noqa: B010
        elif isinstance(getattr(module, "query_scale", None), float) and hasattr(module, "head_dim"):
            before = modules[name]  # squared distances of queries take the place of logits
            factor = math.sqrt(before.head_dim / module.head_dim)
            setattr(module, "query_scale", before.query_scale * factor)  # noqa: B010


def _groups(
    network: nn.Module, decayed: set[int], weight_decay: float, scales: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Parameters by whether they decay and by their factor: decayed ones first, each group in the network's order."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        key = (id(parameter) not in decayed, scales.get(id(parameter), 1.0))
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": found, "weight_decay": 0.0 if free else weight_decay / scale, "lr_scale": scale}
        for (free, scale), found in sorted(groups.items(), key=lambda item: item[0])
    ]
