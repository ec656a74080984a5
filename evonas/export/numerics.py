"""What an exported layer does to numbers, measured when it is written: errors by dtype, range, gradients, time."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

import evonas
from evonas.errors import EvonasError
from evonas.export.self_test import CHANNELS, GROUPS, SHAPES
from evonas.kernels.latency import REFERENCE_SHAPES, model_name, modelled_latency
from evonas.layers.layer import Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Timed on the CPU: small, so that an export stays quick.
TIMED = {"nchw": (16, 64, 28, 28), "btc": (8, 256, 256)}


@dataclass(frozen=True)
class Numerics:
    """errors: dtype -> largest error of the output against float64, in units of the largest value. evonas: the same
    of outputs and gradients against the module of evonas in float32, NaN if one is. scales: factor on x -> whether
    all is finite. gradcheck: largest difference to finite differences in float64, relative; None if it could not be
    taken. derivative: whether the gradient is meant to be the derivative."""

    errors: dict[str, float]
    evonas: float
    scales: dict[str, bool]
    gradcheck: float | None
    largest: float
    derivative: bool = True


def measure(layer: Layer, make: Callable[..., nn.Module], grouped: bool, eps: float) -> Numerics:
    """Numbers of the exported class ``make`` beside the module of evonas; a few small tensors, on the CPU."""
    import torch

    shape = SHAPES[layer.layout]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4 * shape[0], *shape[1:]), generator=generator, dtype=torch.float64)
    dy = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {"eps": eps, **({"groups": GROUPS} if grouped else {})}

    def fresh() -> nn.Module:
        return make(CHANNELS, **options)

    exact, _ = _both(fresh().double(), x, dy)
    largest = float(exact.abs().max())
    errors = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        y, _ = _both(fresh(), x.to(dtype), dy.to(dtype))
        errors[str(dtype).removeprefix("torch.")] = _off(y, exact)
    reference = layer.module(CHANNELS, backend="eager", groups=GROUPS, eps=eps)
    found = _both(fresh(), x.float(), dy.float())
    wanted = _both(reference, x.float(), dy.float())
    pairs = zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True)
    off = max((_off(a, b) for a, b in pairs), key=lambda value: math.inf if math.isnan(value) else value)
    scales = {}
    for scale in (1e-4, 1e2, 1e4):
        y, gradients = _both(fresh(), (scale * x).float(), dy.float())
        scales[f"{scale:g}"] = all(bool(t.isfinite().all()) for t in (y, *gradients))
    derivative = layer.contract is None or layer.contract.derivative
    differences = None
    if not layer.stateful or derivative:
        differences = _differences(fresh().double().train(not layer.stateful), x[:2], dy[:2])
    return Numerics(errors, off, scales, differences, largest, derivative)


def _both(module: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    import torch

    x = x.clone().requires_grad_()
    y = module(x)
    named = dict(sorted(module.named_parameters()))
    found = torch.autograd.grad(y, [x, *named.values()], dy, allow_unused=True)
    return y.detach(), [torch.zeros(()) if g is None else g for g in found]


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    wanted = wanted.double()
    return float((found.double() - wanted).abs().max() / (1 + wanted.abs().max()))


def _differences(module: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> float | None:
    """The directional derivative against a central difference."""
    import torch

    _, gradients = _both(module, x, dy)
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    with torch.no_grad():
        moved = ((module(x + step) - module(x - step)) * dy).sum() / 2
    expected = (gradients[0] * step).sum()
    if not (moved.isfinite() and expected.isfinite()):
        return None
    return float((moved - expected).abs() / (1e-6 * (1 + dy.norm() * gradients[0].norm())))


def latency(layer: Layer, make: Callable[..., nn.Module]) -> dict[str, Any]:
    """Time of forward and backward: the model for a GPU that is not here, and a measurement on this machine's CPU."""
    import torch

    rows: list[dict[str, Any]] = []
    for device in ("h200", "h100"):
        try:
            value = modelled_latency(layer.graph, layout=layer.layout, device=device)
        except EvonasError:
            continue
        shapes = ", ".join("x".join(map(str, s)) for s in REFERENCE_SHAPES[layer.layout])
        rows.append(
            {"what": model_name(device), "shape": shapes + " (summed)", "dtype": "bfloat16", "us": value}
        )
    shape = TIMED[layer.layout]
    channels = shape[1] if layer.layout == "nchw" else shape[-1]
    module = make(channels)
    x = torch.randn(shape, requires_grad=True)
    dy = torch.randn(shape)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        torch.autograd.grad(module(x), x, dy, allow_unused=True)
        times.append(1e6 * (time.perf_counter() - start))
    threads = torch.get_num_threads()
    rows.append(
        {"what": f"measured, eager, CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})",
         "shape": "x".join(map(str, shape)), "dtype": "float32", "us": median(times[2:])}
    )  # fmt: skip
    versions = {"evonas": evonas.__version__, "torch": torch.__version__, "triton": _triton(),
                "python": platform.python_version()}  # fmt: skip
    return {"rows": rows, "versions": versions}


def _triton() -> str | None:
    """The version that generated kernels would be compiled with here."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None
