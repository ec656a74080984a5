"""How long a layer takes: a model that needs no device, and a timer for a device that is there.

The model is a roofline over the compiler's own plans. For a pass p (forward or backward) at one shape,

    t_p = max(bytes_p / copy bandwidth, elements * instructions_p / issue rate) + kernels_p * launch overhead

and a layer's latency is the sum of t_p over both passes and the reference shapes, in microseconds. ``bytes_p``
counts every sweep over a tensor (``Traffic.swept``); ``instructions_p`` counts what one element costs, see
``instructions``. It knows nothing of occupancy, of the caches that a second sweep may hit, or of the convolutions
around the layer, and it is a model: nothing may call it a measurement.

A graph that has no Triton lowering runs as separate operations; then bytes_p is what those read and write
(``Cost.bytes_eager``; twice that for backward, which reads the adjoint too and writes a gradient per argument), and
every operation is a launch, two in backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from evonas.errors import EnvironmentUnusable, EvonasError, unknown_name
from evonas.graph.cost import cost
from evonas.graph.graph import Graph
from evonas.graph.layout import get_layout

if TYPE_CHECKING:
    from evonas.kernels.programs import Program
    from torch import nn

#: Public shapes by layout. NCHW: the outputs of the first three stages of ResNet-50 at batch 128 (the fourth has an
#: eighth of the first one's bytes). BTC: 16,384 tokens of a small and of a large language model.
REFERENCE_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "nchw": ((128, 256, 56, 56), (128, 512, 28, 28), (128, 1024, 14, 14)),
    "btc": ((8, 2048, 1024), (8, 2048, 4096)),
}


@dataclass(frozen=True, slots=True)
class Device:
    """copy: bytes a second of a device-to-device copy, counting what is read and what is written. issue:
    instructions a second over all lanes. launch: seconds that a kernel takes to start."""

    copy: float
    issue: float
    launch: float = 2.5e-6


#: Practical figures: 4.3 of 4.8 TB/s and 3.0 of 3.35 TB/s; 132 processors of 128 lanes at 1.755 GHz.
DEVICES = {
    "h200": Device(4.3e12, 132 * 128 * 1.755e9),
    "h100": Device(3.0e12, 132 * 128 * 1.755e9),
}

#: Instructions of the cheap spelling of an operation where it is not one; counted from SASS for sm_90. A sign is free.
_INSTRUCTIONS = {
    "leaf": 2, "const": 0, "neg": 0, "div": 2, "recip": 2, "exp": 2, "log": 3, "sigmoid": 5, "tanh": 2, "erf": 28,
    "mean": 3, "var": 6,
}  # fmt: skip
_STORE, _TOTAL = 2, 1


class Measured(NamedTuple):
    """microseconds: forward and backward, summed over the shapes. source: on what and how it was measured."""

    microseconds: float
    source: str


def modelled_latency(
    graph: Graph,
    *,
    layout: str = "nchw",
    shapes: Sequence[tuple[int, ...]] | None = None,
    groups: int = 32,
    itemsize: int = 2,
    device: str = "h200",
) -> float:
    """Microseconds of forward and backward, summed over shapes, by the model above. Neither torch nor triton is needed.

    Args:
        graph: the layer, without the affine, which is added.
        layout: "nchw" or "btc".
        shapes: in the layout's public axis order; ``REFERENCE_SHAPES`` by default.
        groups: of index sets with c/g; must divide the channels.
        itemsize: bytes of an element of x; 2 for bfloat16.
        device: a key of ``DEVICES``.

    Raises:
        UsageError: an unknown layout or device, or groups that do not divide the channels.
    """
    if device not in DEVICES:
        raise unknown_name("device of the latency model", device, DEVICES)
    layout = get_layout(layout).name
    wanted = tuple(map(tuple, REFERENCE_SHAPES[layout] if shapes is None else shapes))
    return _modelled(str(graph.active()), layout, wanted, groups, itemsize, device)


def model_name(device: str) -> str:
    """What a value of ``modelled_latency`` is, in words; it stands wherever the value does."""
    return f"roofline model of an {device.upper()}, not measured"


@lru_cache(maxsize=16384)
def _modelled(
    formula: str, layout: str, shapes: tuple[tuple[int, ...], ...], groups: int, itemsize: int, device: str
) -> float:
    try:
        seconds = sum(_fused(formula, layout, s, groups, itemsize, DEVICES[device]) for s in shapes)
    except (
        EvonasError,
        AssertionError,
    ):  # no lowering, or a defect of the compiler: neither may end a search
        graph = Graph.parse(formula)
        seconds = sum(_eager(graph, layout, s, groups, itemsize, DEVICES[device]) for s in shapes)
    return 1e6 * seconds


def _fused(
    formula: str, layout: str, shape: tuple[int, ...], groups: int, itemsize: int, device: Device
) -> float:
    from evonas.kernels.lowering import passes, plans
    from evonas.kernels.programs import LayerSpec
    from evonas.kernels.traffic import traffic

    spec = LayerSpec(formula, layout=layout)
    made = plans(spec, shape, groups)
    programs = passes(spec, made.split_means)
    seconds = 0.0
    for plan, program in ((made.forward, programs.forward), (made.backward, programs.backward)):
        moved = traffic(plan, itemsize)
        issued = prod(shape) * instructions(program)
        seconds += max(moved.swept / device.copy, issued / device.issue) + moved.kernels * device.launch
    return seconds


def _eager(
    graph: Graph, layout: str, shape: tuple[int, ...], groups: int, itemsize: int, device: Device
) -> float:
    forward = cost(graph, shape, layout=layout, groups=groups, itemsize=itemsize).bytes_eager
    operations = len(graph.active()) + 2  # and the affine's two
    return 3 * (forward / device.copy + operations * device.launch)


def instructions(program: Program) -> int:
    """Instructions per element of x of one pass, loads, stores and reductions included.

    Counted over the values that vary over all axes, with the costs that single operations have in compiled kernels.
    Against whole compiled kernels for sm_90 (forward / backward): LayerNorm 17 / 33 for 16 / 30, RMSNorm-SiLU 17 / 34
    for 16 / 33, EvoNorm-S0 22 / 44 for 24 / 48, GN-SiLU 23 / 44 for 23 / 43. A second sweep is not counted twice.
    """
    ir, everywhere = program.ir, frozenset(program.axes.names)
    count = _STORE * len(program.tensors) + _TOTAL * len(program.totals)
    for i in ir.reachable(program.roots):
        value = ir[i]
        varies = ir[value.args[0]].varies if value.over else value.varies
        if varies == everywhere:
            count += _INSTRUCTIONS.get(value.op, 1)
    return count


def measured_latency(
    make_module: Callable[[int], nn.Module],
    *,
    layout: str = "nchw",
    shapes: Sequence[tuple[int, ...]] | None = None,
    device: str = "cuda",
    repeats: int = 30,
) -> Measured:
    """Microseconds of forward and backward in training mode on bfloat16, summed over shapes, measured on a GPU.

    Per shape and pass the median of ``repeats`` timings between CUDA events. Before each, a buffer of 256 MB is
    overwritten: it flushes the L2 cache, and eight times it is work enough for the CPU to queue the kernels ahead.
    The GPU must do nothing else meanwhile.

    Args:
        make_module: a fresh module for a number of channels, on that device.

    Raises:
        EnvironmentUnusable: torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentUnusable(
            f"latency cannot be measured: torch {torch.__version__} sees no GPU",
            hint="use the model: search.latency = h200",
        )
    layout = get_layout(layout).name
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)

    def timed(call: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(8):
            flush.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return 1e3 * float(begin.elapsed_time(end))

    total = 0.0
    with torch.cuda.device(device):
        for shape in REFERENCE_SHAPES[layout] if shapes is None else shapes:
            module = make_module(shape[1] if layout == "nchw" else shape[2]).train()
            x = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
            dy = torch.randn_like(x)
            wanted = [x, *module.parameters()]
            passes: list[tuple[float, float]] = []
            for _ in range(repeats + 3):  # the first ones compile and warm up
                out: list[torch.Tensor] = []
                forward = timed(lambda: out.append(module(x)))  # noqa: B023
                backward = timed(lambda: torch.autograd.grad(out, wanted, [dy], allow_unused=True))  # noqa: B023
                passes.append((forward, backward))
            total += sum(median(column) for column in zip(*passes[3:], strict=True))
        name = torch.cuda.get_device_name()
    return Measured(total, f"measured on {name}, median of {repeats}")
