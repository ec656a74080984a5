"""A network with slots for the tests of assemblies: patches of an image, a feed-forward part, a readout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Slotted(nn.Module):
    """1x1 maps over patches, so that all sites get (N, C, H, W); without a candidate a slot has what stands here."""

    def __init__(self, make_layer: Any, in_channels: int, classes: int, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, 4, 4)
        self.norm = make_layer(width, "pre_ffn") or nn.Identity()
        self.up = nn.Conv2d(width, 2 * width, 1)
        self.act = make_layer(2 * width, "ffn") or nn.SiLU()
        self.down = nn.Conv2d(2 * width, width, 1)
        self.final = make_layer(width, "final") or nn.Identity()
        self.readout = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images)
        x = x + self.down(self.act(self.up(self.norm(x))))
        return self.readout(torch.mean(self.final(x), (2, 3)))


def slotted(spec: Any, make_layer: Any, in_channels: int, classes: int) -> nn.Module:
    return Slotted(make_layer, in_channels, classes)
