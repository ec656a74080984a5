"""Models of torchvision: one ReLU module per block for several places, and activations that are functions."""

from __future__ import annotations

import torchvision
from swap_support import numbers, swap_and_check
from torch import Tensor, linspace, nn

import evonas


def run(model: nn.Module) -> Tensor:
    out: Tensor = model(linspace(-1, 1, 2 * 3 * 64 * 64).sin().reshape(2, 3, 64, 64))
    return out


def test_resnet_18_with_one_relu_per_block() -> None:
    model = torchvision.models.resnet18(num_classes=10)
    report = swap_and_check(model, "evonorm_s0", run)
    # layers: stem, bn1 of 8 blocks. affines: bn2 of 8 blocks, 3 shortcuts. left: each block's ReLU, behind the sum.
    assert numbers(report) == (1 + 8, 8 + 3, 8)
    assert {e.reason for e in report.left} == {"an activation without a norm before it, in some of its calls"}
    assert isinstance(model.relu, nn.Identity)


def test_mobilenet_v2() -> None:
    model = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5)
    report = evonas.swap(model, "evonorm_s0")
    # stem; depthwise and projection of the first block; three of 16 blocks; head
    assert numbers(report) == (1 + 1 + 2 * 16 + 1, 1 + 16, 0)


def test_activations_that_are_functions() -> None:
    """The last norm of DenseNet has a function behind it; all of GoogLeNet's have."""
    model = torchvision.models.densenet121(num_classes=10)
    report = evonas.swap(model, "evonorm_s0")
    # stem, 2 in each of 6 + 12 + 24 + 16 layers, 3 transitions, the norm before the head
    assert report.counts == {"layers": 1 + 2 * 58 + 3 + 1, "affine": 0, "left": 0}
    assert report.replaced[-1].was == "BatchNorm2d + relu()"
    assert run(model).isfinite().all()
    google = torchvision.models.googlenet(num_classes=10, init_weights=False)
    report = evonas.swap(google, "evonorm_s0")
    # 3 in the stem, 6 in each of 9 inception blocks; those of the auxiliary heads are not called in evaluation
    assert report.counts == {"layers": 3 + 6 * 9, "affine": 0, "left": 2}
    assert {e.reason for e in report.left} == {"is not called in evaluation"}
