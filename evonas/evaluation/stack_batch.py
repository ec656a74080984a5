"""The stack of the numeric probe for many candidates at once, on a GPU: who certainly passes it.

The verdicts stay numpy's. This run only clears candidates whose every number is ``MARGIN`` times better than the limit
that it is held against; all others, and those without a program, go through ``screening.stack_probe`` as ever, which
finds the reason and the numbers that are logged. Both compute in float64 and differ in the order of sums, by about
1e-15 of a value and 1e-10 at the bottom of a stack that still passes, so a margin of ten leaves no doubt: decisions,
and with them the log, are those of a machine without a GPU, where a replay verifies them.

Importing this imports neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evonas.errors import EvonasError
from evonas.evaluation.screening import ScreeningOptions, probe_stack
from evonas.graph.autodiff import differentiate
from evonas.graph.graph import Graph
from evonas.graph.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from evonas.kernels.vm import CandidateBatch

#: How many times better than its limit a number must be.
MARGIN = 10.0
#: Groups of the stack's channels.
GROUPS = 2


def make_ahead(
    layout: Layout, options: ScreeningOptions, device: str
) -> Callable[[Sequence[Graph]], list[bool]] | None:
    """``surely_pass`` for the candidates of a search on that device; None where there is nothing to gain or to run it.

    Args:
        device: cuda or cuda:<n>; on a CPU, numpy is as fast.
    """
    if not device.startswith("cuda") or not (options.probe and options.stack):
        return None
    try:
        import torch
        import triton  # noqa: F401
    except ImportError:
        return None
    if not torch.cuda.is_available():  # the slots are elsewhere
        return None
    return lambda graphs: surely_pass(graphs, layout, options, device)


def surely_pass(
    graphs: Sequence[Graph], layout: Layout, options: ScreeningOptions, device: str = "cuda"
) -> list[bool]:
    """Which candidates pass ``screening.stack_probe`` with room to spare.

    Args:
        graphs: active graphs of the layout.
        device: CUDA, or "cpu" where triton interprets.

    Raises:
        UsageError, EnvironmentUnusable: no kernels on the device.
    """
    from evonas.kernels.vm import CandidateBatch
    from evonas.kernels.vm_program import NotExpressible, compile_program

    pairs: list[tuple[int, Graph, Graph]] = []
    for n, graph in enumerate(graphs):
        try:
            gradient = differentiate(graph).get("x")
            if gradient is None:
                continue  # nothing comes back: numpy says so with the numbers
            for one in (graph, gradient):
                compile_program(one, layout)
        except NotExpressible:
            continue
        except EvonasError:
            continue  # a primitive without a gradient of graphs
        pairs.append((n, graph, gradient))
    found = [False] * len(graphs)
    if not pairs:
        return found
    forward = CandidateBatch([graph for _, graph, _ in pairs], layout=layout.name)
    backward = CandidateBatch([gradient for *_, gradient in pairs], layout=layout.name)
    cleared = _propagate(forward, backward, layout, options, 1.0, device)
    if options.stack_gain != 1.0:
        cleared &= _propagate(forward, backward, layout, options, options.stack_gain, device)
    for (n, *_), clear in zip(pairs, cleared.tolist(), strict=True):
        found[n] = bool(clear)
    return found


def _propagate(
    forward: CandidateBatch,
    backward: CandidateBatch,
    layout: Layout,
    options: ScreeningOptions,
    gain: float,
    device: str,
) -> Tensor:
    """One boolean per candidate; what is not finite compares as false."""
    import torch

    arrays = probe_stack(layout.name, options.stack)
    x0, g0, mixings = (torch.from_numpy(a).to(device) for a in arrays)
    channels = mixings.shape[-1]
    axis = 1 if layout.name == "nchw" else 2
    shape = _public(tuple(x0.shape), axis, channels)
    others = [d for d in range(len(shape) + 1) if d not in (0, axis + 1)]
    every = list(range(1, len(shape) + 1))
    v0 = torch.zeros(channels, dtype=torch.float64, device=device)
    v1 = torch.ones(channels, dtype=torch.float64, device=device)
    count = len(forward)
    x, g = (a.reshape(shape).expand(count, *shape) for a in (x0, g0))
    clear = torch.ones(count, dtype=torch.bool, device=device)
    inputs = []
    for mixing in mixings:
        inputs.append(gain * _mix(x, mixing, axis + 1))
        x = forward.run(inputs[-1], v0, v1, groups=GROUPS)
        total = x.square().mean(every)
        between = x.var(others, correction=0).mean(1)
        clear &= x.abs().amax(every) * MARGIN < options.stack_limit
        clear &= (total > 1e-30 * MARGIN) & (between > MARGIN * options.stack_collapse * total)
    start = g0.square().mean()
    growth = torch.ones(count, dtype=torch.float64, device=device)
    for mixing, given in zip(mixings.flip(0), reversed(inputs), strict=True):
        g = gain * _mix(backward.run(given, v0, v1, groups=GROUPS, g=g), mixing.T, axis + 1)
        growth = (g.square().mean(every) / start).sqrt()
        clear &= growth * MARGIN < options.gradient_limit
    return clear & (growth > MARGIN * options.gradient_collapse)


def _public(split: tuple[int, ...], axis: int, channels: int) -> tuple[int, ...]:
    """The layout's shape from that of the view with groups."""
    return (*split[:axis], channels, *split[axis + 2 :])


def _mix(a: Tensor, mixing: Tensor, axis: int) -> Tensor:
    """A 1x1 convolution."""
    return (a.movedim(axis, -1) @ mixing).movedim(-1, axis).contiguous()
