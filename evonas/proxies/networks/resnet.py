"""Pre-activation ResNet-50 (He et al. 2016, "Identity mappings in deep residual networks").

Bottleneck blocks with expansion 4, stride on the 3x3 convolution, projection shortcuts on the
pre-activated input. Every norm is followed by an activation, so every norm is a layer site.
"""

from __future__ import annotations

from torch import Tensor, nn

from evonas.proxies.networks.blocks import Classifier, MakeLayer, Strides, conv, rounded
from evonas.proxies.spec import ProxySpec

EXPANSION = 4


class Bottleneck(nn.Module):
    """layer, 1x1, layer, 3x3, layer, 1x1, plus the shortcut."""

    def __init__(self, inputs: int, middle: int, stride: int, make_layer: MakeLayer) -> None:
        super().__init__()
        outputs = EXPANSION * middle
        self.layer1, self.conv1 = make_layer(inputs), conv(inputs, middle, 1)
        self.layer2, self.conv2 = make_layer(middle), conv(middle, middle, 3, stride)
        self.layer3, self.conv3 = make_layer(middle), conv(middle, outputs, 1)
        project = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, outputs, 1, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.layer1(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        branch = self.conv2(self.layer2(self.conv1(active)))
        return kept + self.conv3(self.layer3(branch))


def resnet(spec: ProxySpec, make_layer: MakeLayer, in_channels: int, classes: int) -> nn.Module:
    """Float (N, in_channels, H, W) -> logits (N, classes). Reductions: stem, pool, stages 2 to 4."""
    strides = Strides(spec.strides)
    width = rounded(64 * spec.width, spec.divisor)
    parts: list[nn.Module] = [
        conv(in_channels, width, min(7, spec.kernel_limit), strides()),
        nn.MaxPool2d(3, strides(), 1),
    ]
    channels = width
    for stage, blocks in enumerate(spec.depth):
        middle = width * 2**stage
        for block in range(blocks):
            stride = strides(stage > 0 and block == 0)
            parts.append(Bottleneck(channels, middle, stride, make_layer))
            channels = EXPANSION * middle
    return nn.Sequential(*parts, make_layer(channels), Classifier(channels, classes))
