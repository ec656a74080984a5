"""muP: roles by shape, scales, multipliers and rates, and the coordinate check that they are for."""

import json
import math
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import evonas.proxies as proxies
from evonas.errors import UsageError
from evonas.layers.layer import named_layer, resolve_layer
from evonas.proxies.coordinates import Whole, coordinate_check, slope
from evonas.proxies.optimisers import make_optimiser
from evonas.proxies.parametrization import Multiplier, parametrize, rate_factor
from evonas.proxies.roles import growths, meta


class Mlp(nn.Module):
    """Inputs -> width -> width -> outputs, ReLU."""

    def __init__(self, width, inputs=8, outputs=4):
        super().__init__()
        self.h1, self.h2, self.out = (
            nn.Linear(inputs, width),
            nn.Linear(width, width),
            nn.Linear(width, outputs),
        )

    def forward(self, x):
        return self.out(torch.relu(self.h2(torch.relu(self.h1(x)))))


class Attention(nn.Module):
    """Four heads; the width goes into the heads."""

    def __init__(self, width):
        super().__init__()
        self.heads, self.head_dim = 4, width // 4
        self.logit_scale = self.head_dim**-0.5
        self.qkv, self.back = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        weights = (self.logit_scale * q @ k.transpose(-1, -2)).softmax(-1)
        return self.back((weights @ v).transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """A language model of one block; the readout is tied to the embedding if asked for."""

    def __init__(self, width, make_layer=None, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.layer = nn.Identity() if make_layer is None else make_layer(width)
        self.attention = Attention(width)
        self.gain = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(self.gain * (x + self.attention(self.layer(x))))


def _seeded(make):
    def build(width, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Whole(make(width))

    return build


def _roles(make, base, width, **options):
    network = make(width)
    found = growths(network, meta(lambda: make(base)), meta(lambda: make(8 * width)), **options)
    return network, found


def test_roles_of_a_token_network_come_from_the_shapes():
    _, found = _roles(Tokens, 16, 64)
    roles = {name: growth.role for name, growth in found.items()}
    assert roles == {
        "gain": "vector", "embed.weight": "input", "attention.qkv.weight": "hidden",
        "attention.back.weight": "hidden", "head.weight": "readout",
    }  # fmt: skip
    assert [found["attention.qkv.weight"].fan_in, found["attention.qkv.weight"].fan_out] == [4.0, 4.0]
    assert {found[n].size for n in ("gain", "embed.weight", "head.weight")} == {4.0}
    assert found["head.weight"].base == (11, 16)


def test_roles_of_convolutions_and_of_layers():
    """Depthwise kernels have one axis that grows; the vectors of a layer are vectors in any shape."""

    class Site(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.v1, self.s0 = nn.Parameter(torch.ones(1, channels, 1, 1)), nn.Parameter(torch.zeros(1))

    def make(width):
        return nn.ModuleDict({
            "stem": nn.Conv2d(3, width, 3), "depthwise": nn.Conv2d(width, width, 3, groups=width),
            "grouped": nn.Conv2d(width, 2 * width, 3, groups=4), "site": Site(width),
            "head": nn.Linear(2 * width, 10),
        })  # fmt: skip

    network = make(16)
    vectors = frozenset(id(p) for p in network["site"].parameters())
    found = growths(network, meta(lambda: make(8)), meta(lambda: make(128)), vectors=vectors)
    roles = {name: growth.role for name, growth in found.items()}
    assert roles == {
        "stem.weight": "input", "stem.bias": "vector", "depthwise.weight": "input", "depthwise.bias": "vector",
        "grouped.weight": "hidden", "grouped.bias": "vector", "site.v1": "vector", "site.s0": "fixed",
        "head.weight": "readout", "head.bias": "fixed",
    }  # fmt: skip
    assert (found["grouped.weight"].fan_in, found["grouped.weight"].fan_out) == (2.0, 2.0)


def test_roles_can_be_said_by_the_network_and_by_the_caller():
    class Says(Mlp):
        parameter_roles = MappingProxyType({"h2.weight": "input", "h1.bias": "fixed"})

    _, found = _roles(Says, 8, 16, overrides={"h1.bias": "vector"})
    assert [found[n].role for n in ("h2.weight", "h1.bias")] == ["input", "vector"]
    with pytest.raises(UsageError, match=r"h3\.weight"):
        _roles(Mlp, 8, 16, overrides={"h3.weight": "input"})
    with pytest.raises(UsageError, match="hiden"):
        _roles(Mlp, 8, 16, overrides={"h2.weight": "hiden"})


def test_rates_and_decays_by_role():
    built = Whole(Mlp(64))
    names = {id(p): n for n, p in built.network.named_parameters()}

    def factors(optimiser):
        groups = parametrize(
            built, kind="mup", base_width=16, width=64, network=Mlp, optimiser=optimiser, weight_decay=0.1
        )
        for group in groups:
            assert group["weight_decay"] * group["lr_scale"] in (pytest.approx(0.1), 0.0)
        return {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}, groups

    adaptive, groups = factors("adamp")
    assert adaptive == {
        "h1.weight": 1.0, "h1.bias": 1.0, "h2.weight": 0.25, "h2.bias": 1.0, "out.weight": 1.0, "out.bias": 1.0,
    }  # fmt: skip
    assert {names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]} == {
        "h1.weight", "h2.weight", "out.weight",
    }  # fmt: skip
    plain, _ = factors("sgd")
    assert plain == {
        "h1.weight": 4.0, "h1.bias": 4.0, "h2.weight": 1.0, "h2.bias": 4.0, "out.weight": 4.0, "out.bias": 1.0,
    }  # fmt: skip


def test_a_matrix_that_is_not_square():
    _, found = _roles(lambda w: nn.Linear(w, w * w // 8), 8, 32)
    growth = found["weight"]
    assert (growth.fan_in, growth.fan_out) == (4.0, 16.0)
    assert rate_factor(growth, adaptive=False) == 4.0
    assert rate_factor(growth, adaptive=True) == 0.25


def test_initial_scales_and_the_readout():
    """Inputs and readout keep the base width's scale, hidden weights fall with the square root of their fan-in."""
    built = _seeded(Mlp)(256, 0)
    before = {n: p.detach().clone() for n, p in built.network.named_parameters()}
    x = torch.randn(5, 8)
    parametrize(built, kind="mup", base_width=16, width=256, network=Mlp)
    ratio = {n: float((p.detach() / before[n]).mean()) for n, p in built.network.named_parameters()}
    assert ratio["h1.weight"] == 1.0
    assert ratio["h2.weight"] == pytest.approx(1.0)  # 1 / fan-in already
    assert ratio["out.weight"] == pytest.approx(4.0)  # sqrt(16): as at the base width
    hidden = torch.relu(built.network.h2(torch.relu(built.network.h1(x))))
    expected = F.linear(hidden, built.network.out.weight / 16, built.network.out.bias)
    torch.testing.assert_close(built.network(x), expected)
    constant = _seeded(Mlp)(256, 0)
    parametrize(constant, kind="mup", base_width=16, width=256, network=Mlp, initial=lambda *_: None)
    torch.testing.assert_close(constant.network.h2.weight.detach(), before["h2.weight"] / 4)
    assert torch.equal(constant.network.out.weight.detach(), before["out.weight"])


def test_a_readout_that_takes_its_multiplier_as_an_attribute_gets_no_hook():
    class Head(nn.Linear):
        multiplier = 1.0

        def forward(self, x):
            return super().forward(x * self.multiplier)

    class Own(Mlp):
        def __init__(self, width):
            super().__init__(width)
            self.out = Head(width, 4)

    built = Whole(Own(32))
    parametrize(built, kind="mup", base_width=16, width=32, network=Own, zero_readout=True)
    assert built.network.out.multiplier == 0.5
    assert not built.network.out._forward_pre_hooks
    assert not built.network.out.weight.any()


def test_attention_and_tied_weights():
    def make(width):
        return Tokens(width, tied=True)

    built = Whole(make(64))
    before = built.network.embed.weight.detach().clone()
    groups = parametrize(built, kind="mup", base_width=16, width=64, network=make)
    attention = built.network.attention
    assert attention.logit_scale == pytest.approx(4**-0.5 * 4 / 16)
    hook = next(iter(built.network.head._forward_pre_hooks.values()))
    assert isinstance(hook, Multiplier)
    assert hook.factor == 0.25
    assert torch.equal(built.network.embed.weight.detach(), before)
    assert sum(len(g["params"]) for g in groups) == len(list(built.network.parameters())) == 4


@pytest.mark.parametrize("kind", ["standard", "mup"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "efficientnet"])
def test_the_base_width_is_the_standard_parametrization_bit_for_bit(name, kind):
    proxy = proxies.get(name)
    make = named_layer("evonorm_s0").module

    def layer(channels):
        return make(channels, backend="eager", groups=4)

    def network(width):
        return proxy.network(proxy.spec.replace(width=width), layer, 1, 10)

    built, plain = proxies.build(proxy, layer, 0), proxies.build(proxy, layer, 0)
    width = proxy.spec.width
    groups = parametrize(
        built, kind=kind, base_width=width, width=width, network=network, optimiser="sgd", weight_decay=1e-4
    )
    for a, b in zip(built.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [(g["weight_decay"], g["lr_scale"]) for g in groups] == [(1e-4, 1.0), (0.0, 1.0)]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in built.decayed()]
    assert not any(m._forward_pre_hooks for m in built.network.modules())


def test_layers_of_a_wider_proxy_are_vectors():
    proxy = proxies.get("mobilenet", width=1 / 2)
    make = named_layer("evonorm_s0").module

    def layer(channels):
        return make(channels, backend="eager", groups=4)

    def network(width):
        return proxy.network(proxy.spec.replace(width=width), layer, 1, 10)

    built = proxies.build(proxy, layer, 0)
    groups = parametrize(built, kind="mup", base_width=1 / 4, width=1 / 2, network=network, optimiser="sgd")
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    sites = [scale[id(p)] for site in built.sites for p in site.parameters()]
    assert len(sites) == 3 * len(built.sites)
    # the head's 256 channels do not grow below width 1, and channels are rounded to multiples
    assert set(sites) == {1.0, 1.5, 2.0}
    assert scale[id(built.network[0].weight)] == 2.0
    assert built.network(torch.randn(2, 1, 12, 12)).isfinite().all()


def test_bad_input_says_what_is_needed():
    with pytest.raises(UsageError, match="mup"):
        parametrize(Whole(Mlp(8)), kind="muP", base_width=8, width=8, network=Mlp)
    with pytest.raises(UsageError, match="other widths"):
        parametrize(Whole(Mlp(8)), kind="mup", base_width=8, width=8)
    with pytest.raises(UsageError, match="above 0"):
        parametrize(Whole(Mlp(8)), kind="mup", base_width=0, width=8, network=Mlp)
    with pytest.raises(UsageError, match="one function must build all"):
        parametrize(Whole(Mlp(8)), kind="mup", base_width=8, width=8, network=lambda w: nn.Linear(w, w))
    with pytest.raises(UsageError, match="at least two"):
        coordinate_check(_seeded(Mlp), Mlp, [8], torch.zeros(1, 8), torch.sum, kind="mup")
    with pytest.raises(UsageError, match="no module 'h9'"):
        coordinate_check(_seeded(Mlp), Mlp, [8, 16], torch.zeros(1, 8), torch.sum, kind="mup", modules=["h9"])


def test_slopes():
    assert slope([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([1, 2, 4], [3.0, 3.0, 3.0]) == pytest.approx(0.0)
    assert math.isnan(slope([1, 2], [1.0, math.inf]))
    assert math.isnan(slope([1, 2], [1.0, 0.0]))


def _mlp_slopes(kind, widths, seeds, **options):
    g = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(64, 32, generator=g), torch.randint(10, (64,), generator=g)

    def make(width):
        return Mlp(width, 32, 10)

    found = coordinate_check(
        _seeded(make), make, widths, inputs, lambda y: F.cross_entropy(y, labels), kind=kind, seeds=seeds,
        **options,
    )  # fmt: skip
    assert set(found.slopes) == {"h1", "h2", "out"}
    return found.slopes


def test_coordinates_of_an_mlp():
    widths = (64, 128, 256, 512, 1024)
    mup, standard = (_mlp_slopes(kind, widths, (0, 1, 2)) for kind in ("mup", "standard"))
    assert abs(mup["h2"]) <= 0.15
    assert standard["h2"] >= 0.5
    assert abs(mup["out"]) <= 0.15


def test_coordinates_of_attention_with_a_layer_inside():
    """A normalised token network: everything moves as far at every width."""
    layer = resolve_layer("(x - mean[c](x)) / std[c](x)")
    tokens = torch.randint(11, (8, 24), generator=torch.Generator().manual_seed(1))

    def make(width):
        return Tokens(width, lambda c: layer.module(c, layout="btc", backend="eager"))

    def loss(y):
        return F.cross_entropy(y[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    slopes = [
        coordinate_check(_seeded(make), make, (32, 64, 128), tokens, loss, kind=kind, seeds=(0, 1)).slopes
        for kind in ("mup", "standard")
    ]
    assert set(slopes[0]) >= {"embed", "layer", "attention.qkv", "attention.back", "head"}
    assert all(abs(value) <= 0.15 for value in slopes[0].values()), slopes[0]
    assert slopes[1]["head"] >= 0.4


def test_a_training_of_a_parametrized_network_lowers_the_loss():
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(64, 8, generator=g), torch.randint(4, (64,), generator=g)
    built = _seeded(Mlp)(128, 0)
    groups = parametrize(built, kind="mup", base_width=16, width=128, network=Mlp, weight_decay=0.01)
    optimiser = make_optimiser("adamw", groups, lr=1e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.cross_entropy(built.network(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["transformer", "transnormer"])
def test_the_recorded_check_of_the_language_models(name):
    """benchmarks/coordinate_check.py: nothing grows with the width in muP, in the standard parametrization it does."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "coordinate_check.json"
    rows = {r["parametrization"]: r for r in json.loads(path.read_text("utf-8")) if r["proxy"] == name}
    base = proxies.get(name).spec.base_width
    assert all(r["widths"] == [base, 2 * base, 4 * base] and not r["not_finite"] for r in rows.values())
    assert max(rows["mup"]["slopes"].values()) <= 0.15
    assert abs(rows["mup"]["median"]) <= 0.15
    assert max(rows["standard"]["slopes"].values()) >= 0.5
