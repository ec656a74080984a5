"""What the three networks share: convolutions, the affine at linear norms, channel rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

#: channels -> a module from (N, channels, H, W) to the same shape, in place of norm and activation.
MakeLayer = Callable[[int], nn.Module]


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
    """Hands out the strides of a network's reductions in order, the first ``unit`` of them as 1."""

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def __call__(self, stride: int) -> int:
        if stride == 1:
            return 1
        self.unit -= 1
        return 1 if self.unit >= 0 else stride


class Classifier(nn.Module):
    """Mean over space, then a linear map with bias: (N, C, H, W) -> (N, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))
