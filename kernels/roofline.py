"""What a pass must cost: bytes over bandwidth, instructions over issue slots, special functions over their unit.

A kernel in bfloat16 can miss the bandwidth because it executes too many instructions per byte: all three are floors,
and the largest is the one that counts. Instructions come from offline compilation, so no device is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from evonas.kernels.offline import CompileReport
from evonas.kernels.plan import TENSORS, Launch, Plan
from evonas.kernels.spec import parse_target
from evonas.kernels.traffic import traffic

#: Threads of a multiprocessor that start an instruction in one clock, and special functions that it finishes.
ISSUE_LANES, MUFU_LANES = 128, 16
WIDE = 128  # bits


@dataclass(frozen=True)
class PassCost:
    """One pass of a layer as compiled.

    instructions, mufu: executed per element of x, all kernels together; 0 if they were not counted. registers: the
    largest. spill_bytes: per thread, the sum over kernels. shared_bytes: the largest. wide_loads: whether every kernel
    that reads a tensor of full size has 128-bit loads; None if not counted. cpu_seconds: to compile.
    """

    instructions: float
    mufu: float
    registers: int
    spill_bytes: int
    shared_bytes: int
    wide_loads: bool | None
    cpu_seconds: float
    kernels: int


def pass_cost(plan: Plan, reports: Sequence[CompileReport]) -> PassCost:
    """The cost of a plan; one report per launch, in order."""
    pairs = list(zip(plan.launches, reports, strict=True))
    executed = [executed_per_element(plan, launch, report) for launch, report in pairs]
    wide = [
        any(bits >= WIDE for bits in report.counts.total.loads)
        for launch, report in pairs
        if report.counts is not None and _reads_tensors(launch)
    ]
    return PassCost(
        sum(instructions for instructions, _ in executed),
        sum(mufu for _, mufu in executed),
        max(r.registers for r in reports),
        sum(r.spill_bytes for r in reports),
        max(r.shared_bytes for r in reports),
        all(wide) if wide else None,
        sum(r.cpu_seconds for r in reports),
        len(reports),
    )


def _reads_tensors(launch: Launch) -> bool:
    return any(launch.buffers[pointer] in TENSORS for pointer in launch.kernel.reads)


def executed_per_element(plan: Plan, launch: Launch, report: CompileReport) -> tuple[float, float]:
    """Thread instructions and special functions that one launch executes, per element of x.

    What stands outside of loops is executed once per program, loop bodies once per tile. A loop within a loop counts
    as one with it, so what surrounds the inner one is counted too often.
    """
    counts = report.counts
    if counts is None:
        return 0.0, 0.0
    threads = launch.programs * report.num_warps * parse_target(report.target).warp_size
    scale = threads / prod(plan.sizes.values())
    passes = tile_passes(launch) / counts.unroll
    instructions = counts.straight.instructions + passes * sum(b.instructions for b in counts.loops)
    mufu = counts.straight.mufu + passes * sum(b.mufu for b in counts.loops)
    return instructions * scale, mufu * scale


def tile_passes(launch: Launch) -> int:
    """Tiles that one program goes through."""
    tiling = launch.tiling
    if tiling is None:
        return 1
    swept = [tiling.blocks(a) for a in tiling.swept]
    if tiling.splits > 1:
        swept[0] = tiling.split_steps
    return tiling.steps * prod(swept)


@dataclass(frozen=True)
class Machine:
    """A device's rates. bandwidth: bytes a second of a copy. clock: Hz. processors: streaming multiprocessors."""

    name: str
    bandwidth: float
    clock: float
    processors: int


#: Datasheet clocks; bandwidths are those that copies reach, a little below the datasheet's.
MACHINES = {
    "A100": Machine("A100", 1.75e12, 1.41e9, 108),
    "H100": Machine("H100", 3.0e12, 1.755e9, 132),
    "H200": Machine("H200", 4.3e12, 1.755e9, 132),
}


@dataclass(frozen=True)
class Floor:
    """Seconds that a pass takes at least, by what limits it."""

    bandwidth: float
    issue: float
    special: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.bandwidth, self.issue, self.special)

    @property
    def limit(self) -> str:
        """ "bandwidth", "issue" or "special", whichever is the largest."""
        return max(("bandwidth", "issue", "special"), key=lambda name: float(getattr(self, name)))


def floor(plan: Plan, itemsize: int, cost: PassCost | None, machine: Machine) -> Floor:
    """The roofline of a plan. ``cost`` None: bytes alone. ``itemsize``: bytes of an element."""
    elements = prod(plan.sizes.values())
    rate = machine.processors * machine.clock
    instructions, mufu = (cost.instructions, cost.mufu) if cost else (0.0, 0.0)
    return Floor(
        traffic(plan, itemsize).unique / machine.bandwidth,
        instructions * elements / (rate * ISSUE_LANES),
        mufu * elements / (rate * MUFU_LANES),
    )
