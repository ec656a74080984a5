"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): inverted residuals with linear bottlenecks.

BN-ReLU6 becomes the searched layer; the norm after the projection has no activation and becomes the
affine alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from evonas.proxies.networks.blocks import ChannelAffine, Classifier, MakeLayer, Strides, conv, rounded
from evonas.proxies.spec import ProxySpec

#: expansion, channels and whether it reduces, per stage (table 2 of the paper).
STAGES = (
    (1, 16, False),
    (6, 24, True),
    (6, 32, True),
    (6, 64, True),
    (6, 96, False),
    (6, 160, True),
    (6, 320, False),
)


class InvertedResidual(nn.Module):
    """1x1 expansion (if any), 3x3 depthwise, 1x1 projection, plus the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, make_layer: MakeLayer) -> None:
        super().__init__()
        middle = inputs * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts += [conv(inputs, middle, 1), make_layer(middle)]
        parts += [conv(middle, middle, 3, stride, groups=middle), make_layer(middle)]
        parts += [conv(middle, outputs, 1), ChannelAffine(outputs)]
        self.branch = nn.Sequential(*parts)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


def mobilenet(spec: ProxySpec, make_layer: MakeLayer, in_channels: int, classes: int) -> nn.Module:
    """Float (N, in_channels, H, W) -> logits (N, classes). The head is not narrowed below ``spec.head``."""
    strides = Strides(spec.strides)
    channels = rounded(32 * spec.width, spec.divisor)
    parts: list[nn.Module] = [conv(in_channels, channels, 3, strides()), make_layer(channels)]
    for (expansion, base, reduces), blocks in zip(STAGES, spec.depth, strict=True):
        outputs = rounded(base * spec.width, spec.divisor)
        for block in range(blocks):
            step = strides(reduces and block == 0)
            parts.append(InvertedResidual(channels, outputs, expansion, step, make_layer))
            channels = outputs
    head = rounded(spec.head * max(1.0, spec.width), spec.divisor)
    parts += [conv(channels, head, 1), make_layer(head), Classifier(head, classes)]
    return nn.Sequential(*parts)
