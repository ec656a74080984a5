"""Bundles that the tests read, made once; and timm, whose torchvision is built for CUDA while torch here may not be."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from export_support import GOLDEN, load

import evonas

#: Kept for as long as the process lives: operators go away with their library.
_LIBRARIES: list[torch.library.Library] = []


@pytest.fixture(scope="session")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the golden run's best layer."""
    return evonas.export(GOLDEN, out=tmp_path_factory.mktemp("bundles") / "best").path


@pytest.fixture(scope="session")
def batch_norm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a layer with running averages."""
    return evonas.export("bn_relu", out=tmp_path_factory.mktemp("bundles") / "bn").path


@pytest.fixture(scope="session")
def power_norm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a layer with state."""
    return evonas.export("power_norm", out=tmp_path_factory.mktemp("bundles") / "power").path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A layer over channels alone, which has both forms."""
    out = tmp_path_factory.mktemp("bundles") / "tokens"
    return load(evonas.export("x / rms[c](x)", out=out, name="rms_norm").path)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm."""
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
    import timm

    return timm
