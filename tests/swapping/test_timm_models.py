"""Models of timm, built without weights: which places they have is counted by hand from their definitions."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import timm
import torch
from swap_support import new_modules, numbers, swap_and_check
from torch import Tensor, nn

import evonas
from evonas.layers import GraphLayer

TOKEN = "x * sigmoid(x) / rms[c](x)"
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 64)}
VIT = {"depth": 3, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3}
SWIN = {"depths": (1, 1), "embed_dim": 16, "num_heads": (2, 4), "img_size": 32, "window_size": 4}

CASES: list[tuple[str, dict[str, Any], Any, tuple[int, int, int]]] = [
    # layers: the stem's norm and bn1 of 8 blocks. affines: bn2 of 8 blocks, 3 shortcuts. left: the ReLU after each
    # of 8 sums.
    ("resnet18", {}, "evonorm_s0", (1 + 8, 8 + 3, 8)),
    # layers: the stem's, bn1 and bn2 of 16 bottlenecks. affines: bn3, and 3 shortcuts (at this width the first stage
    # has the channels of the stem; at the usual one it has a shortcut too, see below).
    ("resnet50", {"channels": (16, 32, 64, 128)}, "evonorm_b0", (1 + 2 * 16, 16 + 3, 16)),
    # stem; 1 block (depthwise with ReLU6, projection without); 16 blocks (expansion and depthwise with, projection
    # without); head.
    ("mobilenetv2_050", {}, "evonorm_s0", (1 + 1 + 2 * 16 + 1, 1 + 16, 0)),
    # stem; 1 block; 15 blocks; head. left: the SiLU between the two convolutions of 16 squeeze-and-excitations;
    # their sigmoids are gates and no places.
    ("efficientnet_b0", {}, "evonorm_s0", (1 + 1 + 2 * 15 + 1, 1 + 15, 16)),
    # no norm has an activation behind it, so all are replaced: stem, 3 reductions, 5 blocks, head. left: the GELU of
    # 5 blocks.
    ("convnext_atto", CONVNEXT, "evonorm_s0", (1 + 3 + 5 + 1, 0, 5)),
    # norm1 and norm2 of 3 blocks, the last norm. left: the GELU of 3 blocks.
    ("vit_tiny_patch16_224", VIT, TOKEN, (2 * 3 + 1, 0, 3)),
]  # fmt: skip


def image(model: nn.Module) -> Tensor:
    size = 32 if isinstance(model, timm.models.VisionTransformer) else 64
    return torch.linspace(-1, 1, 2 * 3 * size * size).sin().reshape(2, 3, size, size)


def run(model: nn.Module) -> Tensor:
    out: Tensor = model(image(model))
    return out


FULL_RESNET_50 = pytest.param("resnet50", {}, "evonorm_s0", (33, 20, 16), marks=pytest.mark.slow, id="wide")


@pytest.mark.parametrize(
    ("name", "options", "layer", "expected"), [*(pytest.param(*c, id=c[0]) for c in CASES), FULL_RESNET_50]
)
def test_every_place_is_found_and_the_model_trains(
    name: str, options: dict[str, Any], layer: str, expected: tuple[int, int, int]
) -> None:
    model = timm.create_model(name, num_classes=10, **options)
    report = swap_and_check(model, layer, run)
    assert numbers(report) == expected
    assert "seen in a run" in report.found


def test_activations_left_in_a_resnet_follow_a_sum() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    report = evonas.swap(model, "evonorm_s0")
    assert {e.path.rsplit(".", 1)[-1] for e in report.left} == {"act2"}
    assert all(isinstance(m.act1, nn.Identity) for m in model.modules() if hasattr(m, "act2"))
    assert isinstance(model.act1, nn.Identity)


def test_norms_of_efficientnet_without_activation_are_those_of_projections() -> None:
    model = timm.create_model("efficientnet_b0", num_classes=10)
    report = evonas.swap(model, "evonorm_s0")
    affine = [e.path for e in report.replaced if e.by == "affine"]
    projections = [n.replace("conv_pwl", "bn3") for n, _ in model.named_modules() if n.endswith("conv_pwl")]
    assert sorted(affine) == sorted([*projections, "blocks.0.0.bn2"])


def test_channels_are_those_of_the_norms() -> None:
    model = timm.create_model("mobilenetv2_050", num_classes=10)
    before = {n: m.num_features for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    report = evonas.swap(model, "evonorm_s0")
    assert {e.path: e.channels for e in report.replaced} == before
    assert {n: m.channels for n, m in model.named_modules() if m in set(new_modules(model))} == before


def test_channels_last_norms_of_swin_see_images() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN)
    x = torch.randn(2, 3, 32, 32)
    report = evonas.swap(model, "evonorm_s0", groups=4, example=x)
    # (B, H, W, C): patch embedding, norm1 of 2 blocks, the reduction, the last norm. norm2 is given (B, T, C).
    assert Counter(e.by for e in report.replaced) == {"evonorm_s0 (on nchw by view last)": 1 + 2 + 1 + 1}
    tokens = {e.path: e.reason for e in report.left if e.kind == "norm"}
    assert list(tokens) == ["layers.0.blocks.0.norm2", "layers.1.blocks.0.norm2"]
    assert all(
        "index set [w,h,c/g] needs h, w, which tensors (B, T, C) do not have" in r for r in tokens.values()
    )
    assert model(x).isfinite().all()


def test_convnext_with_channels_last_norms() -> None:
    model = timm.create_model("convnext_atto", num_classes=10, conv_mlp=False, **CONVNEXT)
    report = evonas.swap(model, "evonorm_s0")
    views = Counter("view last" in e.by for e in report.replaced)
    assert views == {False: 1 + 3 + 1, True: 5}  # stem, reductions, head first; the norms of blocks last
    memory_format = torch.channels_last
    assert model(image(model).to(memory_format=memory_format)).isfinite().all()


def test_group_norm_act_in_one_module() -> None:
    model = timm.create_model("resnetv2_50", layers=(1, 1), channels=(16, 32), stem_chs=8, num_classes=10)
    report = evonas.swap(model, "evonorm_s0")
    assert {e.was for e in report.replaced if e.by != "affine"} == {"BatchNormAct2d + ReLU"}
    grouped = timm.models.ResNetV2(
        layers=(1, 1),
        channels=(64, 128),
        stem_chs=32,
        num_classes=10,
        norm_layer=partial(timm.layers.GroupNormAct, num_groups=8),
    )
    report = evonas.swap(grouped, "evonorm_s0")
    # pre-activation: three in each of 2 bottlenecks, and the last one
    assert [e.was for e in report.replaced] == ["GroupNormAct + ReLU"] * 7
    assert grouped(image(grouped)).isfinite().all()


def test_norm_alone_in_a_norm_act_module_keeps_the_activation() -> None:
    model = timm.create_model("mobilenetv2_050", num_classes=10)
    report = evonas.swap(model, "x / rms[w,h](x)", what="norm")
    assert report.counts == {"layers": 52, "affine": 0, "left": 0}
    kept = [m for m in model.modules() if isinstance(m, nn.ReLU6)]
    assert len(kept) == 35
    assert model.bn1(torch.randn(2, model.bn1.layer.channels, 4, 4)).min() >= 0


def test_assembly_goes_into_norms_and_activations_of_a_vit() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT)
    report = swap_and_check(model, "norm: x / rms[c](x); act: x * sigmoid(v1 * x)", run)
    assert Counter(e.kind for e in report.replaced) == {"norm": 7, "act": 3}
    acts = [m.mlp.act for m in model.blocks]
    assert all(isinstance(a, GraphLayer) and a.channels == 4 * 48 and a.weight is None for a in acts)
