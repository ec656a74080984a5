"""Nested tensors of ``nn.TransformerEncoder``, which new layers do not take.

In evaluation, given a padding mask, it turns its input into a nested tensor for the fused path of its layers, and reads
the weights of their norms to find out whether it may. Layers with something else in them do not take that path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from weakref import WeakSet

from torch import nn

from evonas.layers.module import GraphLayer
from evonas.swapping.modules import ChannelAffine

#: Encoders whose nested tensors a swap has turned off.
_OFF: WeakSet[nn.TransformerEncoder] = WeakSet()


def turn_off(model: nn.Module, owners: Collection[nn.Module]) -> tuple[nn.TransformerEncoder, ...]:
    """Turn nested tensors off in every encoder with one of ``owners`` in its layers; returns those that had them."""
    found = []
    for encoder in model.modules():
        if not isinstance(encoder, nn.TransformerEncoder) or not (
            encoder in _OFF or getattr(encoder, "use_nested_tensor", False)
        ):
            continue
        if any(inside in owners for inside in encoder.layers.modules()):
            encoder.use_nested_tensor = False
            _OFF.add(encoder)
            found.append(encoder)
    return tuple(found)


def turn_on_again(encoders: Iterable[nn.TransformerEncoder]) -> None:
    """Undo ``turn_off`` where no layer of another swap is left."""
    for encoder in encoders:
        left = any(isinstance(inside, GraphLayer | ChannelAffine) for inside in encoder.layers.modules())
        if not left and encoder in _OFF:
            encoder.use_nested_tensor = True
            _OFF.discard(encoder)
