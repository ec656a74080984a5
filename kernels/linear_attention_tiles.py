"""Tiles and segments of the kernels of linear attention. Needs neither torch nor triton.

Tiles were found by compiling for sm_80 and sm_90 and reading the binaries: the largest whose values stay in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from evonas.kernels.kernel_specs import PROCESSORS
from evonas.kernels.spec import parse_target

#: Head sizes that there are kernels for: multiples of STEP, which keeps rows aligned to 16 bytes in 16-bit dtypes.
SMALLEST, LARGEST, STEP = 16, 128, 8
#: Head sizes up to which the two gradients with reversed time share a sweep; above, registers spill.
PAIR_LARGEST = 64
#: Tokens of a segment at least: its state is then small beside its tokens.
SEGMENT = 1024


@dataclass(frozen=True)
class Device:
    """What launches are planned for.

    processors: multiprocessors. wgmma: matrix units that read shared memory (sm_90 and later for data centres);
    elsewhere operands go through registers, so that tiles are smaller. interpreted: not a device, but Triton's
    interpreter.
    """

    processors: int = 132
    wgmma: bool = True
    interpreted: bool = False

    @classmethod
    def of_target(cls, target: str) -> Device:
        """The usual device of a target, see ``evonas.kernels.spec.TARGETS``.

        Raises:
            UsageError: unknown target.
        """
        return cls(PROCESSORS[parse_target(target).name], target in ("sm_90", "sm_100"))


@dataclass(frozen=True)
class Tile:
    """chunk: tokens per step. columns: of the output per program, a power of two. features: that ``attend`` takes at a
    time; a head of more goes through in parts."""

    chunk: int
    columns: int
    warps: int
    stages: int
    features: int = 128

    def parts(self, inner: int) -> int:
        """In how many parts ``attend`` takes ``inner`` features."""
        return -(-inner // self.features) if padded(inner) > self.features else 1


def why_no_kernel(features: int, values: int, dtype: str) -> str | None:
    """Why kernels do not take heads of these sizes (D, E) in a dtype by torch's name; None if they do."""
    if dtype not in ("bfloat16", "float16", "float32"):
        return f"dtype {dtype} (kernels take float32, bfloat16 and float16)"
    for size in (features, values):
        if size % STEP or not SMALLEST <= size <= LARGEST:
            return f"a head size of {size} (kernels take multiples of {STEP} from {SMALLEST} to {LARGEST})"
    return None


def padded(size: int) -> int:
    """The power of two from 16 that holds a head."""
    return max(16, 1 << (size - 1).bit_length())


def attention_tile(inner: int, outer: int, dtype: str, device: Device) -> Tile:
    """Of ``attend`` with ``inner`` features and ``outer`` columns."""
    if dtype == "float32":  # three products of TF32, each of whose operands takes registers of its own
        return Tile(16, 32, 8, 1, features=64)
    masked = inner != padded(inner) or outer != padded(outer)  # masks take registers too
    if dtype == "float16" or (device.wgmma and masked):
        return Tile(32, min(padded(outer), 32), 8 if masked or not device.wgmma else 4, 2)
    if device.wgmma:
        return Tile(64, min(padded(outer), 64), 4, 2)
    narrow = masked and padded(inner) > 64
    return Tile(32, min(padded(outer), 32 if narrow else 64), 4, 2)


def pair_tile(inner: int, outer: int, dtype: str, device: Device) -> Tile | None:
    """Of ``attend_pair``, which holds (inner, outer) states whole; None where they do not fit."""
    if max(inner, outer) > PAIR_LARGEST or dtype != "bfloat16":
        return None
    if device.wgmma:
        return Tile(64, padded(outer), 4, 2)
    return Tile(32, padded(outer), 8 if max(padded(inner), padded(outer)) > 32 else 4, 2)


def segment_tokens(programs: int, tokens: int, chunk: int, device: Device) -> int:
    """Tokens per segment: all of them where ``programs`` keep at least half of the device busy; else as many segments
    of at least ``SEGMENT`` tokens as give every multiprocessor two programs."""
    if 2 * programs >= device.processors or tokens < 2 * SEGMENT:
        return tokens
    wanted = -(-2 * device.processors // programs)
    share = max(SEGMENT, -(-tokens // wanted))
    return min(tokens, -(-share // chunk) * chunk)
