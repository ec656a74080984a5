"""The same layers as other libraries have them, for comparisons: torch, Liger-Kernel, flash-linear-attention, Apex.

A layer is recognised by the digest of its canonical graph, however it is written. Importing this does not import
torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from evonas.graph import Graph, digest
from evonas.layers.layer import Layer
from evonas.layers.zoo import ZOO
from evonas.primitives import EPS

if TYPE_CHECKING:
    from torch import nn

#: Name -> the module that has to be installed.
LIBRARIES = {"torch": "torch", "liger": "liger_kernel", "fla": "fla", "apex": "apex"}
_ACTIVATIONS = ("relu", "silu", "gelu")


@dataclass(frozen=True)
class Peer:
    """A layer of another library. make: (channels, groups) -> module. note: how it is not quite the same layer.

    orders: memory orders of NCHW tensors that it takes.
    """

    library: str
    make: Callable[[int, int], nn.Module]
    note: str = ""
    orders: tuple[str, ...] = ("contiguous", "channels_last")


def installed(library: str) -> bool:
    """Whether a library of ``LIBRARIES`` is there."""
    return importlib.util.find_spec(LIBRARIES[library]) is not None


def peers(layer: Layer, layout: str) -> tuple[Peer, ...]:
    """What the libraries have of a layer on tensors of a layout; whether they are installed is not asked."""
    return _table().get((layout, digest(layer.graph)), ())


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, bytes], tuple[Peer, ...]]:
    table: dict[tuple[str, bytes], tuple[Peer, ...]] = {}

    def put(layout: str, formula: str, *found: Peer) -> None:
        table[layout, digest(Graph.parse(formula))] = found

    put("btc", "(x - mean[c](x)) / std[c](x)", Peer("torch", _torch_layer_norm), Peer("liger", _liger_layer_norm),
        Peer("fla", _fla_layer_norm), Peer("apex", _apex("FusedLayerNorm")))  # fmt: skip
    bare = "no bias"
    put("btc", "x / rms[c](x)", Peer("torch", _torch_rms_norm, bare), Peer("liger", _liger_rms_norm, bare),
        Peer("fla", _fla_rms_norm, bare), Peer("apex", _apex("FusedRMSNorm"), bare))  # fmt: skip
    put("btc", ZOO["dyt"].formula, Peer("liger", _liger_dyt, "one alpha for all channels"))
    put("btc", ZOO["dyt_scalar"].formula, Peer("liger", _liger_dyt))
    statistics = {"bn": "b,w,h", "gn": "w,h,c/g", "in": "w,h", "ln": "w,h,c"}
    for norm, index in statistics.items():
        put("nchw", f"(x - mean[{index}](x)) / std[{index}](x)", *_convolutional(norm, None))
        for act in _ACTIVATIONS:
            put("nchw", ZOO[f"{norm}_{act}"].formula, *_convolutional(norm, act))
    return table


def _convolutional(norm: str, act: str | None) -> list[Peer]:
    """torch's norm and activation, and what else there is of group norms."""
    note = "affine before the activation" if act else ""
    found = [Peer("torch", lambda c, g: _activated(_torch_norm(norm, c, g), act), note)]
    if norm == "gn":
        liger = Peer("liger", lambda c, g: _activated(_liger_group_norm(c, g), act), note, ("contiguous",))
        found.append(liger)
        if act in (None, "silu"):
            found.append(Peer("apex", lambda c, g: _apex_group_norm(c, g, act), note, ("channels_last",)))
    return found


def _activated(norm: nn.Module, act: str | None) -> nn.Module:
    from torch import nn

    acts: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
    return norm if act is None else nn.Sequential(norm, acts[act]())


def _torch_norm(norm: str, channels: int, groups: int) -> nn.Module:
    from torch import nn

    if norm == "bn":
        return nn.BatchNorm2d(channels, eps=EPS)
    if norm == "in":
        return nn.InstanceNorm2d(channels, eps=EPS, affine=True)
    return nn.GroupNorm(1 if norm == "ln" else groups, channels, eps=EPS)


def _torch_layer_norm(channels: int, groups: int) -> nn.Module:
    from torch import nn

    return nn.LayerNorm(channels, eps=EPS)


def _torch_rms_norm(channels: int, groups: int) -> nn.Module:
    from torch import nn

    return nn.RMSNorm(channels, eps=EPS)


def _liger_layer_norm(channels: int, groups: int) -> nn.Module:
    from liger_kernel.transformers.layer_norm import LigerLayerNorm

    return _starting(LigerLayerNorm(channels, eps=EPS, bias=True))


def _liger_rms_norm(channels: int, groups: int) -> nn.Module:
    from liger_kernel.transformers.rms_norm import LigerRMSNorm

    # its default writes dx over dy, which belongs to the caller here
    return _starting(LigerRMSNorm(channels, eps=EPS, in_place=False))


def _liger_dyt(channels: int, groups: int) -> nn.Module:
    from liger_kernel.transformers.dyt import LigerDyT

    return _starting(LigerDyT(channels, beta=True, init_alpha=0.5))


def _liger_group_norm(channels: int, groups: int) -> nn.Module:
    from liger_kernel.transformers.group_norm import LigerGroupNorm

    return _starting(LigerGroupNorm(channels, groups, eps=EPS, bias=True))


def _fla_layer_norm(channels: int, groups: int) -> nn.Module:
    from fla.modules import LayerNorm

    return _starting(LayerNorm(channels, bias=True, eps=EPS))


def _fla_rms_norm(channels: int, groups: int) -> nn.Module:
    from fla.modules import RMSNorm

    return _starting(RMSNorm(channels, eps=EPS))


def _apex(name: str) -> Callable[[int, int], nn.Module]:
    def make(channels: int, groups: int) -> nn.Module:
        import apex.normalization

        return _starting(getattr(apex.normalization, name)(channels, eps=EPS))

    return make


def _apex_group_norm(channels: int, groups: int, act: str | None) -> nn.Module:
    from apex.contrib.group_norm import GroupNorm

    return _starting(GroupNorm(groups, channels, eps=EPS, act=act or ""))


def _starting(module: Any) -> nn.Module:
    """With bias 0, which one of the libraries draws at random."""
    import torch

    bias = getattr(module, "bias", None)
    if isinstance(bias, torch.Tensor):
        with torch.no_grad():
            bias.zero_()
    made: nn.Module = module
    return made
