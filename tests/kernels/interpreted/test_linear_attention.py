"""Kernels of linear attention against the masked form in float64, forward and backward; the bytes that they move."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from evonas.kernels import linear_attention_operator as operator
from evonas.kernels import linear_attention_plan as plan
from evonas.kernels import linear_attention_tiles as tiles
from evonas.kernels.linear_attention import final_state, lightning_attention, recurrent_step
from evonas.kernels.linear_attention_passes import Heads, attention_traffic
from evonas.kernels.linear_attention_tiles import Device, Tile
from torch import Tensor

from evonas.errors import UsageError

#: Largest difference from float64, in units of its largest value.
AGREEMENT = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def drawn(
    tokens: int, features: int, values: int, dtype: torch.dtype, batch: int = 1, heads: int = 2
) -> list[Tensor]:
    """q, k, v, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    sizes = (features, features, values, values)
    made = [torch.randn(batch, heads, tokens, n, generator=generator) for n in sizes]
    made[0] /= math.sqrt(features)
    return [t.to(dtype) for t in made]


def both_passes(form: str, tensors: list[Tensor], decay: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    out = lightning_attention(*leaves, decay, form=form)
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def compare(tensors: list[Tensor], decay: Tensor) -> None:
    want = both_passes("masked", [t.double() for t in tensors], decay)
    got = both_passes("triton", tensors, decay)
    for name, one, exact in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        assert one.dtype == tensors[0].dtype
        assert one.shape == exact.shape
        error = float((one.double() - exact).abs().max() / exact.abs().max())
        assert error <= AGREEMENT[one.dtype], f"{name} is off by {error:.1e}"


def large_tile(inner: int, outer: int, dtype: str, device: Device) -> Tile:
    """That of bfloat16 in every dtype: the interpreter has no registers, and fewer steps are faster."""
    return Tile(64, min(tiles.padded(outer), 64), 4, 2)


def any_pair(inner: int, outer: int, dtype: str, device: Device) -> Tile | None:
    return Tile(64, tiles.padded(outer), 4, 2)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "attention_tile", large_tile)


RATES = torch.tensor([0.0, 0.002, 0.5, 5.0])


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tokens", [1, 50, 64, 257])
@pytest.mark.parametrize("features", [16, 32, 64, 128])
def test_both_passes_in_float32(
    tokens: int, features: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:
        monkeypatch.setattr(plan, "pair_tile", any_pair)
    compare(drawn(tokens, features, features, torch.float32, heads=4), RATES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [100, 257])
@pytest.mark.parametrize(("features", "values"), [(16, 64), (64, 64), (128, 32)])
def test_both_passes_in_short_dtypes(dtype: torch.dtype, tokens: int, features: int, values: int) -> None:
    compare(drawn(tokens, features, values, dtype), RATES[1:3])


@pytest.mark.parametrize("tokens", [1, 50, 64, 257])
@pytest.mark.parametrize(("features", "values"), [(16, 32), (40, 56), (128, 64), (96, 128)])
def test_the_tiles_of_float32(features: int, values: int, tokens: int) -> None:
    """Large heads in parts, of which the last need not be full."""
    compare(drawn(tokens, features, values, torch.float32, heads=4), RATES)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("features", "values"), [(24, 40), (96, 16)])
def test_heads_between_powers_of_two(
    features: int, values: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:
        monkeypatch.setattr(plan, "pair_tile", any_pair)
    compare(drawn(70, features, values, torch.float32), RATES[1:3])


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch, large: None) -> None:
    monkeypatch.setattr(tiles, "SEGMENT", 64)


@pytest.mark.parametrize(("features", "values"), [(96, 40), (40, 96)])
def test_segments_of_heads_in_parts(features: int, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SEGMENT", 64)
    compare(drawn(150, features, values, torch.float32, heads=4), RATES)


@pytest.mark.usefixtures("segmented")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tokens", [257, 320])
def test_segments(tokens: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fused:
        monkeypatch.setattr(plan, "pair_tile", any_pair)
    launched: list[str] = []
    before = operator._launch
    monkeypatch.setattr(
        operator,
        "_launch",
        lambda calls, device: (launched.extend(c.function for c in calls), before(calls, device)),
    )
    compare(drawn(tokens, 32, 128, torch.float32), RATES[1:3])
    last = ["attend_pair"] if fused else ["attend", "attend"]
    assert launched == ["attend", "carry", "attend"] * 2 + ["attend", "carry", *last]


@pytest.mark.usefixtures("large")
def test_strided_tensors_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, g = drawn(50, 32, 32, torch.float32)
    want = both_passes("triton", [q, k, v, g], RATES[:2])
    joined = (
        torch.stack([q, k, v]).permute(1, 3, 2, 0, 4).contiguous()
    )  # (B, T, H, 3, D), as a projection gives it
    views = [joined[:, :, :, n].transpose(1, 2) for n in range(3)]
    made = both_passes("triton", [*views, g], RATES[:2])
    for one, two in zip(want, made, strict=True):
        assert torch.equal(one, two)
    assert made[0].transpose(1, 2).is_contiguous()  # the output lies as v does
    columns = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (q, k, v, g)]
    for one, two in zip(want, both_passes("triton", columns, RATES[:2]), strict=True):
        assert torch.equal(one, two)
    row = v[:, :, :1].expand(-1, -1, 50, -1)
    compare([q, k, row, g], RATES[:2])


@pytest.mark.usefixtures("large")
def test_equal_inputs_give_equal_bits_and_nothing_is_changed() -> None:
    tensors = drawn(100, 32, 32, torch.float32)
    kept = [t.clone() for t in tensors]
    first, second = (both_passes("triton", tensors, RATES[:2]) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(tensors, kept, strict=True))


@pytest.mark.usefixtures("large")
def test_a_state_of_float16_may_leave_its_range() -> None:
    """Without decay the state grows with every token: far beyond 65504, while the outputs stay small."""
    k = v = torch.full((1, 1, 400, 16), 30.0, dtype=torch.float16)
    q = torch.full((1, 1, 400, 16), 2**-12, dtype=torch.float16)
    assert final_state(k, v, RATES[:1]).max() > 4 * 65504
    out = lightning_attention(q, k, v, RATES[:1], form="triton")
    want = lightning_attention(q.double(), k.double(), v.double(), RATES[:1], form="masked")
    torch.testing.assert_close(out.double(), want, rtol=2e-3, atol=0)


@pytest.mark.usefixtures("large")
def test_decoding_goes_on_where_kernels_ended() -> None:
    q, k, v, _ = drawn(70, 16, 16, torch.float32)
    whole = lightning_attention(q, k, v, RATES[:2], form="triton")
    state = final_state(k[:, :, :-1], v[:, :, :-1], RATES[:2])
    out, _ = recurrent_step(state, q[:, :, -1], k[:, :, -1], v[:, :, -1], RATES[:2])
    torch.testing.assert_close(out, whole[:, :, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives(reverse: bool) -> None:
    """Gradients of the operators' own gradients, against those of the definition in float64."""
    tensors = [t.double() for t in drawn(20, 16, 24, torch.float32)]
    weights = [t.double() for t in drawn(20, 16, 24, torch.float32)][::-1]

    def definition(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if reverse:
            a, b, c = a.flip(2), b.flip(2), c.flip(2)
        out = lightning_attention(a, b, c, RATES[1:3], form="masked")
        return out.flip(2) if reverse else out

    def kernels(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return operator.decayed_attention(a, b, c, RATES[1:3], reverse)

    found = []
    for function, dtype in ((definition, torch.float64), (kernels, torch.float32)):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        first = torch.autograd.grad(function(*leaves[:3]), leaves[:3], leaves[3], create_graph=True)
        mixed = sum((g.sin() * w.to(dtype)[..., :1]).sum() for g, w in zip(first, weights, strict=False))
        found.append(torch.autograd.grad(mixed, leaves))
    for exact, one in zip(*found, strict=True):
        assert float((one.double() - exact).abs().max() / exact.abs().max()) <= 1e-5


@pytest.mark.usefixtures("large")
def test_operators_keep_their_contract() -> None:
    q, k, v, g = drawn(20, 16, 24, torch.float32)
    rows = [t.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in (q, k, v)]
    torch.library.opcheck(operator.decayed_attention, (*rows, RATES[:2], False))
    torch.library.opcheck(operator.decayed_attention, (*rows, RATES[:2], True))
    a, b, c = rows
    torch.library.opcheck(operator.decayed_attention_pair, (a, b, c, g, RATES[:2], True))


@pytest.mark.usefixtures("large")
def test_torch_compile_sees_one_operator() -> None:
    q, k, v, g = drawn(20, 16, 16, torch.float32)
    decay = RATES[:2]

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return lightning_attention(q * 2, k, v, decay, form="triton") + 1

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    results = []
    for one in (function, compiled):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        out = one(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, g)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


# ------------------------------------------------------------------------------------------------ bytes


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that kernels load and store, masked lanes left out."""
    from triton.runtime.interpreter import interpreter_builder as builder

    moved: list[int] = []
    load, store = builder.create_masked_load, builder.create_masked_store

    def counting_load(ptrs: Any, mask: Any, *rest: Any) -> Any:
        moved.append(int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8)
        return load(ptrs, mask, *rest)

    def counting_store(ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        moved.append(int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8)
        return store(ptrs, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counting_load)
    monkeypatch.setattr(builder, "create_masked_store", counting_store)
    return moved


@pytest.mark.parametrize(("features", "values"), [(128, 128), (64, 64), (32, 64)])
@pytest.mark.parametrize("segment", [1024, 64])
def test_plans_say_what_kernels_move(
    features: int, values: int, segment: int, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SEGMENT", segment)
    tensors = drawn(150, features, values, torch.bfloat16)
    device = operator._device(tensors[0])
    traffic = attention_traffic(Heads(1, 2, 150, features, values), "bf16", device)
    leaves = [t.detach().requires_grad_() for t in tensors[:3]]
    out = lightning_attention(*leaves, RATES[:2], form="triton")
    rates = [n for n in counted if n == 4]  # one per program
    assert sum(counted) - sum(rates) == traffic["forward"].swept
    counted.clear()
    out.backward(tensors[3])
    assert sum(counted) - sum(n for n in counted if n == 4) == traffic["backward"].swept


# ------------------------------------------------------------------------------------------------ bad input


def test_what_there_is_no_kernel_for_is_named() -> None:
    q, k, v, _ = drawn(5, 16, 16, torch.float32)
    for tensors, said in (
        ([t[..., :12] for t in (q, k, v)], "head size of 12"),
        ([torch.cat([t] * 9, -1) for t in (q, k, v)], "head size of 144"),
        ([q, k, v[..., :5]], "head size of 5"),
        ([t.double() for t in (q, k, v)], "float64"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            lightning_attention(*tensors, RATES[:2], form="triton")
        assert "chunked" in str(caught.value)
        assert lightning_attention(*tensors, RATES[:2]).isfinite().all()  # auto falls back
    for a, b, c, rates in (
        (q, k, v[:, :, 1:], RATES[:2]),
        (q, k[:, :1], v, RATES[:2]),
        (q, k, v, RATES[:3]),
        (q, k.half(), v, RATES[:2]),
        (q, k, v, RATES[:2].double()),
        (q[:, :, :0], k[:, :, :0], v[:, :, :0], RATES[:2]),
        (q[0], k[0], v[0], RATES[:2]),
    ):
        with pytest.raises(UsageError, match="no kernel for"):
            operator.decayed_attention(a, b, c, rates, False)


def test_no_tokens_need_no_kernel() -> None:
    q, k, v, _ = drawn(0, 16, 16, torch.float32)
    assert lightning_attention(q, k, v, RATES[:2], form="triton").shape == (1, 2, 0, 16)


def test_heads_far_apart_in_memory() -> None:
    """Two heads times their stride is 2^31, which is no int32."""
    tokens, features, heads = 20, 16, 3
    room = torch.empty(2**31 + tokens * features, dtype=torch.float16)  # of which a few pages are touched
    near = drawn(tokens, features, features, torch.float16, heads=heads)
    far = room.as_strided((1, heads, tokens, features), (1, 2**30, features, 1)).copy_(near[1])
    decay = torch.tensor([0.5, 0.1, 0.0])
    q, _, v, g = near
    wanted = both_passes("triton", near, decay)
    found = both_passes("triton", [q, far, v, g], decay)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
