"""How many bytes a plan moves, from what its kernels load and store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from evonas.kernels.plan import TENSORS, Launch, Plan

ACCUMULATOR = 4  # bytes of a float32, which everything else is held in


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one pass.

    swept: every sweep over a tensor counts. unique: every buffer counts once per kernel, the convention of
    Inductor's own count, in which a second sweep within one kernel is free (it is as far as caches hold the
    domain). tensor: bytes of x.
    """

    swept: int
    unique: int
    tensor: int
    kernels: int

    @property
    def swept_units(self) -> float:
        """``swept`` in sizes of x."""
        return self.swept / self.tensor

    @property
    def unique_units(self) -> float:
        """``unique`` in sizes of x."""
        return self.unique / self.tensor


def traffic(plan: Plan, itemsize: int, vectors: int = ACCUMULATOR) -> Traffic:
    """Bytes moved by a plan on tensors of ``itemsize`` bytes an element and parameters of ``vectors``.

    Vectors count once per kernel: they stay in the caches. Rows of vector gradients count as written once, and read
    once by the sum over them.
    """
    elements = prod(plan.sizes.values())
    swept = unique = 0
    for launch in plan.launches:
        for counts in (launch.kernel.reads, launch.kernel.writes):
            for pointer, times in counts.items():
                size = _bytes(plan, launch, pointer, elements, itemsize, vectors)
                is_tensor = launch.buffers[pointer] in TENSORS
                swept += size * (times if is_tensor else 1)
                unique += size
    rows = plan.buffers.get("rows")
    if rows is not None:
        summed = (rows.shape[0] * rows.shape[2] + prod(rows.shape)) * ACCUMULATOR
        swept, unique = swept + summed, unique + summed
    return Traffic(swept, unique, elements * itemsize, len(plan.launches) + (rows is not None))


def _bytes(plan: Plan, launch: Launch, pointer: str, elements: int, itemsize: int, vectors: int) -> int:
    name = launch.buffers[pointer]
    if name in TENSORS:
        return elements * itemsize
    if name in plan.given:
        return plan.given[name] * ACCUMULATOR
    if name in plan.buffers:
        return prod(plan.buffers[name].shape) * ACCUMULATOR
    return _vector(plan.sizes) * vectors


def _vector(sizes: Mapping[str, int]) -> int:
    return prod(n for a, n in sizes.items() if a in ("g", "k", "c"))
