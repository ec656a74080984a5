"""Holds a layer's kernels against the eager definition in float64, outputs and every gradient.

The reference is the graph run node by node by ``evonas.graph.execute`` in float64 and differentiated by autograd;
it shares neither the algebra nor the gradient definitions with the compiler.

What a layer does with the rounding of float32 is found in two ways, and the larger counts: by the eager path in
float32, which may be lucky, as a sum of equal numbers can be exact; and in float64 with all values and gradients of
nodes off by one part in 2**24, up or down by chance (Monte Carlo arithmetic, Parker 1997).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from evonas.kernels.axes import dim_sizes
from evonas.kernels.operator import encode, layer_forward
from evonas.kernels.programs import LayerSpec
from torch import Tensor

from evonas import primitives
from evonas.graph.execute import ArrayOps, forward
from evonas.graph.graph import INITIAL, literal
from evonas.graph.layout import IndexSet, Layout, get_layout

#: Largest error, in units of the largest value of the reference, by the tensors' dtype.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
#: A kernel may be off by this many times the error that rounding to float32 makes, where a layer cancels digits.
SLACK = 8.0
#: Larger errors of shaken values say nothing of rounding.
SHAKEN = 1e-2
#: Unit of errors where the largest wanted value is less, for outputs and for gradients, of which float32 leaves some
#: digits where two that are equal are subtracted.
LEAST, LEAST_GRADIENT = 1e-30, 1e-12


@dataclass(frozen=True)
class Check:
    """Errors of kernels, and of float32 itself (see the module), by output ("y", "dx", "dv0", ...), in units of the
    largest reference value.

    overflow: outputs of which some float64 value does not fit float32; they are not judged.
    """

    errors: Mapping[str, float]
    rounding: Mapping[str, float]
    overflow: tuple[str, ...]
    tolerance: float

    @property
    def strict(self) -> bool:
        """Whether every output is within the tolerance, no allowance made for ill-conditioned layers."""
        return all(e <= self.tolerance for e in self.errors.values())

    @property
    def failures(self) -> dict[str, float]:
        """Outputs that are further off than the tolerance and than rounding to float32 explains."""
        return {
            name: error
            for name, error in self.errors.items()
            if not error <= max(self.tolerance, SLACK * self.rounding[name])
        }


def verify(
    spec: LayerSpec,
    shape: tuple[int, ...],
    groups: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    x: Tensor | None = None,
) -> Check:
    """Run a layer's kernels once on random tensors and compare.

    Args:
        spec: training or without nodes over the batch.
        shape: of x, public order. groups: a divisor of the channels.
        dtype: of x and its gradient; parameters are float32.
        device: where kernels run: CUDA, or "cpu" with the interpreter.
        x: the input, instead of standard normal numbers.

    Raises:
        UsageError: a layer, dtype or device without kernels.
    """
    layout = get_layout(spec.layout)
    random = torch.Generator().manual_seed(seed)
    channels = shape[1] if spec.layout == "nchw" else shape[2]
    given = torch.randn(shape, generator=random) if x is None else x.float()
    form = torch.channels_last if spec.memory == "channels_last" else torch.contiguous_format
    inputs = {"x": given.to(dtype).contiguous(memory_format=form)}
    if spec.residual:
        inputs["residual"] = torch.randn(shape, generator=random).to(dtype).contiguous(memory_format=form)
    start = {**INITIAL, "weight": 1.0, "bias": 0.0}
    for name in spec.vectors:
        inputs[name] = start[name] + 0.5 * torch.randn(channels, generator=random)
    dy = torch.randn(shape, generator=random).to(dtype).contiguous(memory_format=form)
    found = _kernels(spec, inputs, dy, groups, torch.device(device))
    if spec.residual:
        # the layer sees the sum as the tensors' dtype holds it, and interpreters round in their own ways
        inputs["sum"] = found["sum"].cpu()
    wanted = _eager(spec, layout, inputs, dy, groups, torch.float64)
    rough = _eager(spec, layout, inputs, dy, groups, torch.float32)
    shaken = _eager(spec, layout, inputs, dy, groups, torch.float64, random)
    largest = torch.finfo(torch.float32).max
    overflow = tuple(n for n, t in wanted.items() if not bool((t.abs() <= largest).all()))
    judged = [n for n in wanted if n not in overflow]
    least = {n: LEAST_GRADIENT if n.startswith("d") else LEAST for n in wanted}
    return Check(
        {n: _error(found[n], wanted[n], least[n]) for n in judged},
        {
            n: max(_error(rough[n], wanted[n], least[n]), _rounding(shaken[n], wanted[n], least[n]))
            for n in judged
        },
        overflow,
        TOLERANCES[dtype],
    )


def _error(found: Tensor, wanted: Tensor, least: float = LEAST) -> float:
    """Largest difference over the largest wanted value; infinite for anything that is not finite."""
    scale = max(float(wanted.abs().max()), least)
    worst = float((found.double().cpu() - wanted).abs().max()) / scale
    return worst if math.isfinite(worst) else math.inf


def _rounding(shaken: Tensor, wanted: Tensor, least: float) -> float:
    """The error of shaken values, or none where that is no rounding: ties that chance decides, say."""
    far = _error(shaken, wanted, max(least, 1.0)) > SHAKEN  # gradients of outputs are of size one
    return 0.0 if far else _error(shaken, wanted, least)


def _shaken(value: Tensor, random: torch.Generator) -> Tensor:
    """Every element off by one part in 2**24, up or down by chance."""
    sign = torch.randint(0, 2, value.shape, generator=random, dtype=torch.float64) * 2 - 1
    return value * (1 + 2.0**-24 * sign)


class _Shaken(ArrayOps):
    """Results, and the gradients that arrive at them, are shaken; so is what moments are taken of, as a mean that is
    rounded moves all differences from it."""

    def __init__(self, xp: Any, layout: Layout, random: torch.Generator, *, eps: float) -> None:
        super().__init__(xp, layout, eps=eps)
        self.random = random

    def function(self, op: str, index: IndexSet | None = None) -> Callable[..., Any]:
        exact = super().function(op, index)

        def shaken(*args: Tensor) -> Tensor:
            if index is not None:
                args = tuple(_shaken(a, self.random) for a in args)
            result = _shaken(exact(*args), self.random)
            if result.requires_grad:
                result.register_hook(lambda g: _shaken(g, self.random))
            return result

        return shaken


def _eager(
    spec: LayerSpec,
    layout: Layout,
    inputs: Mapping[str, Tensor],
    dy: Tensor,
    groups: int,
    dtype: torch.dtype,
    shake: torch.Generator | None = None,
) -> dict[str, Tensor]:
    leaves = {n: t.detach().clone().to(dtype).requires_grad_() for n, t in inputs.items() if n != "sum"}
    result: dict[str, Tensor] = {}
    x = leaves["x"]
    total = x
    if spec.residual:
        total = x + leaves["residual"]
        result["sum"] = total.detach()
        total = total + (inputs["sum"].to(dtype) - total).detach()
    sizes = dim_sizes(spec.layout, tuple(x.shape), groups)
    split = total.reshape([sizes[d] for d in layout.dims])
    vector = [sizes[d] if d in ("g", "k") else 1 for d in layout.dims]
    ops = ArrayOps(primitives.torch_namespace(), layout, eps=spec.eps)
    if shake is not None:
        ops = _Shaken(primitives.torch_namespace(), layout, shake, eps=spec.eps)
    values = {"x": split, **{n: leaves[n].view(vector) for n in spec.vectors}}
    graph = spec.graph
    y = forward(graph, {n: values[n] for n in graph.leaves if literal(n) is None} | {"x": split}, ops)[
        graph.output
    ]
    y = y.expand(split.shape)
    if shake is not None:
        y, dy = _shaken(y, shake), _shaken(dy.double(), shake)
    if spec.affine:
        y = y * values["weight"] + values["bias"]
    y = y.reshape(x.shape)
    (y * dy.to(dtype)).sum().backward()
    result["y"] = y.detach()
    for name, leaf in leaves.items():
        grad = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        result[f"d{name}"] = grad.detach()
    return result


def _kernels(
    spec: LayerSpec, inputs: Mapping[str, Tensor], dy: Tensor, groups: int, device: torch.device
) -> dict[str, Tensor]:
    leaves = {name: t.detach().clone().to(device).requires_grad_() for name, t in inputs.items()}
    vectors = [leaves[n] for n in spec.vectors]
    y, *rest = layer_forward(leaves["x"], leaves.get("residual"), vectors, [], encode(spec), groups)
    y.backward(dy.to(device))
    result = {"y": y.detach()} | ({"sum": rest[0].detach()} if spec.residual else {})
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        result[f"d{name}"] = leaf.grad
    return result
