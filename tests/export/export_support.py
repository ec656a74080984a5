"""Loading exported layers, and comparing modules."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
(GOLDEN,) = (ROOT / "runs" / "golden").iterdir()
_numbers = itertools.count()


def load(folder: Path) -> ModuleType:
    """The module of a bundle's layer.py, importable by its name as any other."""
    name = f"exported_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, folder / "layer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stir(module: nn.Module) -> nn.Module:
    """Other parameters than those that a module starts with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


def results(module: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output and all gradients by name; zero where the output does not depend on a parameter."""
    x = x.clone().requires_grad_()
    y = module(x)
    named = {"x": x, **dict(module.named_parameters())}
    found = torch.autograd.grad(y, list(named.values()), dy, allow_unused=True)
    gradients = {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)
    }
    return {"y": y.detach(), **gradients}


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to 1 + the largest value."""
    return float((found.double() - wanted.double()).abs().max() / (1 + wanted.double().abs().max()))
