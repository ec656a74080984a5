"""What the three networks share: convolutions, the affine at linear norms, channel rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import UsageError

#: channels -> a module from (N, channels, H, W) to the same shape, in place of norm and activation. Networks of tokens
#: pass the name of a slot too: (channels, slot) -> a module on (N, T, channels), or None for the network's own.
MakeLayer = Callable[..., Any]


class ChannelAffine(nn.Module):
    """``x * weight + bias`` per channel of (N, C, H, W): what a norm without activation becomes.

    Liu et al. 2020, appendix A: at such a place the searched layer is left out, its affine stays.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.reshape(-1, 1, 1), x, self.weight.reshape(-1, 1, 1))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def rounded(channels: float, divisor: int) -> int:
    """The nearest multiple of ``divisor``, at least ``divisor``, not more than 10 % below ``channels``.

    The rule of MobileNetV2 and EfficientNet.
    """
    number = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return number + divisor if number < 0.9 * channels else number


class Strides:
    """Hands out the strides of a network's spatial reductions in order."""

    def __init__(self, strides: tuple[int, ...], needed: int = 5) -> None:
        if len(strides) != needed:
            raise UsageError(f"strides are {strides}, needed are {needed}: one per spatial reduction")
        self._left = iter(strides)

    def __call__(self, reduces: bool = True) -> int:
        """The next reduction's stride, or 1 where the network does not reduce."""
        return next(self._left) if reduces else 1


class Classifier(nn.Module):
    """Mean over space, then a linear map with bias: (N, C, H, W) -> (N, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))
