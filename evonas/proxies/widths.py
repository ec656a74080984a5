"""A proxy at other widths, and the parameter groups of its training in either parametrization."""

from __future__ import annotations

from typing import Any

from torch import nn

from evonas.errors import UsageError
from evonas.proxies.building import Built, call_slots, sizes_of
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.parametrization import fan_std, parametrize
from evonas.proxies.registry import Proxy


def parameter_groups(proxy: Proxy, built: Built, make_layer: MakeLayer, kind: str) -> list[dict[str, Any]]:
    """Groups of torch for ``make_optimiser``; with ``kind`` "mup" the built network is rescaled for its width.

    The base width is that of the spec, where "mup" and "standard" are the same: the width at scale tiny.
    Raises UsageError for an unknown kind, and with "mup" for a proxy whose spec names no base width.
    """
    spec = proxy.spec
    if kind == "standard":
        return [
            {"params": built.decayed(), "weight_decay": spec.weight_decay},
            {"params": built.undecayed(), "weight_decay": 0.0},
        ]
    base_width = getattr(spec, "base_width", None)
    if kind == "mup" and base_width is None:
        raise UsageError(
            f"proxy {proxy.name!r} names no base width, which muP begins from",
            hint="--set evaluation.changes.base_width=WIDTH, or --parametrization standard",
        )

    def network(width: float) -> nn.Module:
        return at_width(proxy, make_layer, width)

    fixed = getattr(spec, "init", None) is not None
    groups = parametrize(
        built,
        kind=kind,
        base_width=base_width or spec.width,
        width=spec.width,
        network=network,
        optimiser=spec.optimiser,
        weight_decay=spec.weight_decay,
        initial=(lambda module, shape: None) if fixed else fan_std,
    )
    if isinstance(getattr(built.network, "input_scale", None), float):
        built.network.input_scale = built.network.input_scale * (base_width / spec.width) ** 0.5
    return groups


def at_width(proxy: Proxy, make_layer: MakeLayer, width: float) -> nn.Module:
    """The network of a proxy at another width, its weights as torch draws them: for shapes."""
    spec = proxy.spec.replace(width=type(proxy.spec.width)(width))
    made: nn.Module = proxy.network(spec, call_slots(make_layer), *sizes_of(proxy))
    return made
