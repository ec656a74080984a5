"""SOFT: the Newton inverse and its gradient, the conditioning guard, slots, training."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import evonas
import evonas.proxies as proxies
from evonas.errors import UsageError
from evonas.proxies.networks.newton import RIDGE, inverse, newton
from evonas.proxies.networks.soft import SoftmaxFreeAttention, gaussian

TINY = {"steps": 2, "batch": 8}


def kernel(spread: float, count: int = 9, features: int = 8) -> torch.Tensor:
    """The Gaussian kernel of random landmarks; the smaller the spread, the more alike they are."""
    g = torch.Generator().manual_seed(0)
    points = spread * torch.randn(2, count, features, generator=g, dtype=torch.float64)
    return gaussian(points, points)


def condition(matrix: torch.Tensor) -> float:
    return float(torch.linalg.cond(matrix).max())


def ridged(matrix: torch.Tensor) -> torch.Tensor:
    return matrix + RIDGE * torch.eye(matrix.shape[-1], dtype=matrix.dtype)


def test_gaussian_kernel():
    a, b = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    expected = torch.exp(-torch.cdist(a, b).square() / 2)
    torch.testing.assert_close(gaussian(a, b), expected)
    assert torch.diagonal(gaussian(a, a), dim1=-2, dim2=-1).sub(1).abs().max() < 1e-12


def test_twenty_steps_are_enough_for_landmarks_that_differ():
    matrix = ridged(kernel(1.0))
    assert condition(matrix) < 200
    found, residual, made = newton(matrix)
    assert made == 20
    assert residual.max() <= 1e-3
    torch.testing.assert_close(found, torch.linalg.inv(matrix), rtol=1e-6, atol=1e-8)


def test_the_guard_goes_on_where_twenty_steps_are_not_enough():
    """Similar landmarks: without the ridge twenty published steps leave most of the residual."""
    matrix = kernel(0.12)
    assert condition(matrix) > 1000
    _, unguarded, _ = newton(matrix, limit=20)
    assert unguarded.max() > 0.05
    found, residual, made = newton(matrix)
    assert 20 < made <= 60
    assert residual.max() <= 1e-3
    torch.testing.assert_close(
        found @ matrix, torch.eye(9, dtype=torch.float64).expand(2, 9, 9), rtol=0, atol=5e-3
    )


def test_landmarks_that_are_all_the_same_stay_finite():
    matrix = torch.ones(2, 9, 9, requires_grad=True)
    made = inverse(matrix)
    assert torch.isfinite(made).all()
    assert torch.isfinite(torch.autograd.grad(made.sum(), matrix)[0]).all()
    not_finite = torch.full((1, 3, 3), float("nan"))
    assert newton(not_finite)[2] <= 60


def test_the_gradient_is_that_of_an_inverse():
    matrix = kernel(1.0).requires_grad_()
    weights = torch.randn(2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((inverse(matrix, limit=60, tolerance=1e-12) * weights).sum(), matrix)
    plain = matrix.detach().clone().requires_grad_()
    (theirs,) = torch.autograd.grad((torch.linalg.inv(ridged(plain)) * weights).sum(), plain)
    assert (ours - theirs).abs().max() <= 1e-8


def test_there_is_a_second_derivative():
    matrix = kernel(1.0)[0, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda m: inverse(m, tolerance=1e-13), (matrix,), atol=1e-6)


def test_nystrom_is_exact_when_all_tokens_are_landmarks():
    s = ridged(kernel(1.0))
    assert (s @ newton(s, tolerance=1e-12)[0] @ s - s).abs().max() <= 1e-8


def test_slots():
    asked = []
    proxies.build(proxies.get("soft"), lambda channels, slot: asked.append((slot, channels)), 0)
    slots = [slot for slot, _ in asked]
    blocks = sum(proxies.get("soft").spec.depth)
    assert slots.count("landmark") == blocks - 1  # the last stage has softmax attention
    assert slots.count("post_attention") == slots.count("post_ffn") == slots.count("ffn") == blocks
    assert len(slots) == 4 * blocks - 1
    assert all(b == 4 * a for (s, a), (_, b) in pairwise(asked) if s == "post_attention")


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_scale_gives_its_layers_tokens(scale):
    proxy = proxies.get("soft", scale)
    assert (proxy.layout, proxy.kind, proxy.unit) == ("btc", "image", "accuracy")
    layer = evonas.layer("x / rms[c](x)")
    built = proxies.build(proxy, lambda channels, slot: layer.module(channels, layout="btc"), 0)
    side = proxy.spec.crop // proxy.spec.pool
    logits = built.network(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in built.network.parameters())


def test_attention_by_its_definition():
    torch.manual_seed(0)
    attention = SoftmaxFreeAttention(8, 2, 2, lambda channels, slot: nn.Identity()).double()
    x = torch.randn(1, 16, 8, dtype=torch.float64)
    q, v = attention.qv(x).chunk(2, -1)
    q = q / 4**0.25
    grid = q.transpose(1, 2).reshape(1, 8, 4, 4)
    few = torch.nn.functional.gelu(attention.landmarks(grid).flatten(2).transpose(1, 2))
    parts = []
    for h in range(2):
        here = slice(4 * h, 4 * h + 4)
        s = torch.exp(-torch.cdist(q[..., here], few[..., here]).square() / 2)
        p = torch.exp(-torch.cdist(few[..., here], few[..., here]).square() / 2)
        p = p + 0.01 * torch.eye(4, dtype=torch.float64)
        parts.append(s @ torch.linalg.inv(p) @ s.transpose(1, 2) @ v[..., here])
    local = attention.local(v.transpose(1, 2).reshape(1, 8, 4, 4)).flatten(2).transpose(1, 2)
    expected = attention.out(torch.cat(parts, -1) + local)
    assert (attention(x, 4, 4) - expected).abs().max() < 0.02 * expected.abs().max()


def test_it_trains_and_is_tested():
    proxy = proxies.get("soft", **TINY)
    result = proxies.train(proxy, lambda channels, slot: None)
    assert result.diverged_at is None
    assert 0 < result.score < 1
    assert len(proxies.stability_test(proxy, lambda channels, slot: None, steps=2).norms) == 3


def test_fields_that_do_not_fit():
    with pytest.raises(UsageError, match="landmarks is"):
        proxies.get("soft", landmarks=[2, 2])
    with pytest.raises(UsageError, match="4 whole numbers: soft has 4 stages"):
        proxies.get("soft", depth=[1, 1])


def test_mup_shrinks_squared_distances_of_queries_with_the_width():
    layer = evonas.layer("x / rms[c](x)")
    own = lambda channels, slot: layer.module(channels, layout="btc", backend="eager")  # noqa: E731
    wide = proxies.get("soft", width=1.0, base_width=0.5)
    plain, mup = (proxies.Trainer(wide, own, seed=0, parametrization=kind) for kind in ("standard", "mup"))
    pairs = [
        (a.query_scale, b.query_scale, b.head_dim)
        for a, b in zip(plain.network.modules(), mup.network.modules(), strict=False)
        if hasattr(b, "query_scale")
    ]
    assert pairs
    for before, now, head_dim in pairs:
        base = head_dim / 2  # at the base width
        assert before == pytest.approx(head_dim**-0.25)
        assert now**2 == pytest.approx(base**-0.5 * base / head_dim)
