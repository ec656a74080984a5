"""PowerNorm and UnifiedNorm: what is known of them in closed form, and how they are made and refused."""

from __future__ import annotations

import copy

import pytest
import torch

import evonas
from evonas.errors import PluginError, UsageError
from evonas.layers import STATEFUL, PowerNorm, UnifiedNorm, named_layer, stateful_layer, vector_parameters
from evonas.layers.stateful.moments import GroupScaling, mean_over_positions

NAMES = ("power_norm", "unified_norm")
C = 8


def tokens(seed: int, shape: tuple[int, ...] = (4, 64, C), scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * x * torch.linspace(0.5, 2.0, shape[-1], dtype=torch.float64)


def test_power_norm_becomes_the_derivative_with_the_statistics_of_the_batch():
    """phi = v (warm-up) and E = mean(g z) / (1 - a_b): the backward pass is that of x / rms."""
    layer = PowerNorm(C, backward_decay=0.9).double()
    x, dy = tokens(0).requires_grad_(), tokens(1)
    with torch.no_grad():
        scaled = layer.scaling(x)
        v = scaled.square().mean((0, 1))
        z = scaled / (v + layer.eps).sqrt()
        layer.gradient_average.copy_((dy * z).mean((0, 1)) / (1 - 0.9))
    layer(x).backward(dy)
    twin = x.detach().clone().requires_grad_()
    s = layer.scaling(twin)
    (s / (s.square().mean((0, 1)) + layer.eps).sqrt()).backward(dy)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=1e-13)


def test_unified_norm_skips_one_outlier():
    """60 stationary steps, the batch of step 31 is 50 times as large: one skip, an output of size one."""
    layer = UnifiedNorm(C, warm_up=10, filter_outliers=True).double()
    kept = UnifiedNorm(C, warm_up=10, filter_outliers=True, absorb_outliers=False).double()
    skipped = []
    for step in range(1, 61):
        x = tokens(step, scale=50.0 if step == 31 else 1.0).requires_grad_()
        before = int(layer.skips)
        y = layer(x)
        y.backward(tokens(1000 + step))
        kept(x.detach().requires_grad_()).backward(tokens(1000 + step))
        if layer.skips > before:
            skipped.append(step)
            assert abs(float(y.detach().square().mean().sqrt()) - 1.0) < 1e-3
            assert layer.running_var.max() > 100 * kept.running_var.max()
        assert torch.isfinite(x.grad).all()
    assert skipped == [31]
    assert kept.skips == 1
    torch.testing.assert_close(kept.running_var, tokens(0).square().mean((0, 1)), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_backends(name):
    layer = evonas.layer(name)
    x = torch.randn(2, 5, C)
    y = [layer.module(C, backend=backend)(x) for backend in ("auto", "eager")]
    assert torch.equal(y[0], y[1])
    for backend in ("triton", "c"):
        with pytest.raises(UsageError, match="has a class of its own, there are no generated kernels"):
            layer.module(C, backend=backend)
    with pytest.raises(UsageError, match="unknown backend"):
        layer.module(C, backend="cuda")


@pytest.mark.parametrize("name", NAMES)
def test_how_it_resolves(name):
    layer = evonas.layer(name)
    assert (layer.name, layer.text, layer.stateful, layer.layout) == (name, name, name, "btc")
    assert type(layer.module(C)) is STATEFUL[name].load()
    assert layer.contract is STATEFUL[name].contract
    images = layer.laid_out("nchw")
    assert images.module(C)(torch.randn(2, C, 3, 4)).shape == (2, C, 3, 4)
    assert "[b,w,h]" in images.formula
    assert layer.cost((2, 5, C)).flops > 0
    assert len(vector_parameters(torch.nn.Sequential(layer.module(C)))) == 2
    # what a search hands to every layer does not matter here
    assert layer.module(C, groups=4, momentum=0.1).extra_repr() == layer.module(C).extra_repr()


@pytest.mark.parametrize("name", NAMES)
def test_the_formula_is_the_first_batch(name):
    layer = evonas.layer(name)
    x = tokens(0)
    torch.testing.assert_close(
        layer.module(C, affine=False).double()(x),
        evonas.layer(layer.formula).module(C, layout="btc", affine=False).double()(x),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_both_layouts_are_one_layer(name):
    a, b = (named_layer(name).module(C, layout=layout).double() for layout in ("btc", "nchw"))
    for seed in range(3):
        x = tokens(seed, (2, 12, C)).requires_grad_()
        y = x.detach().transpose(1, 2).reshape(2, C, 3, 4).requires_grad_()
        torch.testing.assert_close(a(x).transpose(1, 2).reshape(2, C, 3, 4), b(y))
        a(x).sum().backward()
        b(y).sum().backward()
        torch.testing.assert_close(x.grad.transpose(1, 2).reshape(2, C, 3, 4), y.grad)


@pytest.mark.parametrize("name", NAMES)
def test_residual_and_mask_of_nothing(name):
    layer = named_layer(name).module(C).double()
    twin = copy.deepcopy(layer)
    x, r = tokens(0), tokens(1)
    y, total = layer(x, r, mask=torch.zeros(4, 64, dtype=torch.bool))
    torch.testing.assert_close(y, twin(x + r))
    assert torch.equal(total, x + r)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_padding_leaves_finite_buffers(name):
    layer = named_layer(name).module(C).double()
    before = {n: b.clone() for n, b in layer.named_buffers() if b.is_floating_point() and b.ndim == 1}
    layer(tokens(0).requires_grad_(), mask=torch.ones(4, 64, dtype=torch.bool)).sum().backward()
    for n, b in before.items():
        torch.testing.assert_close(dict(layer.named_buffers())[n], b)


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_runs_without_a_gradient_of_x(name):
    """The first layer of a network gets data: its buffers of gradients have to move all the same."""
    layer = named_layer(name).module(C)
    layer(torch.randn(2, 5, C)).square().sum().backward()
    assert layer.gradient_average.abs().max() > 0
    assert layer.weight.grad.abs().max() > 0
    with torch.no_grad():
        assert layer(torch.randn(2, 5, C)).shape == (2, 5, C)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_there(name):
    """The stability test climbs the norm of the gradient."""
    layer = named_layer(name).module(C).double()
    x = tokens(0).requires_grad_()
    (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert torch.isfinite(h).all()
    assert h.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("power_norm", {"scaling_groups": 3}, "does not divide 8 channels"),
        ("power_norm", {"forward_decay": 1.0}, "forward_decay=1.0"),
        ("power_norm", {"warm_up": -1}, "warm_up=-1"),
        ("power_norm", {"window": 4}, "no option window"),
        ("unified_norm", {"window": 0}, "window=0"),
        ("unified_norm", {"decay": -0.1}, "decay=-0.1"),
        ("unified_norm", {"layout": "nhwc"}, "for btc and nchw"),
    ],
)
def test_what_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        named_layer(name).module(C, **options)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_tensors(name):
    layer = named_layer(name).module(C)
    with pytest.raises(UsageError, match=r"\(batch, tokens, channels\)"):
        layer(torch.randn(2, C, 5))
    with pytest.raises(UsageError, match="mask is"):
        layer(torch.randn(2, 5, C), mask=torch.zeros(2, 5))
    with pytest.raises(UsageError, match="residual is"):
        layer(torch.randn(2, 5, C), torch.randn(1, 5, C))


def test_group_scaling_by_hand():
    x = tokens(0)
    wanted = x / (x.view(4, 64, 2, 4).square().mean(-1, keepdim=True) + 1e-5).sqrt().repeat_interleave(
        4, -1
    ).view(x.shape)
    torch.testing.assert_close(GroupScaling(2)(x), wanted)
    images = x.transpose(1, 2).reshape(4, C, 8, 8)
    torch.testing.assert_close(
        GroupScaling(2, layout="nchw")(images).flatten(2).transpose(1, 2), GroupScaling(2)(x)
    )


def test_mean_ignores_what_is_not_finite_in_padding():
    a = torch.tensor([[[1.0], [3.0], [float("inf")]]])
    kept = torch.tensor([[[1.0], [1.0], [0.0]]])
    assert mean_over_positions(a, kept).item() == 2.0


def test_registering():
    def register(name, cls=PowerNorm, formulas=None):
        stateful_layer(name, formulas=formulas or {"btc": "x / rms[b,t](x)"}, source="nobody")(cls)

    for name in ("power_norm", "bn_relu"):
        with pytest.raises(PluginError, match="there is a layer"):
            register(name)
    with pytest.raises(PluginError, match="no name of a layer"):
        register("Acme Norm")
    with pytest.raises(PluginError, match="declares no contract"):
        register("acme_norm", torch.nn.Identity)
    with pytest.raises(UsageError, match="axis 'h'"):
        register("acme_norm", formulas={"btc": "x / rms[b,h](x)"})
    assert "acme_norm" not in STATEFUL
