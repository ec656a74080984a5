"""Builds a proxy's network so that its initial weights depend on the seed and on nothing else.

A layer may draw as many random numbers in its constructor as it likes: every weight of the network
proper is drawn from a generator of its own, keyed by the weight's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import sqrt
from typing import Any

import torch
from torch import nn

from evonas.data.types import SearchView
from evonas.errors import UsageError
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.registry import Proxy
from evonas.rng import derive_seed


class Built:
    """A network and which of its modules are layer sites."""

    def __init__(self, network: nn.Module, sites: list[nn.Module]) -> None:
        self.network = network
        self.sites = sites

    def decayed(self) -> list[nn.Parameter]:
        """Weights of two and more axes that do not belong to a layer site: those with weight decay. Embeddings and
        modules that say ``undecayed`` are left out."""
        out = [
            m for m in self.network.modules() if isinstance(m, nn.Embedding) or getattr(m, "undecayed", False)
        ]
        spared = {id(p) for module in [*self.sites, *out] for p in module.parameters()}
        return [p for p in self.network.parameters() if p.ndim > 1 and id(p) not in spared]

    def undecayed(self) -> list[nn.Parameter]:
        decayed = {id(p) for p in self.decayed()}
        return [p for p in self.network.parameters() if id(p) not in decayed]


def build(proxy: Proxy, make_layer: MakeLayer, seed: int, device: torch.device | str = "cpu") -> Built:
    """The network of ``proxy`` on ``device`` with initial weights for ``seed``, in training mode.

    Convolutions: normal with variance 2 / fan-out (He et al. 2015), biases 0; the fan-out is kernel area
    x output channels for depthwise convolutions too, as in torchvision, so that a depthwise network
    without norms starts out with a vanishing signal. Linear maps: normal with variance 1 / fan-in,
    biases 0; ``init`` of a language model's spec is the standard deviation instead, if it is a number. Embeddings:
    normal with standard deviation 0.02, or ``embedding`` of the spec. Everything inside a layer site keeps what its
    constructor gave it. ``make_layer`` is called with the channels, and with the slot too where the network names one
    and ``make_layer`` takes it. Raises UsageError when it does not return a module (or None, for a slot).
    """
    sites: list[nn.Module] = []
    make = call_slots(make_layer)

    def make_site(channels: int, slot: str | None = None) -> nn.Module | None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("layer", seed, len(sites)))
            module = make(channels, slot)
        if module is None and slot is not None:
            return None
        if not isinstance(module, nn.Module):
            raise UsageError(f"make_layer returned {type(module).__name__}, needed is a torch.nn.Module")
        sites.append(module)
        return module

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("network", seed))
        network = proxy.network(proxy.spec, make_site, *sizes_of(proxy))
    init, embedding = (getattr(proxy.spec, name, None) for name in ("init", "embedding"))
    with torch.no_grad():
        for name, module in _outside(network, {id(s) for s in sites}):
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.weight[0, 0].numel()
                _draw(module.weight, sqrt(2.0 / fan_out), seed, name)
            elif isinstance(module, nn.Linear):
                _draw(module.weight, init or sqrt(1.0 / module.in_features), seed, name)
            elif isinstance(module, nn.Embedding):
                _draw(module.weight, embedding or 0.02, seed, name)
                continue
            else:
                continue
            if module.bias is not None:
                module.bias.zero_()
    return Built(network.to(device).train(), sites)


def sizes_of(proxy: Proxy) -> tuple[int, int]:
    """Channels of the images and classes; of a language model its vocabulary, twice."""
    if isinstance(proxy.data, SearchView):
        return proxy.data.shape[0], len(proxy.data.classes)
    return proxy.spec.vocabulary, proxy.spec.vocabulary


def asked_slots(proxy: Proxy) -> tuple[str | None, ...]:
    """The slots that the network of ``proxy`` asks layers for, each once, None where it names none. The network is
    built without memory for it."""
    return _asked(proxy.network, proxy.spec, sizes_of(proxy))


@lru_cache(maxsize=64)
def _asked(network: Callable[..., nn.Module], spec: Any, sizes: tuple[int, int]) -> tuple[str | None, ...]:
    found: dict[str | None, None] = {}

    def ask(channels: int, slot: str | None = None) -> nn.Module:
        found[slot] = None
        return nn.Identity()

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network(spec, ask, *sizes)
    return tuple(found)


def call_slots(make_layer: MakeLayer) -> Callable[[int, str | None], Any]:
    """``make_layer`` as a function of channels and slot, which it is told if there is one and it takes it."""
    slotted = takes_slot(make_layer)

    def make(channels: int, slot: str | None = None) -> Any:
        return make_layer(channels, slot) if slotted and slot is not None else make_layer(channels)

    return make


def takes_slot(make_layer: Callable[..., object]) -> bool:
    """Whether ``make_layer`` can be called with a slot behind the channels; a function of one argument cannot."""
    try:
        inspect.signature(make_layer).bind(8, "ffn")
    except (TypeError, ValueError):
        return False
    # modules such as nn.BatchNorm2d have a second argument of another meaning
    return not isinstance(make_layer, type)


def _outside(module: nn.Module, sites: set[int], name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules and their names, without going into layer sites."""
    if id(module) in sites:
        return
    yield name, module
    for child_name, child in module.named_children():
        yield from _outside(child, sites, f"{name}.{child_name}" if name else child_name)


def _draw(weight: torch.Tensor, std: float, seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(derive_seed("weight", seed, name))
    weight.normal_(0.0, std, generator=generator)
