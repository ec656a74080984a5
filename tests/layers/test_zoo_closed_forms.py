"""Every layer of the zoo equals its closed form: forward and gradients, train and eval, float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from closed_forms import FORMS, Running

from evonas.layers import ZOO, named_layer, vector_parameters

CHANNELS, GROUPS = 6, 3


def batch(seed: int, shape: tuple[int, ...] = (4, CHANNELS, 5, 3)) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * 1.7 + 0.4


def perturbed(name: str) -> torch.nn.Module:
    """A module in float64 whose parameters are not at their start."""
    module = named_layer(name).module(CHANNELS, groups=GROUPS).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return module


def test_the_zoo_is_complete():
    assert set(FORMS) == set(ZOO)


def parameters_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = dict(module.named_parameters())
    return {
        name: found[name].detach().clone().requires_grad_() if name in found
        else torch.full((CHANNELS,), float(name in ("v1", "weight")), dtype=torch.float64, requires_grad=True)
        for name in ("v0", "v1", "s0", "s1", "weight", "bias")
    }  # fmt: skip


def compare(module, form, running, x) -> None:
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    free = parameters_of(module)
    shaped = {name: p.view(1, -1, 1, 1) for name, p in free.items()}
    y = module(own)
    vectors = ("s0", "s1") if module.s1 is not None else ("v0", "v1")
    wanted = form(other, *(shaped[v] for v in vectors), running, GROUPS) * shaped["weight"] + shaped["bias"]
    torch.testing.assert_close(y, wanted, rtol=1e-11, atol=1e-12)
    g = batch(99, tuple(x.shape))
    present = dict(module.named_parameters())
    got = torch.autograd.grad((y * g).sum(), [own, *present.values()])
    expected = torch.autograd.grad((wanted * g).sum(), [other, *(free[n] for n in present)])
    for name, a, b in zip(["x", *present], got, expected, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"gradient of {name}: {m}"
        )


@pytest.mark.parametrize("start", [True, False], ids=["as initialized", "perturbed"])
@pytest.mark.parametrize("name", ZOO)
def test_closed_form(name, start):
    module = named_layer(name).module(CHANNELS, groups=GROUPS).double() if start else perturbed(name)
    running = Running(CHANNELS)
    for seed in range(4):
        compare(module, FORMS[name], running, batch(seed))
    module.eval()
    running.training = False
    compare(module, FORMS[name], running, batch(10))
    compare(module, FORMS[name], running, batch(11)[:1])
    module.train()
    running.training = True
    compare(module, FORMS[name], running, batch(12))


@pytest.mark.parametrize("name", ZOO)
def test_parameters_are_those_that_the_formula_names(name):
    module = named_layer(name).module(CHANNELS)
    wanted = {v for v in ("v0", "v1", "s0", "s1") if v in ZOO[name].formula} | (
        {"weight", "bias"} if ZOO[name].affine else set()
    )
    assert {n for n, _ in module.named_parameters()} == wanted
    assert {id(p) for p in vector_parameters(torch.nn.Sequential(module))} == {
        id(p) for p in module.parameters()
    }
    plain = named_layer(name).module(CHANNELS, affine=False)
    assert {n for n, _ in plain.named_parameters()} == wanted - {"weight", "bias"}
    for n, p in module.named_parameters():
        assert p.shape == ((1,) if n in ("s0", "s1") else (CHANNELS,))
        assert (p == float(n in ("v1", "s1", "weight"))).all()


def test_against_torch_batch_norm():
    """torch corrects the running variance by n / (n - 1); everything else is the same."""
    ours = named_layer("bn_relu").module(CHANNELS).double()
    theirs = torch.nn.BatchNorm2d(CHANNELS).double()
    for seed in range(3):
        x = batch(seed)
        torch.testing.assert_close(ours(x), torch.relu(theirs(x)))
    mean, variance = ours.statistics[0].running, ours.statistics[1].running
    torch.testing.assert_close(mean.flatten(), theirs.running_mean)
    n = 4 * 5 * 3
    biased = (theirs.running_var - 0.9**3) * (n - 1) / n + 0.9**3
    torch.testing.assert_close(variance.flatten(), biased)


def test_s0_limits():
    """v1 = 0 gives x / (2 s), a very large v1 relu(x) / s, v1 = 1 is S1."""
    x = batch(0)
    s0, s1 = (
        named_layer("evonorm_s0").module(CHANNELS, groups=GROUPS).double(),
        named_layer("evonorm_s1").module(CHANNELS, groups=GROUPS).double(),
    )
    torch.testing.assert_close(s0(x), s1(x))
    s = (
        torch.sqrt(x.view(4, GROUPS, -1).var(-1, unbiased=False) + 1e-5)
        .view(4, GROUPS, 1, 1)
        .repeat_interleave(2, 1)
    )
    torch.nn.init.zeros_(s0.v1)
    torch.testing.assert_close(s0(x), x / (2 * s))
    torch.nn.init.constant_(s0.v1, 1e9)
    torch.testing.assert_close(s0(x), torch.relu(x) / s)


def test_b0_shape_of_the_function():
    """Reference, measured on Gaussian input: at most about 0.8, at least about -4.2, mean -0.21, deviation 0.74."""
    x = torch.randn(64, 32, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = named_layer("evonorm_b0").module(32).double()(x)
    assert 0.7 < y.max() < 0.9
    assert -5.5 < y.min() < -3.5
    assert abs(y.mean() + 0.21) < 0.02
    assert abs(y.std() - 0.74) < 0.03


def test_s0_and_gn_swish_differ_by_centring_alone():
    x = torch.randn(64, 32, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s0, gn = (named_layer(n).module(32, groups=8).double()(x) for n in ("evonorm_s0", "gn_silu"))
    assert ((s0 - gn).abs().mean() / gn.abs().mean()).item() == pytest.approx(0.07, abs=0.02)


@pytest.mark.parametrize("name", [n for n in ZOO if "bn" not in n and "_b" not in n])
def test_a_sample_alone_equals_the_sample_in_a_batch(name):
    module = perturbed(name)
    x = batch(0)
    alone = torch.cat([module(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, module(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("act", ["relu", "silu", "gelu"])
def test_tokens(act):
    """LayerNorm over channels, as in a Transformer: the index set c in layout btc."""
    from evonas.layers import resolve_layer

    text = named_layer(f"ln_{act}").formula.replace("[w,h,c]", "[c]")
    module = resolve_layer(text).module(CHANNELS, layout="btc").double()
    x = torch.randn(2, 7, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = {"relu": torch.relu, "silu": F.silu, "gelu": F.gelu}[act](F.layer_norm(x, (CHANNELS,), eps=1e-5))
    torch.testing.assert_close(module(x), wanted)
