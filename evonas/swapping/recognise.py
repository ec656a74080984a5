"""Which modules are norms and which are activations: by class for those of torch, by behaviour for others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evonas.layers.module import GraphLayer
from evonas.swapping.modules import ChannelAffine, Viewed

_BATCH_LIKE = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_LAST = (nn.LayerNorm, nn.RMSNorm)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip
_NO_ACTIVATIONS = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax)


@dataclass(frozen=True)
class Norm:
    """A module that normalises.

    channels: C, None if it normalises over several axes. axis: of the channels, 1 or -1, None if it cannot be told.
    act: name of the child that is its activation (timm's norm-act modules), "" if it is an identity, None if there
    is none. made: "" for a module of somebody else, else what a swap has made of the place.
    """

    channels: int | None
    axis: int | None
    act: str | None = None
    made: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Act:
    """A module that is an activation. axis: always None, the channels are found from where its input comes."""

    axis: None = None


def parts(model: nn.Module) -> dict[nn.Module, Norm | Act]:
    """Every norm and activation of a model that is not inside another one, in the order of registration."""
    found: dict[nn.Module, Norm | Act] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        part = recognise(module)
        if part is not None:
            found[module] = part
            inside.update(child for child in module.modules() if child is not module)
    return {module: part for module, part in found.items() if module not in inside}


def recognise(module: nn.Module) -> Norm | Act | None:
    """What a module is, None if neither norm nor activation."""
    if isinstance(module, GraphLayer | Viewed):
        return _made(module)
    if isinstance(module, ChannelAffine):
        return Norm(module.channels, module.axis, made="affine")
    if isinstance(module, _ACTIVATIONS):
        return Act()
    if isinstance(module, _NO_ACTIVATIONS):
        return None
    with torch.no_grad():
        norm = _norm(module)
        return norm if norm is not None else _act(module)


def _made(module: GraphLayer | Viewed) -> Norm | Act:
    layer = module.layer if isinstance(module, Viewed) else module
    role = getattr(layer, "place", "norm_act")
    if role == "act":
        return Act()
    assert isinstance(layer, GraphLayer)
    view = module.view if isinstance(module, Viewed) else layer.layout.name
    return Norm(layer.channels, 1 if view in ("nchw", "length", "vector") else -1, made=role)


def _norm(module: nn.Module) -> Norm | None:
    act = _inner_act(module)
    reason = "has a dropout or another module between norm and activation" if act == "?" else ""
    act = None if act == "?" else act
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return Norm(module.num_features, 1, act, reason=reason)
    if isinstance(module, nn.GroupNorm):
        return Norm(module.num_channels, 1, act, reason=reason)
    if isinstance(module, _LAST):
        over = tuple(module.normalized_shape)
        if len(over) > 1:
            return Norm(
                None, -1, act, reason=f"normalises over the {len(over)} axes {over}, not over channels"
            )
        return Norm(over[0], _axis(module, over[0]), act, reason=reason)
    channels = _vector_channels(module, act)
    if channels is None:
        return None
    if "running_var" in dict(module.named_buffers(recurse=False)):
        return Norm(channels, 1, act, reason=reason)  # a frozen batch norm, all of it buffers
    axis = _axis(module, channels)
    return Norm(channels, axis, act, reason=reason) if axis and normalises(module, channels, axis) else None


def _inner_act(module: nn.Module) -> str | None:
    """The child "act" of a norm-act module: its name, "" for an identity, "?" if another child stands between."""
    children = dict(module.named_children())
    act = children.pop("act", None)
    if any(not isinstance(child, nn.Identity) for child in children.values()):
        return "?"
    if act is None:
        return None
    return "" if isinstance(act, nn.Identity) else "act"


def _vector_channels(module: nn.Module, act: str | None) -> int | None:
    """C if the module itself holds one or two parameters of shape (C,), or the buffers of a frozen batch norm."""
    if act is None and any(True for _ in module.children()):
        return None
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    own = own or dict(module.named_buffers(recurse=False))
    sizes = {tuple(p.shape) for p in own.values()} - {()}
    frozen = {"weight", "bias", "running_mean", "running_var"} <= set(own)
    size = next(iter(sizes)) if len(sizes) == 1 else ()
    if len(size) != 1 or size[0] < 2 or (len(own) > 2 and not frozen):
        return None
    if not any(True for _ in module.parameters(recurse=False)) and not frozen:
        return None
    return size[0]


def _axis(module: nn.Module, channels: int) -> int | None:
    """1 if the module takes (1, C, 2, n) with n other than C, -1 if it takes (1, 2, C), None if neither."""
    for axis, shape in ((1, (1, channels, 2, 3 if channels != 3 else 5)), (-1, (1, 2, channels))):
        x = _probe(module, shape, axis)
        try:
            y = module(x)
        except Exception:
            continue
        if isinstance(y, Tensor) and y.shape == x.shape:
            return axis
    return None


def _probe(module: nn.Module, shape: tuple[int, ...], axis: int) -> Tensor:
    """+1 and -1 in turns over the channels (with a 0 in front for an odd count): every norm over channels leaves it."""
    like = next(iter([*module.parameters(), *module.buffers()]), torch.zeros(1))
    channels = shape[axis]
    x = torch.ones(channels, dtype=like.dtype, device=like.device)
    x[1::2] = -1
    if channels % 2:
        x[-1] = 0
    return x.view([-1 if i == axis % len(shape) else 1 for i in range(len(shape))]).expand(shape).contiguous()


def normalises(module: nn.Module, channels: int, axis: int) -> bool:
    """Whether the output stays when the input is multiplied by 4, turns when it is turned, and is not constant."""
    x = _probe(module, (1, channels, 2, 2) if axis == 1 else (1, 2, channels), axis)
    x = x * torch.linspace(0.5, 1.5, channels, dtype=x.dtype, device=x.device).view(
        [-1 if i == axis % x.dim() else 1 for i in range(x.dim())]
    )
    base = module(torch.zeros_like(x)).float()
    y, same, turned = (module(f * x).float() - base for f in (1.0, 4.0, -1.0))
    if not bool(y.abs().max() > 1e-3):  # a weight of zero hides it: go by the name
        return "norm" in type(module).__name__.lower()
    return _close(y, same) and not _close(y, turned)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=2e-2, atol=1e-3)


def affine_of(module: nn.Module, norm: Norm) -> tuple[Tensor | None, Tensor | None]:
    """Factor and summand per channel that a norm ends with; None for what it has not.

    For norms of torch, and those that name their parameters the same and have no third, these are ``weight`` and
    ``bias``. For others both are measured, so that ``1 + weight`` is carried over as what it does.
    """
    layer = module.layer if isinstance(module, Viewed) else module
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if isinstance(layer, (*_BATCH_LIKE, *_LAST, GraphLayer, ChannelAffine)) or hasattr(layer, "running_var"):
        return weight, bias
    if norm.channels is None or norm.axis is None:
        return None, None
    shape = (1, norm.channels, 1, 2) if norm.axis == 1 else (1, 1, norm.channels)
    scale, shift = torch.ones(norm.channels), torch.zeros(norm.channels)
    with torch.no_grad():
        x = _probe(module, shape, norm.axis) * 16
        for turn in (0, 1):  # the second time another channel has the 0 of an odd count
            probe = x.roll(turn, norm.axis)
            up, down = (
                module(sign * probe)
                .transpose(norm.axis, -1)[0, 0]
                .reshape(-1, norm.channels)[0]
                .float()
                .cpu()
                for sign in (1, -1)
            )
            unit = probe.transpose(norm.axis, -1)[0, 0].reshape(-1, norm.channels)[0].float().cpu()
            unit = unit / unit.square().mean().sqrt()
            seen = unit != 0
            scale[seen] = ((up - down) / 2)[seen] / unit[seen]
            shift[seen] = ((up + down) / 2)[seen]
    return scale, shift if bool((shift.abs() > 1e-6).any()) or isinstance(bias, Tensor) else None


def _act(module: nn.Module) -> Act | None:
    """An activation: no state, every element for itself, bent, and not a gate from 0 to 1."""
    if any(True for _ in module.children()) or [*module.parameters(), *module.buffers()]:
        return None
    x = torch.linspace(-3, 3, 13)
    try:
        y, turned, single = module(x.clone()), module(x.flip(0)), module(x[3:4].clone())
        low, high = module(torch.tensor([-50.0, 50.0])).tolist()
    except Exception:
        return None
    if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
        return None
    for_itself = torch.allclose(turned.flip(0), y) and torch.allclose(single, y[3:4])
    bent = bool(((y[2:] - 2 * y[1:-1] + y[:-2]).abs() > 1e-3).any())
    gate = abs(low) < 1e-3 and abs(high - 1) < 1e-3
    return Act() if for_itself and bent and not gate else None
