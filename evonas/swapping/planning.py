"""What happens to every place of a model: a layer, the affine alone, or nothing, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from evonas.layers.layer import Layer
from evonas.swapping.fitting import Fit, fit
from evonas.swapping.modules import ChannelAffine
from evonas.swapping.recognise import Norm
from evonas.swapping.sites import Site
from evonas.swapping.trace import Trace


@dataclass(frozen=True)
class Step:
    """layer and how: of a layer that goes in. affine: the affine alone goes in. reason: nothing does."""

    site: Site
    layer: Layer | None = None
    how: Fit | None = None
    affine: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Wish:
    """layers: by "norm_act", "norm" and "act". linear: "affine", "keep", "replace" or None for what fits the place.
    only, skip: patterns of module paths. options: of ``Layer.module``."""

    layers: Mapping[str, Layer]
    linear: str | None = None
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def default_what(sites: Sequence[Site]) -> str:
    """ "norm_act" for a model with norm-activation pairs on feature maps, or with more pairs than norms alone;
    "norm" else."""
    pairs = [s for s in sites if s.kind == "norm_act" and not s.reason]
    alone = [s for s in sites if s.kind == "norm"]
    maps = any(s.axis == 1 for s in pairs)
    return "norm_act" if maps or len(pairs) > len(alone) else "norm"


def plan(sites: Sequence[Site], wish: Wish, trace: Trace) -> list[Step]:
    """A step per place. An activation that goes into a layer has none; one that does so in some of its calls only has
    one for the others."""
    norms = [_norm_step(s, wish, trace) for s in sites if isinstance(s.part, Norm)]
    taken: dict[object, set[int]] = {}
    for step in norms:
        if step.layer is not None and step.site.kind == "norm_act" and step.site.act is not None:
            taken.setdefault(step.site.act, set()).update(c.made for c in step.site.calls)
    by_module = {step.site.module: step for step in norms}
    steps = []
    for site in sites:
        if site.module in by_module:
            steps.append(by_module[site.module])
            continue
        rest = tuple(c for c in site.calls if c.given not in taken.get(site.module, ()))
        if rest or not site.calls:
            steps.append(_act_step(site, wish, trace, shared=len(rest) < len(site.calls)))
    return steps


def _norm_step(site: Site, wish: Wish, trace: Trace) -> Step:
    reason = _unwanted(site, wish) or site.reason
    if reason:
        return Step(site, reason=reason)
    if site.kind == "norm_act" and "norm_act" in wish.layers:
        return _layer_step(site, "norm_act", wish, trace)
    if "norm" in wish.layers:
        if site.kind == "norm_act" and isinstance(site.part, Norm) and site.part.made == "norm_act":
            return Step(site, reason="a layer with its activation inside: undo that swap first")
        return _layer_step(_as_norm(site), "norm", wish, trace)
    if site.unpaired:
        return Step(site, reason=site.unpaired)
    if "norm_act" not in wish.layers:
        return Step(site, reason="a norm (what='norm' would replace it)")
    linear = wish.linear or ("affine" if _of_maps(site) else "keep")
    if linear == "replace":
        return _layer_step(site, "norm_act", wish, trace)
    if linear == "keep":
        return Step(
            site, reason="a norm without activation (what='norm' or linear='replace' would replace it)"
        )
    if isinstance(site.part, Norm) and site.part.made == "affine":
        return Step(site, reason="is the affine alone already")
    return Step(site, affine=True)


def _of_maps(site: Site) -> bool:
    """Whether a norm is one of convolutional networks, on feature maps: of the batch, of a sample's channels, or of
    several groups. Layer and RMS normalization, and one group, stand before the parts of a token block, whose only
    norm they are; so does batch normalization on vectors."""
    module = site.module
    kind = isinstance(module, nn.modules.batchnorm._NormBase | ChannelAffine) or (
        isinstance(module, nn.GroupNorm) and module.num_groups > 1
    )
    frozen = "running_var" in dict(module.named_buffers(recurse=False))
    return (
        (kind or frozen) and site.axis == 1 and all(c.shape is None or len(c.shape) > 2 for c in site.calls)
    )


def _as_norm(site: Site) -> Site:
    """The same place, its activation left alone."""
    return Site("norm", site.path, site.module, site.part, site.calls, reason=site.reason)


def _act_step(site: Site, wish: Wish, trace: Trace, shared: bool) -> Step:
    reason = _unwanted(site, wish) or site.reason
    if not reason and "act" not in wish.layers:
        reason = "an activation without a norm before it" + (", in some of its calls" if shared else "")
        reason = reason if "norm_act" in wish.layers else "an activation (what='act' would replace it)"
    if not reason and shared:
        reason = "an activation that is part of a new layer in some of its calls"
    if not reason and isinstance(site.module, nn.Tanh) and not wish.only:
        reason = (
            "a tanh, which makes an output or a gate more often than hidden values (only= would replace it)"
        )
    return Step(site, reason=reason) if reason else _layer_step(site, "act", wish, trace)


def _layer_step(site: Site, name: str, wish: Wish, trace: Trace) -> Step:
    layer = wish.layers[name]
    how = fit(layer, site, trace, wish.options)
    return Step(site, reason=how) if isinstance(how, str) else Step(site, layer, how)


def _unwanted(site: Site, wish: Wish) -> str:
    if wish.only and not any(fnmatchcase(site.path, pattern) for pattern in wish.only):
        return "is not among only="
    if any(fnmatchcase(site.path, pattern) for pattern in wish.skip):
        return "is left out by skip="
    return ""
