"""Kernels of linear attention without a device: bytes from plans, registers and spills from compiled kernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from evonas.kernels.linear_attention import lightning_attention
from evonas.kernels.linear_attention_passes import (
    Heads,
    attention_traffic,
    least_bytes,
    least_flops,
    pass_calls,
    pass_specs,
)
from evonas.kernels.linear_attention_tiles import SEGMENT, Device, segment_tokens
from evonas.kernels.offline import CompileReport
from evonas.kernels.pool import CompilePool

from evonas.errors import UsageError

FULL, FEW = {"batch": 8, "heads": 16, "tokens": 2048}, {"batch": 1, "heads": 4, "tokens": 8192}


def units(heads: Heads) -> dict[str, tuple[float, float, int]]:
    """Per pass: bytes in sizes of q, unique and swept, and launches."""
    one = heads.batch * heads.heads * heads.tokens * heads.features * 2
    return {n: (t.unique / one, t.swept / one, t.kernels) for n, t in attention_traffic(heads).items()}


def test_tensors_that_are_moved() -> None:
    # q, k, v and out once; three gradients of four tensors each, or dq and both others from four
    assert units(Heads(**FULL, features=128, values=128)) == {
        "forward": (4, 6, 1),  # two programs share a head: each reads q and k
        "backward": (12, 18, 3),
    }
    for size in (32, 64):
        assert units(Heads(**FULL, features=size, values=size)) == {
            "forward": (4, 4, 1),
            "backward": (10, 10, 2),
        }


def test_the_floor() -> None:
    heads = Heads(**FULL, features=128, values=128)
    one = 8 * 16 * 2048 * 128 * 2
    assert least_bytes(heads) == {"forward": 4 * one, "backward": 7 * one}
    assert least_bytes(Heads(1, 1, 10, 16, 32), "fp32") == {"forward": 10 * 4 * 96, "backward": 10 * 4 * 160}
    # 26 GFLOP forward at this size, 64 to 80 backward as passes share products or not
    assert least_flops(heads)["forward"] == pytest.approx(26e9, rel=0.05)


def test_few_heads_are_split_into_segments() -> None:
    found = units(Heads(**FEW, features=64, values=64))
    # k and v are read again for the states; a state of 64 x 64 float32 numbers per 1024 tokens, moved four times
    assert found["forward"] == (4 + 2 + 4 * 64 * 2 / 1024, 4 + 2 + 4 * 64 * 2 / 1024, 3)
    assert found["backward"][0] == 10 + 4 + 8 * 64 * 2 / 1024
    calls = pass_calls(Heads(**FEW, features=128, values=128))
    assert [c.function for c in calls["forward"]] == ["attend", "carry", "attend"]
    # both reversed gradients from the same states
    assert [c.function for c in calls["backward"]] == ["attend", "carry", "attend"] * 2 + ["attend"]
    assert calls["forward"][0].grid == (8, 8)


@pytest.mark.parametrize("tokens", [1, 1024, 2047, 2048, 5000, 65_536])
@pytest.mark.parametrize("programs", [1, 4, 32, 65, 66, 500])
def test_segments_cover_the_tokens_and_are_not_small(programs: int, tokens: int) -> None:
    segment = segment_tokens(programs, tokens, 64, Device(132))
    if programs >= 66 or tokens < 2 * SEGMENT:
        assert segment == tokens
    else:
        assert segment % 64 == 0 or segment == tokens
        assert segment >= min(SEGMENT, tokens)
        assert programs * -(-tokens // segment) <= 2 * 132 + programs


def test_sizes_without_kernels() -> None:
    with pytest.raises(UsageError, match="head size of 100"):
        pass_calls(Heads(1, 1, 10, 100, 64))
    with pytest.raises(UsageError, match="head size of 256"):
        pass_calls(Heads(1, 1, 10, 256, 64))
    with pytest.raises(UsageError, match="bf17"):
        pass_calls(Heads(1, 1, 10, 64, 64), "bf17")
    with pytest.raises(UsageError, match="tokens=0"):
        Heads(1, 1, 0, 64, 64)


def test_no_kernel_without_a_device() -> None:
    q = torch.zeros(1, 2, 5, 16)
    with pytest.raises(UsageError, match="kernels need CUDA"):
        lightning_attention(q, q, q, torch.zeros(2), form="triton")


# ------------------------------------------------------------------------------------------------ compiled


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


def compiled(heads: list[Heads], target: str, cache: Path, dtype: str = "bf16") -> dict[str, CompileReport]:
    """Reports of all different kernels."""
    reports = {}
    with CompilePool(1, cache, target, deadline=200, sass=True) as pool:
        specs = [s for one in heads for made in pass_specs(one, dtype, target).values() for s in made]
        for spec, future in zip(specs, pool.submit(specs), strict=True):
            result = future.result()
            assert isinstance(result, CompileReport), result
            reports[spec.key()] = result
    return reports


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@needs_triton
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_nothing_spills(target: str, size: int, cache: Path) -> None:
    reports = compiled([Heads(**FULL, features=size, values=size)], target, cache)
    assert len(reports) == 2  # forward is also dq; the two gradients with reversed time
    for report in reports.values():
        print(
            target, size, report.function, report.registers, "registers,", report.shared_bytes, "bytes shared"
        )
        assert report.spill_bytes == 0
        assert report.counts is not None
        assert report.counts.total.loads.get(128, 0) > 0
        if target == "sm_90":
            assert report.counts.total.hgmma > 0
            assert report.shared_bytes <= 113 * 1024  # two programs on a multiprocessor
        else:
            assert report.counts.total.mma > 0
            assert report.shared_bytes <= 81 * 1024


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_nothing_spills_in_segments_and_odd_heads(target: str, cache: Path) -> None:
    sizes = [(32, 32), (64, 64), (128, 128), (48, 96), (128, 64), (64, 128)]
    heads = [Heads(**batch, features=d, values=e) for d, e in sizes for batch in (FULL, FEW)]
    for report in compiled(heads, target, cache).values():
        assert report.spill_bytes == 0, report


@needs_triton
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_large_heads_of_float32_do_not_spill(target: str, cache: Path) -> None:
    reports = compiled([Heads(**FULL, features=128, values=128)], target, cache, "fp32")
    assert len(reports) == 2
    for report in reports.values():
        assert report.spill_bytes == 0, report
        assert report.counts is not None
        assert report.counts.total.mma > 0


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_nothing_spills_at_any_head_size(dtype: str, target: str, cache: Path) -> None:
    """All launches of both passes, with segments and without."""
    sizes = [(16, 16), (32, 32), (64, 64), (128, 128)]
    sizes += [(128, 16)] if dtype == "fp32" else []
    sizes += [(120, 120), (40, 72)]
    heads = [Heads(**batch, features=d, values=e) for d, e in sizes for batch in (FULL, FEW)]
    for report in compiled(heads, target, cache, dtype).values():
        assert report.spill_bytes == 0, report
