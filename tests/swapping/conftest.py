"""timm and transformers import torchvision, whose wheel for CUDA registers no operators beside a torch for the CPU."""

from __future__ import annotations

import pytest
import torch

if not hasattr(torch.ops.torchvision, "nms"):
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
