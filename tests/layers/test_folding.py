"""Folding: what is affine and what is not, every kind of map, whole models, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from evonas.errors import EvonasError, UsageError
from evonas.graph import Graph
from evonas.layers import Folded, StatefulLayer, fold, fold_layer, resolve_layer, source_weight
from evonas.layers.affine_form import eval_forms, not_affine
from evonas.layers.affine_values import eval_affine

BN = "(x - mean[b,w,h](x)) / std[b,w,h](x)"
TOKENS = "(x - mean[b,t](x)) / rms[b,t](x)"

AFFINE = [
    "x",
    "-x",
    "0",
    BN,
    "x / std[b,w,h](x)",
    "v1 * x + v0",
    "x * sigmoid(v1) / rms[b,w,h,c/g](x)",
    "(x + v0) / (std[b,w,h](x) + std[b,w,h,c](x * x)) - mean[b,w,h](max(x, 0))",
    "x - mean[c](v0) * 3 + x",
    "x / max(std[b,w,h](x), v1)",
    "x + mean[b](x)",
    "x * tanh(mean[b,w,h](x * x)) - (x - v0) * 0.5",
]
NOT_AFFINE = {
    "max(x, 0)": "max(x, 0) is not affine in x",
    f"max({BN}, 0)": "is not affine in x",
    "x / std[w,h](x)": "std[w,h](x) has no running average",
    "x / rms[c](x)": "rms[c](x) has no running average",
    "x - mean[w,h,c/g](x)": "mean[w,h,c/g](x) has no running average",
    "x * x": "is not affine in x",
    "v1 / x": "v1 / x is not affine in x",
    "x / max(std[b,w,h](x), v1 * x + std[w,h](x))": "std[w,h](x) has no running average",
    "x * sigmoid(v1 * x) / std[b,w,h](x)": "sigmoid(v1 * x) is not affine in x",
}


def data(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1.5 * x + 0.3


def trained(text: str, channels: int = 6, layout: str | None = None, **options: object) -> nn.Module:
    """In float64, with parameters off their start and statistics of a few batches."""
    layer = resolve_layer(text)
    where = layout or ("nchw" if not layer.stateful else layer.layout)
    graphs = {} if layer.stateful else {"groups": 3}
    module = layer.module(channels, layout=where, **graphs, **options).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    for seed in range(5):
        module(data(seed, (4, channels, 5, 3) if where == "nchw" else (4, 7, channels)))
    return module.eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("text", AFFINE)
def test_affine_graphs(text):
    assert not_affine(Graph.parse(text)) is None
    layer, x = trained(text), data(9, (2, 6, 4, 5))
    scale, shift, rest = eval_affine(layer)
    assert rest is None
    close(layer(x), x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))


@pytest.mark.parametrize("text", NOT_AFFINE)
def test_graphs_that_are_not(text):
    reason = not_affine(Graph.parse(text))
    assert reason is not None
    assert NOT_AFFINE[text] in reason
    with pytest.raises(UsageError, match="is not affine per channel at evaluation"):
        eval_affine(trained(text))
    scale = trained(text)(torch.ones(1, 6, 4, 4, dtype=torch.float64) * 2) - trained(text)(
        torch.ones(1, 6, 4, 4, dtype=torch.float64)
    )
    x = data(9, (1, 6, 4, 4))
    shift = trained(text)(torch.zeros_like(x))
    assert (trained(text)(x) - (scale * x + shift)).abs().max() > 1e-3


def test_proof_and_numbers_agree_on_random_graphs():
    """What is proved is so when it runs; what is not proved is not so, but for affine functions in disguise."""
    from evonas import search_spaces
    from evonas.rng import Draws

    space = search_spaces.get("norm_act")
    proved, others, disguised = 0, 0, 0
    for n in range(6000):
        graph = space.graph(space.random(Draws("folding", 0, n))).active()
        if "x" not in graph.leaves or not graph.uses_batch or str(graph).count("exp"):
            continue
        assert len(eval_forms(graph)) == len(graph.leaves) + len(graph.nodes)
        layer = trained(str(graph))
        if not_affine(graph) is None:
            eval_affine(layer)  # raises if running the layer says otherwise
            proved += 1
            continue
        x, one = data(9, (1, 6, 4, 4)), torch.ones(1, 6, 4, 4, dtype=torch.float64)
        shift = layer(0 * one)
        difference = layer(x) - ((layer(one) - shift) * x + shift)
        others += 1
        disguised += bool(difference.abs().max() < 1e-9)
    assert proved >= 20
    assert others >= 20
    assert disguised < others / 4


MAPS = {
    "linear": lambda: nn.Linear(6, 6),
    "linear without bias": lambda: nn.Linear(6, 6, bias=False),
    "1x1": lambda: nn.Conv2d(6, 6, 1),
    "3x3": lambda: nn.Conv2d(6, 6, 3, bias=False),
    "strided, dilated": lambda: nn.Conv2d(6, 6, (3, 2), stride=2, dilation=(1, 2)),
    "grouped": lambda: nn.Conv2d(6, 6, 3, groups=3),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "depthwise, multiplied": lambda: nn.Conv2d(6, 12, 3, groups=6),
    "wider": lambda: nn.Conv2d(6, 10, 3, groups=2),
    "reflected": lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
    "conv1d": lambda: nn.Conv1d(6, 6, 3, groups=2),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MAPS[name]().double()


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("name", MAPS)
def test_every_map(name, position):
    linear = made(name)
    images = isinstance(linear, nn.Conv2d)
    out = getattr(linear, "out_channels", 6)
    channels = out if position == "after" else 6
    layer = trained(BN if images else TOKENS, channels, "nchw" if images else "btc")
    before = copy.deepcopy(linear)
    folded = fold_layer(layer, linear, position)
    assert all(torch.equal(a, b) for a, b in zip(linear.parameters(), before.parameters(), strict=True))
    assert type(folded) is type(linear)
    x = data(9, (2, 6, 8, 9) if images else (2, 6, 9) if name == "conv1d" else (2, 9, 6))

    def whole(x):
        def turned(module, y):
            return module(y.transpose(1, 2)).transpose(1, 2) if name == "conv1d" else module(y)

        return turned(layer, linear(x)) if position == "after" else linear(turned(layer, x))

    close(folded(x), whole(x))


@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_a_shift_before_zero_padding_is_refused(padding):
    layer, linear = trained(BN), nn.Conv2d(6, 6, 3, padding=padding).double()
    with pytest.raises(UsageError, match="pads with zeros"):
        fold_layer(layer, linear, "before")
    # and rightly: what the fold would have been is wrong at the border alone
    open_, x = copy.deepcopy(linear), data(9, (2, 6, 8, 8))
    open_.padding = (0, 0)
    wrong = fold_layer(layer, open_, "before")
    wrong.padding, wrong._reversed_padding_repeated_twice = (
        linear.padding,
        linear._reversed_padding_repeated_twice,
    )
    difference = (wrong(x) - linear(layer(x))).abs().amax((0, 1))
    assert difference.max() > 1e-3
    assert difference[1:-1, 1:-1].max() < 1e-10
    close(fold_layer(layer, linear, "after")(x), layer(linear(x)))


def test_a_scale_before_zero_padding_is_folded():
    layer, linear = trained("x / std[b,w,h](x)", affine=False), nn.Conv2d(6, 6, 3, padding=1).double()
    x = data(9, (2, 6, 8, 8))
    close(fold_layer(layer, linear, "before")(x), linear(layer(x)))


def test_unified_norm_folds_on_both_sides():
    layer, linear, x = trained("unified_norm"), made("linear"), data(9, (2, 9, 6))
    close(fold_layer(layer, linear, "before")(x), linear(layer(x)))
    close(fold_layer(layer, linear, "after")(x), layer(linear(x)))


@pytest.mark.parametrize("groups", [1, 2])
def test_power_norm_folds_all_but_its_group_scaling(groups):
    layer, linear, x = trained("power_norm", scaling_groups=groups), made("linear"), data(9, (2, 9, 6))
    folded = fold_layer(layer, linear, "before")
    assert [type(m).__name__ for m in folded] == ["GroupScaling", "Linear"]
    close(folded(x), linear(layer(x)))
    with pytest.raises(UsageError, match=r"GroupScaling.* stands between"):
        fold_layer(layer, linear, "after")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        trained(BN),
        nn.ReLU(),
        trained("x / std[b,w,h](x)"),
        nn.Identity(),
        nn.Conv2d(6, 12, 3, groups=6, padding=1, padding_mode="circular"),
        nn.Dropout(),
        trained(BN, 12),
        trained("evonorm_b0", 12),
        nn.Conv2d(12, 6, 1),
        trained("bn_relu"),
        nn.Sequential(trained("v1 * x + v0"), nn.Conv2d(6, 6, 3, padding=1)),
        nn.AdaptiveAvgPool2d(1),
    ).double()


def test_a_model():
    model, x = network(), data(9, (2, 3, 8, 8))
    names = set(model.state_dict())
    result = fold(model, example=x)
    assert isinstance(result, Folded)
    close(result.model(x), copy.deepcopy(model).eval()(x))
    assert set(model.state_dict()) == names
    assert {f.name: (f.into, f.position) for f in result.folded} == {
        "1": ("0", "after"),
        "3": ("5", "before"),
        "7": ("5", "after"),
    }
    reasons = {k.name: k.reason for k in result.kept}
    assert set(reasons) == {"8", "10", "11.0"}
    assert "std[w,h](x) has no running average" in reasons["8"]
    assert "is not affine in x" in reasons["10"]
    assert "pads with zeros" in reasons["11.0"]
    assert "1 (" in str(result)
    assert len(str(result).splitlines()) == 6
    assert not result.model.training


def test_tokens_in_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6),
        trained("unified_norm"),
        nn.Tanh(),
        trained("power_norm"),
        nn.Linear(6, 4, bias=False),
    ).double()
    x = data(9, (2, 9, 5))
    result = fold(model, example=x)
    close(result.model(x), model.eval()(x))
    assert [f.name for f in result.folded] == ["1", "3"]
    assert result.folded[1].rest.startswith("GroupScaling")
    assert result.kept == ()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map, self.norm = nn.Conv2d(6, 6, 1), trained(BN)

    def forward(self, x):
        return x + self.norm(self.map(x))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: Block(), "not in an nn.Sequential"),
        (lambda: nn.Sequential(nn.ReLU(), trained(BN)), "no linear map or convolution stands beside it"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(6, 6, 1), trained(BN)), "no linear map or convolution"),
        (lambda: nn.Sequential(weight_norm(nn.Conv2d(6, 6, 1)), trained(BN)), "ParametrizedConv2d"),
        (lambda: nn.Sequential(nn.Linear(6, 6), trained(BN)), "Linear goes with layout btc"),
        (lambda: nn.Sequential(nn.Conv1d(6, 6, 1), trained(TOKENS, layout="btc")), "channels second"),
        (lambda: nn.Sequential(c := nn.Conv2d(6, 6, 1), trained(BN), nn.ReLU(), c), "more than one place"),
        (lambda: nn.Sequential(hooked(nn.Conv2d(6, 6, 1)), trained(BN)), "has hooks"),
    ],
)  # fmt: skip
def test_what_stays_in_a_model(build, reason):
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = fold(model)
    assert result.folded == ()
    assert [reason in k.reason for k in result.kept] == [True], result.kept
    assert all(torch.equal(v, result.model.state_dict()[k]) for k, v in before.items())


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda m, a, y: y)
    return module


def test_tied_weights_stay():
    model = nn.Sequential(nn.Linear(6, 6), trained("unified_norm"), nn.Linear(6, 6)).double()
    model[2].weight = model[0].weight
    assert "more than one place" in fold(model).kept[0].reason


def test_a_parent_that_reaches_into_its_sequential_is_found_by_an_example():
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(6, 6, 1), trained(BN)).double()

        def forward(self, x):
            return self.body(x) + self.body[0](x)

    with pytest.raises(EvonasError, match="differs by"):
        fold(Peeks(), example=data(9, (2, 6, 4, 4)))


def test_mixed_statistics_are_not_folded():
    layer = trained(BN)
    with source_weight(layer, 0.5), pytest.raises(UsageError, match="source_weight is not 1"):
        fold_layer(layer, made("1x1"))


def test_a_class_that_says_it_is_affine_and_is_not_is_found():
    class Lies(StatefulLayer):
        contract = resolve_layer("unified_norm").contract

        def eval_affine(self):
            return self.folded(self.running_var)

        def eval_form(self, x):
            return x.tanh()

    with pytest.raises(EvonasError, match="was taken for affine"):
        fold_layer(Lies(6, sizes={"window": 4, "backward_window": 4}), made("linear"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    layer, linear, x = trained(BN).to(dtype), made("3x3").to(dtype), data(9, (2, 6, 8, 8)).to(dtype)
    folded = fold_layer(layer, linear)
    assert folded.weight.dtype == folded.bias.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(folded(x), layer(linear(x)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("layer", "linear", "position", "message"),
    [
        (lambda: trained(BN), lambda: nn.Conv2d(6, 5, 1), "after", "output of the map 5"),
        (lambda: trained(BN), lambda: nn.Conv2d(5, 6, 1), "before", "input of the map 5"),
        (lambda: trained(BN), lambda: nn.Conv2d(6, 6, 1), "beside", "'before' or 'after'"),
        (lambda: nn.BatchNorm2d(6), lambda: nn.Conv2d(6, 6, 1), "after", "no layer of evonas"),
        (lambda: trained(BN), lambda: nn.ReLU(), "after", "ReLU is not folded into"),
    ],
)
def test_what_is_refused(layer, linear, position, message):
    with pytest.raises(UsageError, match=message):
        fold_layer(layer(), linear(), position)
