"""Many different graphs on one probe in one launch, without compiling anything per graph.

``evaluate_batch`` runs the forward pass of each graph on the same small tensor; gradient graphs
(``evonas.graph.differentiate``) are graphs too, with the adjoint of the output as ``g``. ``CandidateBatch`` keeps
the programs on the device, for probes that apply the same candidates again and again.

Runs on CUDA, or on the CPU if ``TRITON_INTERPRET=1`` was set before triton was imported. Importing this imports
neither torch nor triton.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from evonas.kernels.vm_program import LEAVES, NOTHING, REGISTER_FILES, NotExpressible, compile_program, encode
from evonas.primitives import EPS

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph.graph import Graph
from evonas.graph.layout import get_layout

if TYPE_CHECKING:
    from torch import Tensor

#: Elements of the largest tile, padding included, by size of an element in bytes: 4 elements per thread, as
#: many threads as can have the registers that this takes.
TILE_LIMIT = {4: 2048, 8: 1024}
_PER_THREAD = 4


class BatchValues(NamedTuple):
    """values: (candidates, *shape of x), the dtype of x, NaN where a graph has no program. unexpressible: why,
    by position in the batch."""

    values: Tensor
    unexpressible: dict[int, str]


class Tile(NamedTuple):
    """sizes and strides of (batch, group, channel of a group, position), the padded sizes, warps."""

    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]
    warps: int


def make_tile(shape: Sequence[int], groups: int, layout: str, itemsize: int) -> Tile:
    """How a contiguous probe of that shape lies in the kernel.

    Args:
        shape: (batch, channels, height, width) or (batch, tokens, channels), by layout.
        groups: of channels.
        itemsize: bytes of an element, 4 or 8.

    Raises:
        UsageError: another number of axes, an empty axis, groups that do not divide the channels, or a padded
            probe above ``TILE_LIMIT``.
    """
    where = get_layout(layout)
    wanted = len(where.dims) - 1
    if len(shape) != wanted or min(shape) < 1:
        raise UsageError(f"a probe of shape {tuple(shape)} is not {where.shape}", hint="no axis may be empty")
    channels = shape[1] if where.name == "nchw" else shape[2]
    if groups < 1 or channels % groups:
        raise UsageError(
            f"{channels} channels do not split into {groups} groups", hint="give a divisor as groups"
        )
    k = channels // groups
    if where.name == "nchw":
        p = shape[2] * shape[3]
        sizes, strides = (shape[0], groups, k, p), (channels * p, k * p, p, 1)
    else:
        p = shape[1]
        sizes, strides = (shape[0], groups, k, p), (p * channels, k, 1, channels)
    b, g, kk, pp = (1 << (n - 1).bit_length() for n in sizes)
    elements, limit = b * g * kk * pp, TILE_LIMIT[itemsize]
    if elements > limit:
        raise UsageError(
            f"a probe of shape {tuple(shape)} takes a tile of {elements} elements, at most {limit} fit",
            hint="use a smaller batch, fewer channels or fewer positions; each axis counts as the next power of two",
        )
    warps = max(1, elements // (32 * _PER_THREAD))
    return Tile(sizes, strides, (b, g, kk, pp), warps)


def launch_options(tile: Tile) -> dict[str, Any]:
    """What Triton is told beside the arguments.

    The cap on registers is what the register file of an SM has for that many threads. Without one the assembler
    saves registers at the price of a few spills. Fusion is named because its default changes with Triton.
    """
    cap = min(255, 65536 // (32 * tile.warps))
    return {"num_warps": tile.warps, "maxnreg": cap, "enable_fp_fusion": True}


class CandidateBatch:
    """Programs of some graphs, to be run on any probe of the layout.

    Args:
        graphs: the candidates; one that is not expressible gives NaN.
        layout: "nchw" or "btc".
        eps: of the guards and moments.

    Attributes:
        unexpressible: reason by position in ``graphs``.
        registers: tile registers that the programs need, as the kernel is built: 4, 8 or 12.

    Raises:
        FormulaError: an index set that the layout does not have.
    """

    def __init__(self, graphs: Sequence[Graph], *, layout: str = "nchw", eps: float = EPS) -> None:
        where = get_layout(layout)
        self.layout = where.name
        self.unexpressible: dict[int, str] = {}
        programs = []
        for i, graph in enumerate(graphs):
            try:
                programs.append(compile_program(graph, where))
            except NotExpressible as error:
                self.unexpressible[i] = error.message
                programs.append(NOTHING)
        used = max((p.registers for p in programs), default=1)
        self.registers = next(size for size in REGISTER_FILES if used <= size)
        self._tables = encode(programs, eps)
        self._needs_g = any(op == 0 and a == LEAVES.index("g") for p in programs for op, _, a, _ in p.code)
        self._uploaded: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._tables[2])

    def run(self, x: Tensor, v0: Tensor, v1: Tensor, *, groups: int, g: Tensor | None = None) -> Tensor:
        """The output of every candidate, one launch.

        Args:
            x: float32 or float64, of the layout's shape, or with a leading axis of candidates.
            v0, v1: (channels,), dtype and device of x.
            groups: of channels, for c/g.
            g: adjoint of the output for gradient graphs, like x, with or without the axis of candidates.

        Returns:
            (candidates, *shape), dtype and device of x, contiguous, without autograd history.

        Raises:
            UsageError: another dtype, a shape that does not fit, a probe above the tile's limit, no g where a
                graph reads it, or a tensor on the CPU although there is a CUDA device.
            EnvironmentUnusable: no triton, or neither CUDA nor the interpreter.
        """
        import torch

        if x.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"the probe is {x.dtype}, the machine computes in float32 or float64", hint="x.float()"
            )
        axes = len(get_layout(self.layout).dims) - 1
        shape = tuple(x.shape[-axes:])
        tile = make_tile(shape, groups, self.layout, x.element_size())
        self._check("x", x, x, shape)
        channels = (tile.sizes[1] * tile.sizes[2],)
        for name, v in (("v0", v0), ("v1", v1)):
            self._check(name, v, x, channels, shared=True)
        if g is None:
            if self._needs_g:
                raise UsageError(
                    "a graph reads the adjoint g, but none is given", hint="pass g=, shaped like x"
                )
            g = x
        self._check("g", g, x, shape)
        kernel = _kernel(x)
        y = torch.empty((len(self), *shape), dtype=x.dtype, device=x.device)
        if not len(self):
            return y
        numel = math.prod(shape)
        code, constants, lengths = self._on(x)
        steps = [numel if a.ndim > axes else 0 for a in (x, g)]
        with torch.cuda.device_of(x):
            kernel[(len(self),)](
                y, x.detach().contiguous(), v0.detach().contiguous(), v1.detach().contiguous(),
                g.detach().contiguous(), code, constants, lengths, *tile.sizes, *tile.strides, *steps,
                code.shape[1], constants.shape[1], numel, *tile.padded, self.registers,
                **launch_options(tile),
            )  # fmt: skip
        return y

    def _check(
        self, name: str, given: Tensor, x: Tensor, shape: tuple[int, ...], shared: bool = False
    ) -> None:
        fits = tuple(given.shape) == shape or (not shared and tuple(given.shape) == (len(self), *shape))
        if not fits or given.dtype != x.dtype or given.device != x.device:
            also = "" if shared else f" or {(len(self), *shape)}"
            raise UsageError(
                f"{name} is {given.dtype} {tuple(given.shape)} on {given.device}, needed is {x.dtype} "
                f"{shape}{also} on {x.device}",
                hint=f"give {name} the dtype and device of x and that shape",
            )

    def _on(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tables where x is, constants in its dtype; kept for the next run."""
        import torch

        key = (x.device, x.dtype)
        if key not in self._uploaded:
            code, constants, lengths = (torch.from_numpy(table) for table in self._tables)
            self._uploaded[key] = (
                code.to(x.device),
                constants.to(device=x.device, dtype=x.dtype),
                lengths.to(x.device),
            )
        return self._uploaded[key]


def _kernel(x: Tensor) -> Any:
    """The kernel, if it can run where x is."""
    import torch

    try:
        import triton
        from evonas.kernels.vm_kernel import vm_forward
    except ModuleNotFoundError as error:
        raise EnvironmentUnusable(f"{error}", hint="pip install triton, or run the graphs eagerly") from None
    if isinstance(vm_forward, triton.JITFunction) and x.device.type != "cuda":
        if torch.cuda.is_available():
            raise UsageError(f"the probe is on {x.device}, the kernel runs on CUDA", hint="x.cuda()")
        raise EnvironmentUnusable(
            "no CUDA device to run the kernel on",
            hint="set TRITON_INTERPRET=1 before Python starts to interpret it on the CPU, or run the graphs eagerly",
        )
    return vm_forward


def evaluate_batch(
    graphs: Sequence[Graph],
    x: Tensor,
    v0: Tensor,
    v1: Tensor,
    *,
    groups: int,
    layout: str = "nchw",
    eps: float = EPS,
    g: Tensor | None = None,
) -> BatchValues:
    """The forward pass of every graph on one probe, in one launch; see ``CandidateBatch`` for the arguments."""
    batch = CandidateBatch(graphs, layout=layout, eps=eps)
    return BatchValues(batch.run(x, v0, v1, groups=groups, g=g), batch.unexpressible)
