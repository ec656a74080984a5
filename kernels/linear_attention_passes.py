"""The launches of both passes of linear attention for sizes alone: what to compile ahead, how many bytes move.

Needs neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from evonas.kernels.kernel_specs import DTYPES, ITEMSIZE, PASSES, check_dtype
from evonas.kernels.linear_attention_plan import Call, Planner
from evonas.kernels.linear_attention_tiles import Device, why_no_kernel
from evonas.kernels.spec import KernelSpec

from evonas.errors import UsageError


@dataclass(frozen=True)
class Heads:
    """A call's sizes: batch, heads, tokens, features of q and k, values of v."""

    batch: int
    heads: int
    tokens: int
    features: int
    values: int

    def __post_init__(self) -> None:
        if min(self.batch, self.heads, self.tokens, self.features, self.values) < 1:
            raise UsageError(f"linear attention of {self}", hint="every size is 1 or more")


@dataclass(frozen=True)
class _Tensor:
    """Stands for a contiguous tensor."""

    shape: tuple[int, ...]
    dtype: str

    def stride(self) -> tuple[int, ...]:
        return tuple(prod(self.shape[n + 1 :]) for n in range(len(self.shape)))

    def data_ptr(self) -> int:
        return 0


def pass_calls(heads: Heads, dtype: str = "bf16", device: Device | None = None) -> dict[str, list[Call]]:
    """Launches of "forward" and "backward" (of all three gradients) on contiguous tensors.

    Args:
        dtype: "bf16", "fp16" or "fp32".
        device: an H200 by default.

    Raises:
        UsageError: a dtype or head size that there is no kernel for.
    """
    kind = f"torch.{DTYPES[check_dtype(dtype)]}"
    reason = why_no_kernel(heads.features, heads.values, DTYPES[dtype])
    if reason is not None:
        raise UsageError(f"no kernel for {reason}", hint="form='chunked' takes any size")
    q, v = (
        _Tensor((heads.batch, heads.heads, heads.tokens, n), kind) for n in (heads.features, heads.values)
    )
    rate = _Tensor((heads.heads,), "torch.float32")

    def allocate(shape: tuple[int, ...]) -> _Tensor:
        return _Tensor(shape, "torch.float32")

    forward = Planner(rate, allocate, False, device or Device())
    backward = Planner(rate, allocate, True, device or Device())
    made = (
        forward.attention(q, q, v, v),
        [*forward.attention(v, v, q, q), *backward.pair(q, q, v, v, q, v)],
    )
    return dict(zip(PASSES, made, strict=True))


def pass_specs(heads: Heads, dtype: str, target: str) -> dict[str, list[KernelSpec]]:
    """What to compile for a target, by pass, see ``evonas.kernels.offline``.

    Raises:
        UsageError: as ``pass_calls``; an unknown target.
    """
    calls = pass_calls(heads, dtype, Device.of_target(target))
    return {which: [call.spec() for call in made] for which, made in calls.items()}


@dataclass(frozen=True)
class AttentionTraffic:
    """Bytes of one pass. swept: every program's sweep over a tensor counts. unique: a tensor counts once per kernel,
    as if what one program reads stayed in the cache for its neighbour. kernels: launches."""

    swept: int
    unique: int
    kernels: int


def attention_traffic(
    heads: Heads, dtype: str = "bf16", device: Device | None = None
) -> dict[str, AttentionTraffic]:
    """Bytes that both passes move, the states between segments included.

    The least is 4 tensors forward (q, k, v, out) and 7 backward (q, k, v, do and three gradients). Kernels move 4, and
    12 in three sweeps or 10 in two; splitting few heads into segments reads two tensors of each sweep again.

    Raises:
        UsageError: as ``pass_calls``.
    """
    return {which: _sum(calls) for which, calls in pass_calls(heads, dtype, device).items()}


def least_bytes(heads: Heads, dtype: str = "bf16") -> dict[str, int]:
    """Bytes that both passes move at least: every input read once, every output written once."""
    rows = heads.batch * heads.heads * heads.tokens * ITEMSIZE[check_dtype(dtype)]
    narrow, wide = rows * heads.features, rows * heads.values
    return {"forward": 2 * narrow + 2 * wide, "backward": 4 * narrow + 3 * wide}


def least_flops(heads: Heads, chunk: int = 64) -> Mapping[str, int]:
    """Floating-point operations of both passes in chunks: each sum takes four products of matrices per chunk."""
    inner, outer = heads.features, heads.values
    one = 2 * (chunk * inner + chunk * outer + 2 * inner * outer)  # per token; the triangle counts whole
    tokens = heads.batch * heads.heads * heads.tokens
    return {"forward": one * tokens, "backward": 3 * one * tokens}


def _sum(calls: Sequence[Call]) -> AttentionTraffic:
    swept = sum(size * times for call in calls for size, times in call.sweeps)
    unique = sum(size for call in calls for size, _ in call.sweeps)
    return AttentionTraffic(swept, unique, len(calls))
