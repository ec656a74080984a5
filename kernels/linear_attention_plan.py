"""Which launches linear attention takes, and what they move. Needs neither torch nor triton.

These are what the operator runs and what is compiled ahead for a device that is not here: a tensor is anything with
``shape``, ``stride()``, ``dtype`` and ``data_ptr()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from evonas.kernels.linear_attention_tiles import (
    Device,
    Tile,
    attention_tile,
    padded,
    pair_tile,
    segment_tokens,
)
from evonas.kernels.spec import KernelSpec, spec_from_call

SOURCE = Path(__file__).with_name("linear_attention_triton.py")
_CARRY_BLOCK = 1024

Allocate = Callable[[tuple[int, ...]], Any]


@dataclass(frozen=True)
class Call:
    """One launch of a kernel.

    arguments: in order, tensors and numbers. constants: names of those that are compile-time constants. sweeps: bytes
    of every tensor that it reads or writes, and how many programs read the same of them.
    """

    function: str
    grid: tuple[int, int]
    arguments: Mapping[str, Any]
    constants: Sequence[str]
    tile: Tile
    sweeps: Sequence[tuple[int, int]]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the launch, those of ``KernelSpec.launch_options``."""
        return {"num_warps": self.tile.warps, "num_stages": self.tile.stages, "enable_fp_fusion": True}

    def spec(self) -> KernelSpec:
        """For compiling it ahead, see ``evonas.kernels.offline``."""
        tile = self.tile
        return spec_from_call(
            SOURCE,
            self.function,
            self.arguments,
            self.constants,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


@dataclass(frozen=True)
class Planner:
    """Plans launches on contiguous last axes and tensors that are not empty.

    rate: (H,) float32. allocate: makes a float32 tensor of a shape, for states between segments. reverse: sums run
    over later tokens instead of earlier ones.
    """

    rate: Any
    allocate: Allocate
    reverse: bool
    device: Device

    def attention(self, a: Any, b: Any, c: Any, out: Any) -> list[Call]:
        """out = LA(a, b, c), see ``linear_attention_triton``; a, b: (B, H, T, N); c, out: (B, H, T, M)."""
        tile = attention_tile(b.shape[-1], c.shape[-1], _dtype(c), self.device)
        segment = self._segment(c, tile)
        calls, state = self._states(b, c, tile, segment)
        return [*calls, self._attend(a, b, c, out, tile, segment, state)]

    def pair(self, a: Any, b: Any, c: Any, g: Any, db: Any, dc: Any) -> list[Call]:
        """dc = LA(b, a, g) and db = LA(c, g, a); a, b, db: (B, H, T, N); c, g, dc: (B, H, T, M).

        In one sweep where ``pair_tile`` is not None, else in two. The state of the first is that of the second,
        transposed, so that states between segments are found once.
        """
        tile = pair_tile(a.shape[-1], c.shape[-1], _dtype(a), self.device)
        if tile is None:
            tile = attention_tile(a.shape[-1], c.shape[-1], _dtype(a), self.device)
            segment = self._segment(c, tile)
            calls, state = self._states(a, g, tile, segment)
            other = attention_tile(c.shape[-1], a.shape[-1], _dtype(a), self.device)
            last = self._attend(c, g, a, db, other, segment, state, transposed=True)
            return [*calls, self._attend(b, a, g, dc, tile, segment, state), last]
        segment = self._segment(c, tile)
        calls, state = self._states(a, g, tile, segment)
        tensors = {"a": a, "b": b, "c": c, "g": g, "db": db, "dc": dc}
        constants = {"CARRIED": state is not None}
        last = self._call("attend_pair", tensors, state, segment, tile, constants)
        return [*calls, last]

    def _segment(self, c: Any, tile: Tile) -> int:
        batch, heads, tokens, outer = c.shape
        return segment_tokens(batch * heads * _blocks(outer, tile), tokens, tile.chunk, self.device)

    def _attend(
        self,
        a: Any,
        b: Any,
        c: Any,
        out: Any,
        tile: Tile,
        segment: int,
        state: Any,
        *,
        transposed: bool = False,
    ) -> Call:
        constants = {"OUTPUT": True, "CARRIED": state is not None}
        tensors = {"a": a, "b": b, "c": c, "out": out}
        return self._call("attend", tensors, state, segment, tile, constants, transposed=transposed)

    def _states(self, b: Any, c: Any, tile: Tile, segment: int) -> tuple[list[Call], Any]:
        """Launches that find the state with which each segment begins, and its tensor; none for a single segment."""
        batch, heads, tokens, inner = b.shape
        segments = -(-tokens // segment)
        if segments == 1:
            return [], None
        size = inner * c.shape[-1]
        state = self.allocate((batch * heads, segments, inner, c.shape[-1]))
        constants = {"OUTPUT": False, "CARRIED": False}
        find = self._call("attend", {"a": b, "b": b, "c": c, "out": c}, state, segment, tile, constants)
        numbers = {
            "state_ptr": state, "rate_ptr": self.rate, "heads": heads, "segments": segments, "segment": segment,
            "size": size, "state_head": segments * size, "state_segment": size,
        }  # fmt: skip
        blocks = {"BLOCK": _CARRY_BLOCK, "REVERSE": self.reverse}
        grid = (batch * heads, -(-size // _CARRY_BLOCK))
        sweeps = [(_bytes(state), 1)] * 2
        carry = Call("carry", grid, numbers | blocks, tuple(blocks), Tile(0, 0, 4, 1), sweeps)
        return [find, carry], state

    def _call(
        self,
        function: str,
        tensors: Mapping[str, Any],
        state: Any,
        segment: int,
        tile: Tile,
        constants: Mapping[str, bool],
        *,
        transposed: bool = False,
    ) -> Call:
        """One launch over all heads and segments; tensors: by name, with (N, M) from the first and the third."""
        batch, heads, tokens, inner = tensors["a"].shape
        outer = tensors["c"].shape[-1]
        if function == "attend":
            blocks = _blocks(outer, tile)
            read = {"a": blocks, "b": blocks, "c": 1, "out": 1}
            moved = read if constants["OUTPUT"] else {"b": blocks, "c": 1}
        else:
            blocks = 1
            moved = dict.fromkeys(tensors, 1)
        sweeps = [(_bytes(tensors[name]), times) for name, times in moved.items()]
        if state is not None:
            sweeps.append((_bytes(state), 1))
        parts = tile.parts(inner) if function == "attend" else 1
        arguments = {
            **{f"{name}_ptr": t for name, t in tensors.items()},
            "rate_ptr": self.rate,
            "state_ptr": self.rate if state is None else state,
            "heads": heads,
            "tokens": tokens,
            "segment": segment,
            **_strides(tensors),
            **_state_strides(state, transposed),
        }
        numbers = {
            "N": inner,
            "M": outer,
            "BLOCK_N": min(padded(inner), tile.features) if function == "attend" else padded(inner),
            "BLOCK_M": tile.columns,
            "CHUNK": tile.chunk,
            **({"PARTS": parts} if function == "attend" else {}),
            "REVERSE": self.reverse,
            **constants,
            **_numerics(_dtype(tensors["a"]), self.device),
        }
        grid = (batch * heads * blocks, -(-tokens // segment))
        return Call(function, grid, arguments | numbers, tuple(numbers), tile, sweeps)


def _blocks(outer: int, tile: Tile) -> int:
    return -(-outer // tile.columns)


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def _numerics(dtype: str, device: Device) -> dict[str, Any]:
    """float16: sums leave its range, so they meet it in TF32, which has its precision. float32: three TF32 products."""
    operands = {"float16": "wide", "bfloat16": "emulated" if device.interpreted else "own"}
    precision = "tf32x3" if dtype == "float32" else "tf32"
    return {"OPERANDS": operands.get(dtype, "own"), "PRECISION": precision}


def _strides(tensors: Mapping[str, Any]) -> dict[str, int]:
    axes = ("batch", "head", "token")
    return {f"{name}_{axis}": t.stride()[n] for name, t in tensors.items() for n, axis in enumerate(axes)}


def _state_strides(state: Any, transposed: bool) -> dict[str, int]:
    head, segment, row, column = (0, 0, 0, 0) if state is None else state.stride()
    if transposed:
        row, column = column, row
    return {"state_head": head, "state_segment": segment, "state_row": row, "state_column": column}


def _bytes(tensor: Any) -> int:
    return prod(tensor.shape) * (4 if _dtype(tensor) == "float32" else 2)
