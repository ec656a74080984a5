"""Lightning attention in eager PyTorch: three forms of one sum, decoding, decay schedules, LRPE, bad input."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from evonas.kernels.linear_attention import (
    decay_rates,
    final_state,
    lightning_attention,
    lrpe,
    lrpe_angles,
    recurrent_step,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evonas.errors import UsageError

EXACT = {torch.float32: 1e-4, torch.float64: 1e-11}
EAGER = ("masked", "chunked", "recurrent")


def drawn(
    tokens: int,
    features: int,
    values: int,
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 2,
    heads: int = 4,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v; q scaled as attention scales it."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(batch, heads, tokens, n, generator=generator, dtype=torch.float64)
        for n in (features, features, values)
    )
    return (q / math.sqrt(features)).to(dtype), k.to(dtype), v.to(dtype)


def by_hand(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """The sum as it is written, term by term."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for b, h, t in itertools.product(*map(range, q.shape[:3])):
        for s in range(t + 1):
            weight = math.exp(-float(decay[h]) * (t - s))
            out[b, h, t] += weight * float(q[b, h, t] @ k[b, h, s]) * v[b, h, s]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    q, k, v = drawn(40, 16, 16, dtype)
    decay = decay_rates(4, 0, 2)

    def everything() -> list[Tensor]:
        made = [lightning_attention(q, k, v, decay, form=form, block=16) for form in EAGER]
        state = final_state(k, v, decay)
        return [*made, state, *recurrent_step(state, q[:, :, 0], k[:, :, 0], v[:, :, 0], decay)]

    wanted = everything()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything()
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", EAGER)
def test_each_form_is_the_sum_as_it_is_written(form: str) -> None:
    q, k, v = drawn(11, 5, 3, torch.float64, heads=3)
    decay = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    found = lightning_attention(q, k, v, decay, form=form, block=4)
    torch.testing.assert_close(found, by_hand(q, k, v, decay), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", list(EXACT))
@pytest.mark.parametrize("tokens", [1, 50, 64, 257])
@pytest.mark.parametrize(("features", "values"), [(16, 16), (24, 40), (64, 32), (128, 128)])
def test_three_forms_agree(dtype: torch.dtype, tokens: int, features: int, values: int) -> None:
    q, k, v = drawn(tokens, features, values, dtype)
    decay = torch.tensor([0.0, 0.002, 0.5, 5.0])
    masked, chunked, recurrent = (lightning_attention(q, k, v, decay, form=form, block=16) for form in EAGER)
    assert masked.dtype == dtype
    assert masked.shape == (2, 4, tokens, values)
    assert (masked - chunked).abs().max() <= EXACT[dtype]
    assert (masked - recurrent).abs().max() <= EXACT[dtype]


@pytest.mark.parametrize("dtype", list(EXACT))
def test_gradients_of_the_three_forms_agree(dtype: torch.dtype) -> None:
    decay = torch.tensor([0.0, 0.002, 0.5, 5.0])
    found = []
    for form in EAGER:
        leaves = [t.requires_grad_() for t in drawn(50, 16, 24, dtype)]
        out = lightning_attention(*leaves, decay, form=form, block=16)
        out.backward(drawn(50, 16, 24, dtype, seed=1)[2])
        found.append([t.grad for t in leaves])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert (one - two).abs().max() <= EXACT[dtype]


def test_gradients_are_those_of_finite_differences() -> None:
    decay = torch.tensor([0.1, 1.0], dtype=torch.float64)
    leaves = [t.requires_grad_() for t in drawn(7, 3, 2, torch.float64, batch=1, heads=2)]
    for form in EAGER:
        assert torch.autograd.gradcheck(
            lambda q, k, v, form=form: lightning_attention(q, k, v, decay, form=form, block=3), leaves
        )


@pytest.mark.parametrize("block", [1, 16, 64, 1000])
def test_any_block_size_gives_the_same(block: int) -> None:
    q, k, v = drawn(50, 16, 16, torch.float64)
    decay = decay_rates(4, 0, 2)
    found = lightning_attention(q, k, v, decay, form="chunked", block=block)
    torch.testing.assert_close(found, lightning_attention(q, k, v, decay, form="masked"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes_are_summed_in_float32(dtype: torch.dtype) -> None:
    q, k, v = drawn(300, 32, 32, dtype)
    decay = decay_rates(4, 0, 2)
    want = lightning_attention(q.double(), k.double(), v.double(), decay, form="masked")
    for form in EAGER:
        found = lightning_attention(q, k, v, decay, form=form)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


def test_strided_tensors_are_read_where_they_lie() -> None:
    q, k, v = drawn(50, 16, 16, torch.float64)
    moved = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    one = v[:, :, :1].expand(-1, -1, 50, -1)
    decay = decay_rates(4, 0, 2)
    for form in EAGER:
        torch.testing.assert_close(  # not bits: a matrix product may choose another order for other strides
            lightning_attention(*moved, decay, form=form),
            lightning_attention(q, k, v, decay, form=form),
            rtol=1e-13,
            atol=1e-13,
        )
        assert lightning_attention(q, k, one, decay, form=form).isfinite().all()


@pytest.mark.parametrize("form", ["auto", *EAGER])
@pytest.mark.parametrize(
    "sizes", [(0, 2, 3, 4, 5), (2, 0, 3, 4, 5), (2, 2, 0, 4, 5), (2, 2, 3, 0, 5), (2, 2, 3, 4, 0)]
)
def test_any_size_may_be_zero(form: str, sizes: tuple[int, ...]) -> None:
    b, h, t, d, e = sizes
    q, k = (torch.randn(b, h, t, d, requires_grad=True) for _ in range(2))
    v = torch.randn(b, h, t, e, requires_grad=True)
    out = lightning_attention(q, k, v, torch.zeros(h), form=form)
    assert out.shape == (b, h, t, e)
    assert not out.any()
    out.sum().backward()
    assert q.grad is not None
    assert q.grad.shape == q.shape


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, and of all of them together, in both passes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.total += tensor.numel()
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def made(form: str, tokens: int) -> tuple[int, int]:
    leaves = [t.requires_grad_() for t in drawn(tokens, 16, 16, batch=1, heads=1)]
    decay = torch.tensor([0.1])
    with Largest() as mode:
        lightning_attention(*leaves, decay, form=form).sum().backward()
    return mode.numel, mode.total


def test_the_chunked_form_is_linear_in_memory_and_work() -> None:
    largest, total = made("chunked", 4096)
    assert largest == 4096 * 64  # one matrix of 64 x 64 per 64 tokens
    assert made("chunked", 8192)[0] == 2 * largest
    assert made("chunked", 8192)[1] < 2.05 * total
    assert made("masked", 512)[0] == 512**2
    assert made("masked", 1024)[1] > 3 * made("masked", 512)[1]


def test_the_recurrent_form_is_linear_in_work() -> None:
    assert made("recurrent", 512)[1] < 2.05 * made("recurrent", 256)[1]


# ------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("dtype", list(EXACT))
def test_decoding_goes_on_after_a_prompt(dtype: torch.dtype) -> None:
    q, k, v = drawn(60, 16, 24, dtype)
    decay = torch.tensor([0.0, 0.002, 0.5, 5.0])
    whole = lightning_attention(q, k, v, decay, form="masked")
    state = final_state(k[:, :, :40], v[:, :, :40], decay)
    for t in range(40, 60):
        out, state = recurrent_step(state, q[:, :, t], k[:, :, t], v[:, :, t], decay)
        assert (out - whole[:, :, t]).abs().max() <= EXACT[dtype]
    assert state.dtype == dtype
    assert (state - final_state(k, v, decay)).abs().max() <= EXACT[dtype]


def test_the_state_of_short_dtypes_is_float32() -> None:
    q, k, v = (t[:, :, 0] for t in drawn(1, 16, 24, torch.bfloat16))
    out, state = recurrent_step(None, q, k, v, torch.ones(4))
    assert (out.dtype, state.dtype, state.shape) == (torch.bfloat16, torch.float32, (2, 4, 16, 24))


def naive_decoding(q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
    """What a state that is never decayed would take: exp(rate t) k_t v_t^T summed, exp(-rate t) put to q."""
    state = torch.zeros(q.shape[-1], v.shape[-1])
    out = []
    for t in range(q.shape[0]):
        growth = torch.exp(torch.tensor(rate * t))
        state = state + growth * k[t, :, None] * v[t, None, :]
        out.append((q[t] / growth) @ state)
    return torch.stack(out)


def test_the_naive_decoding_overflows_and_the_robust_one_does_not() -> None:
    rate, decay = 0.5, torch.tensor([0.5])
    q, k, v = (t[0, 0] for t in drawn(400, 16, 16, batch=1, heads=1))
    naive = naive_decoding(q, k, v, rate)
    want = lightning_attention(q[None, None], k[None, None], v[None, None], decay, form="masked")[0, 0]
    torch.testing.assert_close(
        naive[:100], want[:100], rtol=1e-4, atol=1e-4
    )  # the same value, while it lasts
    assert naive[:150].isfinite().all()
    assert not naive[200:].isfinite().any()
    state = None
    for t in range(400):
        out, state = recurrent_step(state, q[None, None, t], k[None, None, t], v[None, None, t], decay)
        torch.testing.assert_close(out[0, 0], want[t], rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ positions


def test_lrpe_depends_on_the_distance_alone() -> None:
    theta = lrpe_angles(3, 8).double()
    q, k = (
        torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1)
    )
    for s, t in itertools.product((0, 1, 7, 100, 999), repeat=2):
        product = (lrpe(q, theta, s) * lrpe(k, theta, t)).sum(-1)[:, 0]
        want = (q * k * ((s - t) * theta[:, None]).cos()).sum(-1)[:, 0]
        torch.testing.assert_close(product, want, rtol=0, atol=1e-12)


def test_lrpe_of_many_tokens_is_that_of_each() -> None:
    theta = lrpe_angles(3, 8).double()
    x = torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = lrpe(x, theta, offset=5)
    assert whole.shape == (2, 3, 20, 16)
    for t in range(20):
        assert torch.equal(whole[:, :, t], lrpe(x[:, :, t : t + 1], theta, offset=5 + t)[:, :, 0])
    assert lrpe(x.bfloat16(), theta).dtype == torch.bfloat16


def test_the_angles_run_over_all_heads() -> None:
    theta = lrpe_angles(4, 8)
    want = [10000 ** (-2 * j / 32) for j in range(32)]
    torch.testing.assert_close(theta, torch.tensor(want).reshape(4, 8))
    theta.requires_grad_()
    lrpe(torch.ones(4, 3, 8), theta).sum().backward()
    assert theta.grad is not None
    assert theta.grad.abs().sum() > 0


def test_decay_of_the_released_code() -> None:
    rates = decay_rates(8, 0, 24)
    torch.testing.assert_close(rates, torch.tensor([2.0**-h for h in range(1, 9)]) * (1 + 1e-5))
    last = decay_rates(8, 23, 24)
    torch.testing.assert_close(last, rates / (1 + 1e-5) * 1e-5)
    assert (last > 0).all()
    torch.testing.assert_close(decay_rates(8, 0, 1), rates)  # no division by zero
    # ALiBi's published slopes for 12 heads
    twelve = [*(2.0**-h for h in range(1, 9)), *(2.0 ** -(h - 0.5) for h in (1, 2, 3, 4))]
    torch.testing.assert_close(decay_rates(12, 0, 2), torch.tensor(twelve) * (1 + 1e-5))
    for heads in range(1, 20):
        rates = decay_rates(heads, 0, 3)
        assert rates.shape == (heads,)
        assert len(set(rates.tolist())) == heads


def test_decay_of_the_paper() -> None:
    torch.testing.assert_close(decay_rates(4, 0, 4, "paper"), torch.tensor([0.0, 1.5, 3.0, 4.5]))
    assert not decay_rates(4, 3, 4, "paper").any()
    assert not decay_rates(4, 0, 1, "paper").any()


@pytest.mark.parametrize(
    "given", [(0, 0, 1), (4, 2, 2), (4, -1, 2), (4, 0, 0), (4, 0, 2, "published")], ids=str
)
def test_decay_of_nothing(given: tuple) -> None:
    with pytest.raises(UsageError):
        decay_rates(*given)


# ------------------------------------------------------------------------------------------------ bad input


def refused(said: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, **options: object) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        lightning_attention(q, k, v, decay, **options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_bad_input_is_named() -> None:
    q, k, v = drawn(5, 4, 4)
    decay = torch.zeros(4)
    refused("q .2, 4, 5, 4., k .2, 4, 4, 4.", q, k[:, :, 1:], v, decay)
    refused("q .2, 4, 5, 4., k .2, 4, 5, 3.", q, k[..., 1:], v, decay)
    refused("v .2, 4, 4, 4.", q, k, v[:, :, 1:], decay)
    refused("q .4, 5, 4.", q[0], k[0], v[0], decay)
    refused("decay .3,.", q, k, v, decay[1:])
    refused(r"decay \(\)", q, k, v, torch.tensor(0.5))
    refused("float32, torch.float64", q, k.double(), v, decay)
    refused("int64", q.long(), k.long(), v.long(), decay)
    refused("head 2 is -0.5", q, k, v, torch.tensor([0.0, 1.0, -0.5, -1.0]))
    refused("head 0 is nan", q, k, v, torch.full((4,), torch.nan))
    refused("head 0 is inf", q, k, v, torch.full((4,), torch.inf))
    refused("decay in torch.int64", q, k, v, torch.zeros(4, dtype=torch.int64))
    refused("asks for a gradient", q, k, v, torch.zeros(4, requires_grad=True))
    refused("meta", q, k, v.to("meta"), decay)
    refused("form 'chunky'", q, k, v, decay, form="chunky")
    refused("chunks of 0", q, k, v, decay, block=0)


def test_bad_states_and_positions_are_named() -> None:
    q, k, v = (t[:, :, 0] for t in drawn(1, 4, 6))
    decay = torch.zeros(4)
    with pytest.raises(UsageError, match=r"a state of \(2, 4, 6, 4\)"):
        recurrent_step(torch.zeros(2, 4, 6, 4), q, k, v, decay)
    with pytest.raises(UsageError, match="head 0 is -1"):
        recurrent_step(None, q, k, v, decay - 1)
    with pytest.raises(UsageError, match="linear attention"):
        final_state(q, v, decay)
    with pytest.raises(UsageError, match=r"theta \(3, 4\)"):
        lrpe(torch.zeros(2, 4, 5, 4), torch.zeros(3, 4))
    with pytest.raises(UsageError, match="position -1"):
        lrpe(torch.zeros(2, 4, 5, 4), torch.zeros(4, 4), offset=-1)
    with pytest.raises(UsageError, match="0 heads"):
        lrpe_angles(0, 4)
