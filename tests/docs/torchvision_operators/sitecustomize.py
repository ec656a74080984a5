"""On the path of the processes that read documentation: timm imports torchvision, whose wheel for CUDA registers no
operators beside a torch for the CPU. They are declared when somebody imports torchvision, and not before."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

_KEPT: list[Any] = []


class _Declare:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torchvision" and not _KEPT:
            import torch

            if not hasattr(torch.ops.torchvision, "nms"):
                library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _KEPT.append(library)
        return None


sys.meta_path.insert(0, _Declare())  # type: ignore[arg-type]
