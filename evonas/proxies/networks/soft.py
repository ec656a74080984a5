"""SOFT (Lu et al. 2021, arXiv 2110.11945): vision with attention that has no softmax and is linear in the tokens.

Queries are the keys; the Gaussian kernel of all tokens is approximated by that of a few landmarks (Nystrom), which are
averages of neighbours by a convolution, then a norm and GELU. Blocks are post-norm: ``norm(x + attention)``,
``norm(. + ffn)``. Four stages; the grid shrinks before each, and the last one has ordinary softmax attention.

Slots: landmark (the norm; GELU stays), post_attention, post_ffn, LayerNorm where no layer is given, and ffn, GELU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evonas.proxies.networks.blocks import Classifier, MakeLayer, Strides, conv, rounded
from evonas.proxies.networks.newton import inverse
from evonas.proxies.networks.tokens import MLP, filled, heads_of, joined
from evonas.proxies.spec import ProxySpec

#: channels of the four stages and features of a head (SOFT-Tiny).
CHANNELS, HEAD = (64, 128, 320, 512), 32
#: of the feed-forward network, as a multiple of the channels
EXPANSION = 4


def tokens_of(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return images.flatten(2).transpose(1, 2)


def grid_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H * W, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-|a_i - b_j|^2 / 2)``: (..., n, d), (..., m, d) -> (..., n, m)."""
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return torch.exp(a @ b.transpose(-2, -1) - 0.5 * squares)


class SoftmaxFreeAttention(nn.Module):
    """``K(Q, L) K(L, L)^-1 K(L, Q) V + conv(V)``, K the Gaussian kernel, L the landmarks.

    The inverse is Newton's; it goes on beyond the published twenty iterations where landmarks are so much alike that
    twenty do not suffice (``newton``).
    """

    def __init__(self, channels: int, heads: int, stride: int, make_layer: MakeLayer) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        #: factor on queries: head_dim^(-1/4), so that squared distances have the scale of 1 / sqrt(head_dim)
        self.query_scale = self.head_dim**-0.25
        self.qv = nn.Linear(channels, 2 * channels)
        self.landmarks = nn.Conv2d(channels, channels, stride, stride, groups=channels, bias=False)
        self.norm = filled(make_layer, channels, "landmark", lambda: nn.LayerNorm(channels))
        self.local = conv(channels, channels, 3, groups=channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """x: (N, H * W, C)."""
        q, v = self.qv(x).chunk(2, -1)
        q = q * self.query_scale
        landmarks = F.gelu(self.norm(tokens_of(self.landmarks(grid_of(q, height, width)))))
        queries, few, values = (heads_of(part, self.heads) for part in (q, landmarks, v))
        to_few = gaussian(queries, few)
        weights = inverse(gaussian(few, few))
        mixed = to_few @ (weights @ (to_few.transpose(-2, -1) @ values))
        near = tokens_of(self.local(grid_of(v, height, width)))
        out: Tensor = self.out(joined(mixed) + near)
        return out


class SoftmaxAttention(nn.Module):
    """Ordinary attention over all tokens of the grid, for the last stage."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        self.logit_scale = self.head_dim**-0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        out: Tensor = self.out(joined(F.scaled_dot_product_attention(q, k, v, scale=self.logit_scale)))
        return out


class Block(nn.Module):
    """``norm(x + attention(x))``, then ``norm(x + ffn(x))``."""

    def __init__(self, channels: int, heads: int, stride: int | None, make_layer: MakeLayer) -> None:
        super().__init__()
        self.attention: SoftmaxFreeAttention | SoftmaxAttention
        if stride is None:
            self.attention = SoftmaxAttention(channels, heads)
        else:
            self.attention = SoftmaxFreeAttention(channels, heads, stride, make_layer)
        self.post_attention = filled(make_layer, channels, "post_attention", lambda: nn.LayerNorm(channels))
        hidden = EXPANSION * channels
        self.ffn = MLP(channels, hidden, filled(make_layer, hidden, "ffn", nn.GELU))
        self.post_ffn = filled(make_layer, channels, "post_ffn", lambda: nn.LayerNorm(channels))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.post_attention(x + self.attention(x, height, width))
        y: Tensor = self.post_ffn(x + self.ffn(x))
        return y


class Stage(nn.Module):
    """A convolution that makes tokens of fewer, wider pixels, then blocks on them."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        heads: int,
        step: int,
        landmarks: int | None,
        blocks: int,
        make_layer: MakeLayer,
    ) -> None:
        super().__init__()
        self.embed = conv(inputs, outputs, 3, step)
        self.blocks = nn.ModuleList(Block(outputs, heads, landmarks, make_layer) for _ in range(blocks))

    def forward(self, images: Tensor) -> Tensor:
        grid = self.embed(images)
        height, width = grid.shape[2:]
        x = tokens_of(grid)
        for block in self.blocks:
            x = block(x, height, width)
        return grid_of(x, height, width)


class Soft(nn.Module):
    """Float (N, in_channels, H, W) -> logits (N, classes)."""

    def __init__(self, spec: ProxySpec, make_layer: MakeLayer, in_channels: int, classes: int) -> None:
        super().__init__()
        strides = Strides(spec.strides)
        heads = [max(1, c // HEAD) for c in CHANNELS]
        # a whole number of features a head, whatever the width
        sizes = [
            rounded(c * spec.width / h, min(spec.divisor, HEAD)) * h
            for c, h in zip(CHANNELS, heads, strict=True)
        ]
        self.stem = conv(in_channels, sizes[0], 3, strides())
        stages = []
        inputs = sizes[0]
        for at, (channels, count, blocks) in enumerate(zip(sizes, heads, spec.depth, strict=True)):
            last = at == len(sizes) - 1
            landmarks = None if last else spec.landmarks[at]
            stages.append(Stage(inputs, channels, count, strides(), landmarks, blocks, make_layer))
            inputs = channels
        self.stages = nn.ModuleList(stages)
        self.head = Classifier(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.gelu(self.stem(images))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits


def soft(spec: ProxySpec, make_layer: MakeLayer, in_channels: int, classes: int) -> nn.Module:
    """Float (N, in_channels, H, W) -> logits (N, classes)."""
    return Soft(spec, make_layer, in_channels, classes)
