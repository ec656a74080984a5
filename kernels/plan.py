"""What a planner makes: kernels in order, what each is called with, and the memory that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evonas.kernels.emit import KernelText
from evonas.kernels.tiling import Tiling

#: Buffers of the size of x, in the dtype of x.
TENSORS = ("x", "residual", "dy", "dsum", "y", "sum", "dx")


@dataclass(frozen=True)
class Buffer:
    """Memory that a plan needs beside its inputs: float32 (or int32), ``zeroed`` if it has to start at zero."""

    shape: tuple[int, ...]
    zeroed: bool = False
    integer: bool = False


@dataclass(frozen=True)
class Launch:
    """One kernel and what it is called with.

    tensors: buffer per pointer argument; numbers: per scalar argument. registers: that a thread may have, where the
    compiler must be told: where neighbours in memory are not a program's own domain, it saves registers at the
    price of a few spills.
    """

    kernel: KernelText
    tensors: tuple[str, ...]
    numbers: Mapping[str, int | float] = field(hash=False)
    blocks: Mapping[str, int] = field(hash=False)
    programs: int
    warps: int
    tiling: Tiling | None
    stages: int = 1
    registers: int | None = None

    @property
    def buffers(self) -> Mapping[str, str]:
        """The buffer that each pointer argument is called with."""
        return dict(zip(self.kernel.pointers, self.tensors, strict=True))

    @property
    def cooperative(self) -> bool:
        """Whether all programs have to run at once."""
        return self.tiling is not None and self.tiling.team is not None


def launch_options(launch: Launch) -> dict[str, int | bool]:
    """Options of Triton beside warps and stages."""
    options: dict[str, int | bool] = {"launch_cooperative_grid": True} if launch.cooperative else {}
    return options if launch.registers is None else options | {"maxnreg": launch.registers}


@dataclass(frozen=True)
class Plan:
    """Launches in order; buffers by name; and where the vector gradients end up.

    vectors: name -> (buffer, row) for gradients that are sums over the rows of [n, rows, channels] buffers; the
    others are statistics buffers of their own name. given: elements of each statistic that is an input.
    """

    launches: tuple[Launch, ...]
    buffers: Mapping[str, Buffer]
    vectors: Mapping[str, tuple[str, int]]
    sizes: Mapping[str, int]
    given: Mapping[str, int] = field(default_factory=dict)

    @property
    def resident(self) -> bool:
        """Whether one kernel does it all, with the domain of its reductions in registers."""
        return (
            len(self.launches) == 1
            and self.launches[0].tiling is not None
            and not self.launches[0].tiling.swept
        )


def sweeps(made: Plan) -> int:
    """How often kernels go through tensors of the size of x."""
    return sum(
        times
        for launch in made.launches
        for counts in (launch.kernel.reads, launch.kernel.writes)
        for pointer, times in counts.items()
        if launch.buffers[pointer] in TENSORS
    )
