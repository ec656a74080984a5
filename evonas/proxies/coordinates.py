"""The coordinate check of muP: how far activations move in a few steps, as a function of the width.

Under muP the change of every activation is of the same size at every width; in the standard parametrization it grows.
A layer whose function of its input changes with the number of channels shows here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import UsageError
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.optimisers import make_optimiser
from evonas.proxies.parametrization import BuiltNetwork, InitialStd, fan_std, parametrize
from evonas.proxies.registry import Proxy
from evonas.proxies.trainer import Trainer

_Outputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Coordinates:
    """``widths``, and by name of a module: the mean over seeds of mean |h(after) - h(before)| at every width, and the
    slope of its log2 against log2 of the width (nan where something was not finite or did not move)."""

    widths: tuple[float, ...]
    changes: Mapping[str, tuple[float, ...]]
    slopes: Mapping[str, float]


class Whole:
    """Any network as a ``BuiltNetwork`` without layer sites: weights of two and more axes decay."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.sites: list[nn.Module] = []

    def decayed(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.ndim > 1]


def coordinate_check(
    make: Callable[[float, int], BuiltNetwork],
    network: Callable[[float], nn.Module],
    widths: Sequence[float],
    inputs: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    kind: str,
    modules: Sequence[str] | None = None,
    base_width: float | None = None,
    steps: int = 5,
    lr: float = 1e-2,
    optimiser: str = "adamw",
    seeds: Sequence[int] = (0, 1, 2),
    initial: InitialStd = fan_std,
    roles: Mapping[str, str] | None = None,
    zero_readout: bool = False,
) -> Coordinates:
    """Train every width for a few steps on one batch and compare activations before and after.

    Args:
        make: (width, seed) -> a fresh network in the standard parametrization. network: see ``parametrize``.
        widths: at least two. base_width: where both parametrizations agree; the first of them by default.
        inputs: the batch. loss: output of the network on it -> scalar.
        modules: names of modules whose outputs are compared; by default layer sites and all that have no children.
        steps, lr, optimiser: of the training. seeds: over which changes are averaged.
        initial, roles, zero_readout: see ``parametrize``.

    Raises UsageError for fewer than two widths and for the name of no module.
    """
    if len(set(widths)) < 2:
        raise UsageError(f"widths are {list(widths)}, needed are at least two")
    base = widths[0] if base_width is None else base_width

    def one(width: float, seed: int) -> tuple[_Outputs, _Outputs]:
        built = make(width, seed)
        groups = parametrize(
            built, kind=kind, base_width=base, width=width, network=network, optimiser=optimiser,
            initial=initial, roles=roles, zero_readout=zero_readout,
        )  # fmt: skip
        trained = make_optimiser(optimiser, groups, lr=lr)
        before = _activations(built, inputs, modules)
        for _ in range(steps):
            trained.zero_grad()
            loss(built.network(inputs)).backward()
            trained.step()
        return before, _activations(built, inputs, modules)

    return _measure(one, widths, seeds)


def proxy_coordinates(
    proxy: Proxy,
    make_layer: MakeLayer,
    widths: Sequence[float],
    *,
    kind: str,
    steps: int = 5,
    lr: float | None = None,
    seeds: Sequence[int] = (0,),
    **changes: Any,
) -> Coordinates:
    """The check on a proxy's own training: its data, its optimiser, its parametrization, at a constant rate.

    Args:
        widths: of the spec, see its field ``width``; muP begins from its ``base_width``.
        lr: None for the rate of the spec. changes: further fields of the spec.

    Activations are compared on the first batch; a training that diverged gives nan. Raises UsageError for fewer than
    two widths, and for what ``Trainer`` refuses.
    """
    if len(set(widths)) < 2:
        raise UsageError(f"widths are {list(widths)}, needed are at least two")
    fixed = {"schedule": "constant", "warmup": 0.0, "steps": steps, "lr": proxy.spec.lr if lr is None else lr}

    def one(width: float, seed: int) -> tuple[_Outputs, _Outputs]:
        spec = proxy.spec.replace(**{**fixed, **changes, "width": type(proxy.spec.width)(width)})
        trainer = Trainer(replace(proxy, spec=spec), make_layer, seed=seed, parametrization=kind)
        inputs = trainer.first_batch()
        before = _activations(trainer.built, inputs, None)
        trainer.run()
        return before, _activations(trainer.built, inputs, None)

    return _measure(one, widths, seeds)


def _measure(
    one: Callable[[float, int], tuple[_Outputs, _Outputs]], widths: Sequence[float], seeds: Sequence[int]
) -> Coordinates:
    """Mean changes and slopes of the modules that every width has."""
    changes: dict[str, list[float]] = {}
    for width in widths:
        found: dict[str, list[float]] = {}
        for seed in seeds:
            before, after = one(width, seed)
            for name in before.keys() & after.keys():
                found.setdefault(name, []).append(float((after[name] - before[name]).abs().mean()))
        for name, values in found.items():
            changes.setdefault(name, []).append(fmean(values))
    kept = {name: tuple(values) for name, values in sorted(changes.items()) if len(values) == len(widths)}
    slopes = {name: slope(widths, values) for name, values in kept.items()}
    return Coordinates(tuple(widths), kept, slopes)


def slope(widths: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log2 of the values against log2 of the widths; nan if one is not finite and above 0."""
    if not all(0 < v < math.inf for v in values):
        return math.nan
    x, y = [math.log2(w) for w in widths], [math.log2(v) for v in values]
    mx, my = fmean(x), fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def _activations(built: BuiltNetwork, inputs: Tensor, modules: Sequence[str] | None) -> _Outputs:
    """Outputs of modules by name, of layer sites and of what has no children; of one that runs several times the
    last."""
    network, sites = built.network, {id(site) for site in built.sites}
    by_name = dict(network.named_modules())
    if modules is not None and (missing := [m for m in modules if m not in by_name]):
        raise UsageError(
            f"the network has no module {missing[0]!r}", hint=f"it has {', '.join(by_name)}"[:300]
        )
    inside = {id(m) for site in built.sites for m in site.modules()} - sites
    leaves = [n for n, m in by_name.items() if id(m) in sites or not (any(m.children()) or id(m) in inside)]
    wanted = leaves if modules is None else modules
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = output.detach().float().clone()

        return hook

    hooks = [by_name[name].register_forward_hook(keep(name)) for name in wanted]
    training = network.training
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        network.train(training)
        for handle in hooks:
            handle.remove()
    return found
