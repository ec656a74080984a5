"""Statistics between those of training and those of the batch that is evaluated."""

from __future__ import annotations

import pytest
import torch

from evonas.errors import UsageError
from evonas.layers import named_layer, resolve_layer, source_weight

LAYERS = ("bn_relu", "evonorm_b0", "evonorm_b1", "x / rms[b,w,h,c/g](x) + mean[b](x)")


def images(seed: int, contrast: float = 1.0) -> torch.Tensor:
    x = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(seed))
    return contrast * (1.5 * x + 0.3)


def trained(name: str, **options: object) -> torch.nn.Module:
    module = resolve_layer(name).module(6, groups=3, **options)
    for seed in range(5):
        module(images(seed))
    return module.eval()


@pytest.mark.parametrize("name", LAYERS)
def test_both_ends(name):
    layer, x = trained(name), images(9, 0.35)
    usual = layer(x)
    with source_weight(layer, 1.0) as reached:
        assert torch.equal(layer(x), usual)
    assert reached == len(layer.statistics) > 0
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    with source_weight(layer, 0.0):
        batch = layer(x)
    assert torch.equal(layer(x), usual)
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    torch.testing.assert_close(batch, layer.train()(x), rtol=1e-6, atol=1e-6)
    assert (batch - usual).abs().max() > 0.05


def test_in_between():
    layer, x = trained("(x - mean[b,w,h](x)) / std[b,w,h](x)").double(), images(9, 0.35).double()
    mean, variance = (s.running.flatten() for s in layer.statistics)
    mu = 0.7 * mean + 0.3 * x.mean((0, 2, 3))
    var = 0.7 * variance + 0.3 * x.var((0, 2, 3), unbiased=False)
    with source_weight(torch.nn.Sequential(layer), 0.7):
        y = layer(x)
    wanted = (x - mu.view(-1, 1, 1)) / (var + 1e-5).sqrt().view(-1, 1, 1)
    torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)


def test_training_is_not_changed():
    a, b, x = trained("bn_relu").train(), trained("bn_relu").train(), images(3)
    with source_weight(a, 0.2):
        assert torch.equal(a(x), b(x))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_layers_without_running_statistics():
    layer, x = named_layer("gn_relu").module(6, groups=3).eval(), images(0)
    wanted = layer(x)
    with source_weight(layer, 0.0) as reached:
        assert torch.equal(layer(x), wanted)
    assert reached == 0


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weights_out_of_range(weight):
    with pytest.raises(UsageError, match="between 0"), source_weight(torch.nn.Identity(), weight):
        pass


def test_generated_c_gives_way():
    from evonas.kernels.c_runtime import compiler

    try:
        compiler()
    except Exception:
        pytest.skip("no C compiler")
    layer, x = trained("bn_relu", backend="c"), images(9, 0.35)
    with (
        source_weight(layer, 0.5),
        pytest.raises(UsageError, match="statistics of training and of the batch"),
    ):
        layer(x)
    layer.strict = False
    reference = trained("bn_relu", backend="eager")
    with source_weight(layer, 0.5), source_weight(reference, 0.5):
        torch.testing.assert_close(layer(x), reference(x), rtol=1e-4, atol=1e-4)
