"""The generated C of a layer on float32 CPU tensors: forward, backward, and both as one step of autograd.

Per call there are a handful of allocations and one foreign call; everything that depends on the layer or
on a shape alone is found once. Imports torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from evonas.kernels.axes import dim_sizes
from evonas.kernels.c_emit import CFunction, c_file, c_function
from evonas.kernels.c_runtime import compile_source, load_library
from evonas.kernels.lowering import passes
from evonas.kernels.programs import LayerSpec
from evonas.kernels.source_files import source_folder
from torch import Tensor

from evonas.errors import UsageError

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class _Sizes:
    """What a shape fixes. statistics: name -> (offset, shape) in one buffer of ``elements`` float32."""

    axes: tuple[int, ...]
    statistics: dict[str, tuple[int, tuple[int, ...]]]
    elements: int
    outputs: tuple[int, ...]
    saved: tuple[int, ...]


def functions(spec: LayerSpec, suffix: str = "") -> tuple[CFunction, CFunction]:
    """The C functions ``forward<suffix>`` and ``backward<suffix>`` of a layer.

    Raises:
        UsageError: a graph that cannot be lowered, or a layer with a residual, which there is no C for.
    """
    if spec.residual:
        raise UsageError("the C backend has no residual input", hint="add the tensors first")
    both = passes(spec, True)
    return (
        c_function(f"forward{suffix}", both.forward),
        c_function(f"backward{suffix}", both.backward, both.known),
    )


class CKernels:
    """A layer's two functions in a loaded library."""

    def __init__(
        self, spec: LayerSpec, library: ctypes.CDLL, forward: CFunction, backward: CFunction
    ) -> None:
        self.spec = spec
        self.format = _FORMATS[spec.memory]
        self.passes = passes(spec, True)
        self._forward, self._backward = _bind(library, forward), _bind(library, backward)
        self.vectors = spec.vectors
        #: names of what forward reads, after x and the vectors
        batch = sum(index is not None and "b" in index for _, (_, _, index) in spec.graph.operations())
        self.statistics = () if spec.training else tuple(f"statistic{n}" for n in range(batch))
        place = {name: n for n, name in enumerate(("x", "dy", *self.vectors, *self.statistics))}
        self._forward_inputs = tuple(place[name] for name in forward.inputs)
        saved = self.passes.saved
        #: a place among the tensors, or below zero among the saved statistics
        self._backward_inputs = tuple(
            place[name] if name in place else -1 - saved.index(name) for name in backward.inputs
        )
        self._found = tuple(name[1:] for name in backward.outputs[1:])
        self._positions = tuple(self.vectors.index(name) for name in self._found)
        self._sizes: dict[tuple[torch.Size, int], _Sizes] = {}

    def sizes(self, shape: torch.Size, groups: int) -> _Sizes:
        """What a shape fixes, found once.

        Raises:
            UsageError: see ``dim_sizes``; or an empty tensor.
        """
        known = self._sizes.get((shape, groups))
        if known is not None:
            return known
        program = self.passes.forward
        axes = program.axes.sizes(dim_sizes(self.spec.layout, tuple(shape), groups))
        if not prod(axes.values()):
            raise UsageError(
                f"a tensor of shape {tuple(shape)} is empty", hint="kernels need at least one element"
            )
        statistics: dict[str, tuple[int, tuple[int, ...]]] = {}
        elements = 0
        for name, value in program.statistics.items():
            varies = program.ir[value].varies
            kept = tuple(n for a, n in axes.items() if a in varies)
            statistics[name] = (elements, kept)
            elements += prod(kept)
        made = _Sizes(
            tuple(axes.values()),
            statistics,
            elements,
            tuple(4 * offset for offset, _ in statistics.values()),
            tuple(4 * statistics[name][0] for name in self.passes.saved),
        )
        self._sizes[shape, groups] = made
        return made

    def forward(self, x: Tensor, rest: Sequence[Tensor], groups: int) -> tuple[Tensor, Tensor]:
        """y, and one buffer with all statistics. rest: the vectors, then the statistics of an evaluation."""
        sizes = self.sizes(x.shape, groups)
        y, buffer = torch.empty_like(x), torch.empty(sizes.elements)
        tensors = (x, x, *rest)
        base = buffer.data_ptr()
        arguments = [tensors[n].data_ptr() for n in self._forward_inputs]
        arguments.append(y.data_ptr())
        arguments += [base + offset for offset in sizes.outputs]
        if self._forward(*arguments, *sizes.axes):
            raise MemoryError("a C kernel got no memory for its statistics")
        return y, buffer

    def backward(
        self, x: Tensor, dy: Tensor, rest: Sequence[Tensor], buffer: Tensor, groups: int
    ) -> tuple[Tensor, list[Tensor]]:
        """dx, and the gradients of the vectors. x and dy are alike in memory; buffer: of ``forward``."""
        sizes = self.sizes(x.shape, groups)
        dx = torch.empty_like(x)
        tensors = (x, dy, *rest)
        base = buffer.data_ptr()
        arguments = [
            tensors[n].data_ptr() if n >= 0 else base + sizes.saved[-1 - n] for n in self._backward_inputs
        ]
        found = [torch.empty_like(rest[n]) for n in self._positions]
        arguments.append(dx.data_ptr())
        arguments += [g.data_ptr() for g in found]
        if self._backward(*arguments, *sizes.axes):
            raise MemoryError("a C kernel got no memory for its sums")
        if len(found) == len(self.vectors):
            return dx, found
        given = dict(zip(self._found, found, strict=True))
        return dx, [
            given[name] if name in given else torch.zeros_like(rest[n]) for n, name in enumerate(self.vectors)
        ]

    def batch(self, x: Tensor, buffer: Tensor, groups: int) -> list[Tensor]:
        """The batch's statistics out of ``forward``'s buffer, axes in memory order."""
        sizes = self.sizes(x.shape, groups)
        return [self._view(buffer, sizes, name) for name in self.passes.batch]

    def saved(self, x: Tensor, buffer: Tensor, groups: int) -> dict[str, Tensor]:
        """What backward reads of ``forward``'s buffer."""
        sizes = self.sizes(x.shape, groups)
        return {name: self._view(buffer, sizes, name) for name in self.passes.saved}

    @staticmethod
    def _view(buffer: Tensor, sizes: _Sizes, name: str) -> Tensor:
        offset, shape = sizes.statistics[name]
        return buffer[offset : offset + prod(shape)].view(shape)


def _bind(library: ctypes.CDLL, function: CFunction) -> Any:
    found = getattr(library, function.name)
    pointers = len(function.inputs) + len(function.outputs)
    found.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_long] * len(function.sizes)
    found.restype = ctypes.c_int
    return found


@lru_cache(maxsize=4096)
def kernels(spec: LayerSpec) -> CKernels:
    """The compiled functions of a layer.

    Raises:
        UsageError: a graph that cannot be lowered, or a residual.
        EnvironmentUnusable: no compiler that works, or no folder to compile in.
    """
    forward, backward = functions(spec)
    text = c_file(f"{spec.formula}, {spec.layout}, {spec.memory}", [forward, backward])
    return CKernels(spec, load_library(compile_source(text, source_folder())), forward, backward)


def many_kernels(specs: Sequence[LayerSpec]) -> list[CKernels]:
    """The compiled functions of several layers, out of one file: one start of the compiler for all."""
    made = [functions(spec, str(n)) for n, spec in enumerate(specs)]
    text = c_file(f"{len(specs)} layers", [f for pair in made for f in pair])
    library = load_library(compile_source(text, source_folder()))
    return [CKernels(spec, library, *pair) for spec, pair in zip(specs, made, strict=True)]


def why_not(x: Tensor) -> str | None:
    """Why C kernels cannot run on a tensor; None if they can."""
    if x.dtype is not torch.float32:
        return f"dtype {x.dtype} (C kernels take float32)"
    if x.device.type != "cpu" or x.layout is not torch.strided:
        return f"a {x.layout} tensor on {x.device} (C kernels take dense CPU tensors)"
    return f"an empty tensor of shape {tuple(x.shape)}" if x.numel() == 0 else None


def _checked(spec: LayerSpec, x: Tensor, rest: Sequence[Tensor]) -> None:
    for tensor in (x, *rest):
        reason = why_not(tensor)
        if reason:
            raise UsageError(f"no C kernel for {reason}", hint="use backend='eager'")
    if spec.residual:
        raise UsageError("the C backend has no residual input", hint="add the tensors first")


def _ordered(spec: LayerSpec, vectors: Mapping[str, Tensor], statistics: Sequence[Tensor]) -> list[Tensor]:
    missing = [name for name in spec.vectors if name not in vectors]
    if missing:
        raise UsageError(f"the layer needs {missing[0]!r}", hint=f"give {', '.join(spec.vectors)}")
    return [t.contiguous() for t in (*[vectors[name] for name in spec.vectors], *statistics)]


def c_forward(
    spec: LayerSpec, x: Tensor, vectors: Mapping[str, Tensor], statistics: Sequence[Tensor], groups: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """One forward pass without autograd.

    Args:
        spec: ``memory`` says which memory order x is brought into.
        x: (B, C, H, W) or (B, T, C), float32 on the CPU.
        vectors: (C,) by name, float32: ``LayerSpec.vectors``.
        statistics: in evaluation, the values of the nodes over the batch in graph order, float32.
        groups: number of groups of channels, a divisor of C.

    Returns:
        y; what backward needs by name; the batch's statistics by name, axes in memory order.

    Raises:
        UsageError: another dtype or device, an empty tensor, a missing vector, a graph that cannot be lowered.
        EnvironmentUnusable: no C compiler.
    """
    rest = _ordered(spec, vectors, statistics)
    _checked(spec, x, rest)
    made = kernels(spec)
    x = x.contiguous(memory_format=made.format)
    y, buffer = made.forward(x, rest, groups)
    return (
        y,
        made.saved(x, buffer, groups),
        dict(zip(made.passes.batch, made.batch(x, buffer, groups), strict=True)),
    )


def c_backward(
    spec: LayerSpec,
    x: Tensor,
    dy: Tensor,
    vectors: Mapping[str, Tensor],
    statistics: Sequence[Tensor],
    saved: Mapping[str, Tensor],
    groups: int,
) -> dict[str, Tensor]:
    """One backward pass: the gradients by name, of ``x`` and of every vector.

    saved: of ``c_forward``; the rest as there.

    Raises:
        UsageError, EnvironmentUnusable: as ``c_forward``.
    """
    rest = _ordered(spec, vectors, statistics)
    _checked(spec, x, [dy, *rest])
    made = kernels(spec)
    x, dy = (t.contiguous(memory_format=made.format) for t in (x, dy))
    sizes = made.sizes(x.shape, groups)
    buffer = torch.empty(sizes.elements)
    for name in made.passes.saved:
        made._view(buffer, sizes, name).copy_(saved[name])
    dx, found = made.backward(x, dy, rest, buffer, groups)
    return {"x": dx, **dict(zip(made.vectors, found, strict=True))}


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, made: CKernels, groups: int, buffers: list[Tensor] | None, x: Tensor, *rest: Tensor
    ) -> Tensor:
        y, buffer = made.forward(x, rest, groups)
        ctx.made, ctx.groups = made, groups
        ctx.save_for_backward(x, buffer, *rest)
        if buffers is not None:
            buffers.append(buffer)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: a gradient of this would be silently wrong
            raise UsageError("C kernels have no second derivative", hint="use backend='eager' for it")
        made: CKernels = ctx.made
        x, buffer, *rest = ctx.saved_tensors
        dy = dy.contiguous(memory_format=made.format)
        dx, found = made.backward(x, dy, rest, buffer, ctx.groups)
        return (None, None, None, dx, *found, *(None for _ in made.statistics))


def c_layer(
    made: CKernels, groups: int, x: Tensor, rest: Sequence[Tensor], buffers: list[Tensor] | None = None
) -> Tensor:
    """A layer with gradients of first order; the fast way, without checks.

    Args:
        made: of ``kernels``. x: float32 on the CPU, in the memory order of ``made``.
        rest: contiguous float32 vectors in the order of ``made.vectors``, then the statistics of an evaluation.
        buffers: a list that the buffer with all statistics is added to, see ``CKernels.batch``.
    """
    if not torch.is_grad_enabled():
        y, buffer = made.forward(x, rest, groups)
        if buffers is not None:
            buffers.append(buffer)
        return y
    y = _Step.apply(made, groups, buffers, x, *rest)
    return y
