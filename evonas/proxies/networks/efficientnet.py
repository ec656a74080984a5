"""EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946): MBConv blocks with squeeze-and-excitation.

BN-swish becomes the searched layer, the norm after the projection the affine alone. Squeeze-and-
excitation keeps its own swish and sigmoid: it has no norm. Dropout and drop-connect are left out, so
that the same weights and data give the same score.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evonas.proxies.networks.blocks import ChannelAffine, Classifier, MakeLayer, Strides, conv, rounded
from evonas.proxies.spec import ProxySpec

#: expansion, channels, stride, kernel of each stage (table 1 of the paper).
STAGES = (
    (1, 16, False, 3), (6, 24, True, 3), (6, 40, True, 5), (6, 80, True, 3),
    (6, 112, False, 5), (6, 192, True, 5), (6, 320, False, 3),
)  # fmt: skip


class SqueezeExcite(nn.Module):
    """Scales each channel by sigmoid(W2 swish(W1 mean(x))); Hu et al. 2018, arXiv 1709.01507."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.silu(self.reduce(x.mean((2, 3))))
        return x * torch.sigmoid(self.expand(squeezed))[:, :, None, None]


class MBConv(nn.Module):
    """1x1 expansion (if any), depthwise, squeeze-excite, 1x1 projection; plus the input if shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int, make_layer: MakeLayer
    ) -> None:
        super().__init__()
        middle = inputs * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts += [conv(inputs, middle, 1), make_layer(middle)]
        parts += [conv(middle, middle, kernel, stride, groups=middle), make_layer(middle)]
        parts += [SqueezeExcite(middle, max(1, inputs // 4))]
        parts += [conv(middle, outputs, 1), ChannelAffine(outputs)]
        self.branch = nn.Sequential(*parts)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


def efficientnet(spec: ProxySpec, make_layer: MakeLayer, in_channels: int, classes: int) -> nn.Module:
    """Float (N, in_channels, H, W) -> logits (N, classes)."""
    strides = Strides(spec.strides)
    channels = rounded(32 * spec.width, spec.divisor)
    parts: list[nn.Module] = [conv(in_channels, channels, 3, strides()), make_layer(channels)]
    for (expansion, base, reduces, kernel), blocks in zip(STAGES, spec.depth, strict=True):
        outputs = rounded(base * spec.width, spec.divisor)
        for block in range(blocks):
            step = strides(reduces and block == 0)
            parts.append(
                MBConv(channels, outputs, expansion, step, min(kernel, spec.kernel_limit), make_layer)
            )
            channels = outputs
    head = rounded(spec.head * spec.width, spec.divisor)
    parts += [conv(channels, head, 1), make_layer(head), Classifier(head, classes)]
    return nn.Sequential(*parts)
