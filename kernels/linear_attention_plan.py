"""Which kernels linear attention takes: tiles, segments, launches, bytes. Needs neither torch nor triton.

The launches of ``attention_calls`` and ``pair_calls`` are what the operator runs and what is compiled ahead for a
device that is not here: tensors are anything with ``shape``, ``stride()``, ``dtype`` and ``data_ptr()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonas.kernels.kernel_specs import PROCESSORS
from evonas.kernels.spec import KernelSpec, parse_target, spec_from_call

SOURCE = Path(__file__).with_name("linear_attention_triton.py")
#: Head sizes that there are kernels for: multiples of STEP, which keeps rows aligned to 16 bytes in 16-bit dtypes.
SMALLEST, LARGEST, STEP = 16, 128, 8
#: Head sizes up to which the two gradients with reversed time share a sweep; above, registers spill.
PAIR_LARGEST = 64
#: Tokens of a segment at least: its state is then small beside its tokens.
SEGMENT = 1024
_CARRY_BLOCK = 1024
_STATE_BYTES = 4

Allocate = Callable[[tuple[int, ...]], Any]


@dataclass(frozen=True)
class Device:
    """What launches are planned for. processors: multiprocessors. wgmma: matrix units that read shared memory (sm_90
    and later for data centres); elsewhere operands go through registers, so that tiles are smaller.
    interpreted: not a device, but Triton's interpreter."""

    processors: int = 132
    wgmma: bool = True
    interpreted: bool = False

    @classmethod
    def of_target(cls, target: str) -> Device:
        """The usual device of a target, see ``evonas.kernels.spec.TARGETS``."""
        return cls(PROCESSORS[parse_target(target).name], target in ("sm_90", "sm_100"))


@dataclass(frozen=True)
class Tile:
    """chunk: tokens per step. columns: of the output per program, a power of two."""

    chunk: int
    columns: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Call:
    """One launch of a kernel.

    arguments: in order, tensors and numbers. constants: names of those that are compile-time constants. moved:
    bytes that each tensor contributes, each sweep over it counted (``swept``) or the kernel's first alone.
    """

    function: str
    grid: tuple[int, int]
    arguments: Mapping[str, Any]
    constants: Sequence[str]
    warps: int
    stages: int
    swept: Mapping[str, int] = field(default_factory=dict)
    unique: Mapping[str, int] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the launch, those of ``KernelSpec.launch_options``."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def spec(self) -> KernelSpec:
        """For compiling it ahead, see ``evonas.kernels.offline``."""
        return spec_from_call(
            SOURCE,
            self.function,
            self.arguments,
            self.constants,
            num_warps=self.warps,
            num_stages=self.stages,
        )


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
    """Of ``attend`` with (inner, outer) states; found by compiling: the largest that do not spill."""
    if dtype == "float32":
        return Tile(16, 16, 4, 1)
    if dtype == "float16":
        return Tile(32, min(padded(outer), 32), 4, 2)
    return Tile(64 if device.wgmma else 32, min(padded(outer), 64), 4, 2)


def pair_tile(inner: int, outer: int, dtype: str, device: Device) -> Tile | None:
    """Of ``attend_pair``, None where its state does not fit; found as ``attention_tile``."""
    if max(inner, outer) > PAIR_LARGEST or dtype != "bfloat16":
        return None
    return Tile(64, padded(outer), 4, 2) if device.wgmma else Tile(32, padded(outer), 8, 2)


def segment_tokens(programs: int, tokens: int, chunk: int, processors: int) -> int:
    """Tokens per segment: all of them if ``programs`` fill the device, else as many segments as fill it twice."""
    if programs >= processors or tokens < 2 * SEGMENT:
        return tokens
    wanted = -(-2 * processors // programs)
    shares = max(SEGMENT, -(-tokens // wanted))
    return min(tokens, -(-shares // chunk) * chunk)


def attention_calls(
    a: Any, b: Any, c: Any, out: Any, rate: Any, allocate: Allocate, *, reverse: bool, device: Device
) -> list[Call]:
    """Launches of out = LA(a, b, c), in order (see ``linear_attention_triton``).

    Args:
        a, b: (B, H, T, N); c, out: (B, H, T, M); the last axis contiguous; no size 0. rate: (H,) float32.
        allocate: makes a float32 tensor of a shape, for the states between segments.
        reverse: sum over later tokens instead of earlier ones.
    """
    batch, heads, tokens, inner = a.shape
    outer = c.shape[-1]
    tile = attention_tile(inner, outer, _dtype(a), device)
    blocks = -(-outer // tile.columns)
    programs = batch * heads * blocks
    segment = segment_tokens(programs, tokens, tile.chunk, device.processors)
    sizes = {"N": inner, "M": outer, "BLOCK_N": padded(inner), "BLOCK_M": tile.columns, "CHUNK": tile.chunk}
    calls, state = _states(b, c, rate, allocate, tile, segment, sizes, reverse, device)
    arguments = {
        "a_ptr": a, "b_ptr": b, "c_ptr": c, "out_ptr": out, "rate_ptr": rate,
        "state_ptr": rate if state is None else state,
        "heads": heads, "tokens": tokens, "segment": segment,
        **_strides(a=a, b=b, c=c, out=out), **_state_strides(state),
    }  # fmt: skip
    constants = {
        **sizes,
        "REVERSE": reverse,
        "OUTPUT": True,
        "CARRIED": state is not None,
        **_numerics(_dtype(a), device),
    }
    swept = {"a": blocks * _bytes(a), "b": blocks * _bytes(b), "c": _bytes(c), "out": _bytes(out)}
    unique = {"a": _bytes(a), "b": _bytes(b), "c": _bytes(c), "out": _bytes(out)}
    grid = (programs, -(-tokens // segment))
    held = {} if state is None else {"state": _bytes(state)}
    calls.append(
        Call("attend", grid, arguments | constants, tuple(constants), tile.warps, tile.stages, swept | held,
             unique | held)
    )  # fmt: skip
    return calls


def pair_calls(
    a: Any,
    b: Any,
    c: Any,
    g: Any,
    db: Any,
    dc: Any,
    rate: Any,
    allocate: Allocate,
    *,
    reverse: bool,
    device: Device,
) -> list[Call]:
    """Launches of dc = LA(b, a, g) and db = LA(c, g, a) in one sweep, where ``pair_tile`` is not None.

    Args:
        a, b, db: (B, H, T, N); c, g, dc: (B, H, T, M); the others as in ``attention_calls``.
    """
    batch, heads, tokens, inner = a.shape
    outer = c.shape[-1]
    tile = pair_tile(inner, outer, _dtype(a), device)
    assert tile is not None
    segment = segment_tokens(batch * heads, tokens, tile.chunk, device.processors)
    sizes = {"N": inner, "M": outer, "BLOCK_N": padded(inner), "BLOCK_M": tile.columns, "CHUNK": tile.chunk}
    calls, state = _states(a, g, rate, allocate, tile, segment, sizes, reverse, device)
    tensors = {"a": a, "b": b, "c": c, "g": g, "db": db, "dc": dc}
    arguments = {
        **{f"{name}_ptr": t for name, t in tensors.items()}, "rate_ptr": rate,
        "state_ptr": rate if state is None else state,
        "heads": heads, "tokens": tokens, "segment": segment,
        **_strides(**tensors), **_state_strides(state),
    }  # fmt: skip
    constants = {**sizes, "REVERSE": reverse, "CARRIED": state is not None, **_numerics(_dtype(a), device)}
    moved = {name: _bytes(t) for name, t in tensors.items()}
    if state is not None:
        moved["state"] = _bytes(state)
    grid = (batch * heads, -(-tokens // segment))
    calls.append(
        Call(
            "attend_pair",
            grid,
            arguments | constants,
            tuple(constants),
            tile.warps,
            tile.stages,
            moved,
            moved,
        )
    )
    return calls


def _states(
    b: Any,
    c: Any,
    rate: Any,
    allocate: Allocate,
    tile: Tile,
    segment: int,
    sizes: Mapping[str, int],
    reverse: bool,
    device: Device,
) -> tuple[list[Call], Any]:
    """Launches that find the state with which each segment begins, and its tensor; none for a single segment."""
    batch, heads, tokens, inner = b.shape
    outer = c.shape[-1]
    segments = -(-tokens // segment)
    if segments == 1:
        return [], None
    state = allocate((batch * heads, segments, inner, outer))
    blocks = -(-outer // tile.columns)
    arguments = {
        "a_ptr": b, "b_ptr": b, "c_ptr": c, "out_ptr": c, "rate_ptr": rate, "state_ptr": state,
        "heads": heads, "tokens": tokens, "segment": segment,
        **_strides(a=b, b=b, c=c, out=c), **_state_strides(state),
    }  # fmt: skip
    constants = {
        **sizes,
        "REVERSE": reverse,
        "OUTPUT": False,
        "CARRIED": False,
        **_numerics(_dtype(b), device),
    }
    swept = {"b": blocks * _bytes(b), "c": _bytes(c), "state": _bytes(state)}
    unique = {"b": _bytes(b), "c": _bytes(c), "state": _bytes(state)}
    grid = (batch * heads * blocks, segments)
    find = Call(
        "attend", grid, arguments | constants, tuple(constants), tile.warps, tile.stages, swept, unique
    )
    size = inner * outer
    numbers = {
        "state_ptr": state, "rate_ptr": rate, "heads": heads, "segments": segments, "segment": segment, "size": size,
        "state_head": state.stride()[0], "state_segment": state.stride()[1],
    }  # fmt: skip
    options = {"BLOCK": _CARRY_BLOCK, "REVERSE": reverse}
    both = {"state": 2 * _bytes(state)}
    grid = (batch * heads, -(-size // _CARRY_BLOCK))
    return [find, Call("carry", grid, numbers | options, tuple(options), 4, 1, both, both)], state


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _numerics(dtype: str, device: Device) -> dict[str, Any]:
    """float16: sums leave its range, so they meet it in TF32, which has its precision. float32: three TF32 products."""
    operands = {"float16": "wide", "bfloat16": "emulated" if device.interpreted else "own"}
    return {
        "OPERANDS": operands.get(dtype, "own"),
        "PRECISION": "tf32x3" if dtype == "float32" else "tf32",
    }


def _strides(**tensors: Any) -> dict[str, int]:
    axes = ("batch", "head", "token")
    return {
        f"{name}_{axis}": stride
        for name, t in tensors.items()
        for axis, stride in zip(axes, t.stride(), strict=False)
    }


def _state_strides(state: Any) -> dict[str, int]:
    axes = ("head", "segment", "row", "column")
    strides = (0, 0, 0, 0) if state is None else state.stride()
    return {f"state_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}


def _bytes(tensor: Any) -> int:
    count = _STATE_BYTES if _dtype(tensor) == "float32" else 2
    for n in tensor.shape:
        count *= n
    return count
