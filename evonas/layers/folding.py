"""Folding: a layer that is affine per channel at evaluation becomes part of the linear map or convolution beside it.

    after a map:   scale * (W x + b) + shift = (scale W) x + (scale b + shift)
    before a map:  W (scale x + shift) + b = (W scale) x + (W shift + b)

The second is wrong for a convolution that pads with zeros, unless the shift is 0: at the border, zeros stand in the
place of ``shift``. Such a fold is refused. Everything is computed in float64 and rounded once to the weights' dtype.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evonas.errors import EvonasError, UsageError
from evonas.layers.affine_values import Affine, eval_affine
from evonas.layers.module import GraphLayer
from evonas.layers.stateful.base import StatefulLayer

Map = nn.Linear | nn.Conv1d | nn.Conv2d
_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d)
#: What does nothing in evaluation.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Fold:
    """One layer that is gone: its name and class, the name of the map that took it in, and on which side of the map it
    stood. rest: what stays in its place, empty for nothing."""

    name: str
    kind: str
    into: str
    position: str
    rest: str = ""

    def __str__(self) -> str:
        stays = f"; {self.rest} stays" if self.rest else ""
        return f"{self.name} ({self.kind}) folded into {self.into}, which it stood {self.position}{stays}"


@dataclass(frozen=True)
class Kept:
    """One layer that is still there, and why."""

    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}) kept: {self.reason}"


@dataclass(frozen=True)
class Folded:
    """A model after folding, in evaluation mode, and what became of each of its layers."""

    model: nn.Module
    folded: tuple[Fold, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.folded, *self.kept))) or "no layer to fold"


def fold_layer(layer: nn.Module, linear: nn.Module, position: str = "after") -> nn.Module:
    """A new map that computes what layer and map compute one after the other in evaluation; neither is changed.

    Where a layer is affine only after something else (PowerNorm after its group scaling) and stands before the map, the
    result is ``nn.Sequential(something else, map)``.

    Args:
        layer: a module of evonas. Its layout goes with the map: "btc" with Linear, "nchw" with Conv2d. With Conv1d,
            whose tensors are (B, C, T), the layer is "btc" and the caller transposes between the two.
        linear: nn.Linear, nn.Conv1d or nn.Conv2d, any groups, strides and dilations.
        position: "after" if the layer takes the map's output, "before" if the map takes the layer's.

    Raises:
        UsageError: a layer that is not affine at evaluation, a map of another class or size, a shift before zero
            padding.
    """
    if position not in ("before", "after"):
        raise UsageError(f"position={position!r}, needed is 'before' or 'after'")
    _check_map(layer, linear, position)
    affine = eval_affine(layer)
    return _folded(affine, linear, position)


def fold(model: nn.Module, *, example: Tensor | None = None) -> Folded:
    """Fold every layer of a model that can be, into a neighbour within the same ``nn.Sequential``.

    The model is copied, and the copy is for evaluation only: layers that were folded are ``nn.Identity`` now, so that
    all other names stay. A layer is folded into the map before it, else into the one after it; Identity and Dropout in
    between do not matter. What is shared between two places, has hooks or is parametrized stays as it is.

    Args:
        model: any module. example: an input on which both models are run in evaluation and compared (to 1e-4 in
            float32, 1e-9 in float64, 2e-2 below, relative to the largest output).

    Raises:
        EvonasError: the two disagree on ``example``.
    """
    made = copy.deepcopy(model).eval()
    names = {id(m): name for name, m in made.named_modules()}
    shared = _shared(made)
    folded: list[Fold] = []
    reasons: dict[int, str] = {}
    for parent in list(made.modules()):
        if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
            _fold_sequential(parent, names, shared, folded, reasons)
    kept = tuple(
        Kept(name, _kind(module), reasons.get(id(module), _OUTSIDE))
        for name, module in made.named_modules()
        if isinstance(module, GraphLayer | StatefulLayer)
    )
    result = Folded(made, tuple(folded), kept)
    if example is not None:
        _compare(model, result, example)
    return result


_OUTSIDE = "it is not in an nn.Sequential, so its neighbours are not known; see fold_layer"


def _fold_sequential(
    parent: nn.Sequential,
    names: dict[int, str],
    shared: set[int],
    folded: list[Fold],
    reasons: dict[int, str],
) -> None:
    children = list(parent)
    for at, layer in enumerate(children):
        if not isinstance(layer, GraphLayer | StatefulLayer):
            continue
        refused: list[str] = []
        for position, step in (("after", -1), ("before", 1)):
            where = at + step
            while 0 <= where < len(children) and isinstance(children[where], _NOTHING):
                where += step
            if not 0 <= where < len(children) or not isinstance(children[where], _MAPS):
                continue
            linear = children[where]
            try:
                for module in (layer, linear):
                    _check_alone(module, names, shared)
                _check_map(layer, linear, position)
                affine = eval_affine(layer)
                new = _folded(affine, linear, position)
            except UsageError as error:
                if error.message not in refused:
                    refused.append(error.message)
                continue
            rest = nn.Identity() if affine.rest is None else affine.rest.eval()
            new = new if affine.rest is None else new[1]  # type: ignore[index]
            folded.append(
                Fold(names[id(layer)], _kind(layer), names[id(linear)], position,
                     "" if affine.rest is None else str(affine.rest))
            )  # fmt: skip
            names[id(new)] = names[id(linear)]
            parent[at], parent[where] = rest, new
            children[at], children[where] = rest, new
            break
        else:
            reasons[id(layer)] = "; ".join(refused) or "no linear map or convolution stands beside it"


def _kind(layer: nn.Module) -> str:
    return layer.formula if isinstance(layer, GraphLayer) else type(layer).__name__


def _folded(affine: Affine, linear: nn.Module, position: str) -> nn.Module:
    assert isinstance(linear, _MAPS)
    scale, shift, rest = affine
    if position == "after":
        if rest is not None:
            raise UsageError(f"{rest} stands between the map and what could be folded into it")
    elif rest is not None and isinstance(linear, nn.Conv1d):
        raise UsageError(f"{rest} stays, and its channels are last, those of a Conv1d second")
    elif bool((shift != 0).any()) and _pads_with_zeros(linear):
        raise UsageError(
            f"the convolution after it pads with zeros (padding={getattr(linear, 'padding', 0)!r}), and its shift is "
            f"not 0: at the border the padding would have to be the shift",
            hint="fold it into the map before it, or take padding=0 or another padding_mode",
        )
    made = copy.deepcopy(linear)
    with torch.no_grad():
        weight = linear.weight.double()
        bias = None if linear.bias is None else linear.bias.double()
        if position == "after":
            new = weight * scale.view(-1, *[1] * (weight.dim() - 1))
            added = shift if bias is None else scale * bias + shift
        else:
            by_input = _per_input(scale, linear), _per_input(shift, linear)
            new = weight * by_input[0]
            moved = (weight * by_input[1]).flatten(1).sum(1)
            added = moved if bias is None else bias + moved
        made.weight.copy_(new)
        if made.bias is not None:
            made.bias.copy_(added)
        elif bool((added != 0).any()):
            made.bias = nn.Parameter(added.to(made.weight.dtype), requires_grad=made.weight.requires_grad)
    return made if rest is None else nn.Sequential(rest, made)


def _per_input(values: Tensor, linear: Map) -> Tensor:
    """A value per input channel with the shape of the weight: group g of a convolution sees its own channels alone."""
    if isinstance(linear, nn.Linear):
        return values[None, :]
    groups = linear.groups
    by_group = values.view(groups, -1).repeat_interleave(linear.out_channels // groups, 0)
    return by_group.view(*by_group.shape, *[1] * len(linear.kernel_size))


def _pads_with_zeros(linear: Map) -> bool:
    if isinstance(linear, nn.Linear) or linear.padding_mode != "zeros":
        return False
    if isinstance(linear.padding, str):
        return linear.padding == "same" and any(k > 1 for k in linear.kernel_size)
    return any(p > 0 for p in linear.padding)


def _check_map(layer: nn.Module, linear: nn.Module, position: str) -> None:
    if type(linear) not in _MAPS:
        raise UsageError(
            f"{type(linear).__name__} is not folded into; it has to be a plain nn.Linear, nn.Conv1d or nn.Conv2d"
        )
    if not isinstance(layer, GraphLayer | StatefulLayer):
        raise UsageError(f"{type(layer).__name__} is no layer of evonas, only these are folded")
    layout = "nchw" if isinstance(linear, nn.Conv2d) else "btc"
    if layer.layout.name != layout:
        raise UsageError(
            f"{type(linear).__name__} goes with layout {layout}, the layer is {layer.layout.name}"
        )
    out = position == "after"
    if isinstance(linear, nn.Linear):
        channels = linear.out_features if out else linear.in_features
    else:
        assert isinstance(linear, nn.Conv1d | nn.Conv2d)
        channels = linear.out_channels if out else linear.in_channels
    if channels != layer.channels:
        raise UsageError(
            f"the layer has {layer.channels} channels, the {'output' if out else 'input'} of the map {channels}"
        )


def _check_alone(module: nn.Module, names: dict[int, str], shared: set[int]) -> None:
    inside = [module, *module.parameters()]
    if any(id(part) in shared for part in inside):
        raise UsageError(f"{names[id(module)]} or a parameter of it is used in more than one place")
    if module._forward_hooks or module._forward_pre_hooks:
        raise UsageError(f"{names[id(module)]} has hooks, which would see other values")
    if isinstance(module, nn.Conv1d):
        raise UsageError("nn.Conv1d has its channels second and the layer has them last; see fold_layer")


def _shared(model: nn.Module) -> set[int]:
    """Ids of modules and parameters that stand in more than one place."""
    places = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    places += Counter(id(p) for _, m in model.named_modules() for p in m.parameters(recurse=False))
    return {one for one, count in places.items() if count > 1}


def _compare(model: nn.Module, result: Folded, example: Tensor) -> None:
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(example)
        got = result.model(example)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(wanted.dtype, 2e-2)
    error = float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30))
    if not error <= tolerance:
        raise EvonasError(
            f"the folded model differs by {error:.1e} on the example, allowed is {tolerance:g}",
            hint="something outside of its nn.Sequential calls one of the modules; fold with fold_layer",
        )
