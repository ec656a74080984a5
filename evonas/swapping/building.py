"""The module that takes a place: device, dtype, training mode, ``requires_grad`` and affine as what stood there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evonas.layers.layer import Layer
from evonas.swapping.fitting import Fit
from evonas.swapping.modules import ChannelAffine, Viewed
from evonas.swapping.recognise import Norm, affine_of
from evonas.swapping.sites import Site


def build_layer(layer: Layer, site: Site, how: Fit, *, carry: bool, backend: str,
                options: Mapping[str, Any]) -> nn.Module:  # fmt: skip
    """A layer for a place. Its affine starts as that of the norm with ``carry``, else as 1 and 0; a norm without
    affine gets a layer without one, unless ``options`` say otherwise."""
    assert site.channels is not None
    weight, bias = affine_of(site.module, site.part) if isinstance(site.part, Norm) else (None, None)
    settings = dict(options)
    if isinstance(site.part, Norm) and weight is None and bias is None:
        settings.setdefault("affine", False)
    made = layer.module(site.channels, layout=how.layout, backend=backend, **_where(site), **settings)
    made.place = site.kind  # type: ignore[assignment]
    if carry:
        _copy(made, weight, bias)
    _flags(made, site.module)
    return Viewed(made, how.view).train(site.module.training) if how.view else made


def build_affine(site: Site, *, carry: bool) -> nn.Module:
    """The affine alone, in place of a norm without activation."""
    assert site.channels is not None
    assert site.axis is not None
    assert isinstance(site.part, Norm)
    made = ChannelAffine(site.channels, site.axis, **_where(site))
    if carry:
        _copy(made, *affine_of(site.module, site.part))
    _flags(made, site.module)
    return made


def _where(site: Site) -> dict[str, Any]:
    own = [*site.module.parameters(), *site.module.buffers()]
    like = next((t for t in own if t.is_floating_point()), None)
    if like is not None:
        return {"device": like.device, "dtype": like.dtype}
    call = site.calls[0]
    return {"device": call.device, "dtype": call.dtype}


@torch.no_grad()
def _copy(made: nn.Module, weight: Tensor | None, bias: Tensor | None) -> None:
    for name, value in (("weight", weight), ("bias", bias)):
        target = getattr(made, name)
        if target is not None and value is not None:
            target.copy_(value)


def _flags(made: nn.Module, old: nn.Module) -> None:
    """``weight`` and ``bias`` train if those of the norm did, other parameters if any of the norm did; all of them
    where the old module had no parameter. Frozen norms, whose weight is a buffer, stay frozen."""
    made.train(old.training)
    source = old.layer if isinstance(old, Viewed) else old
    flags = {name: p.requires_grad for name, p in source.named_parameters(recurse=False) if p is not None}
    frozen = not flags and "weight" in dict(source.named_buffers(recurse=False))
    default = any(flags.values()) if flags else not frozen
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(flags.get(name, default))
