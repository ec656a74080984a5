"""The exported ``fold`` does what ``evonas.layers.fold_layer`` does, on everything that either takes or refuses."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from export_support import load
from torch import nn

import evonas
from evonas.errors import UsageError
from evonas.layers import fold_layer

OPTIONS = {
    "power_norm": {"scaling_groups": 2, "warm_up": 2},
    "unified_norm": {"warm_up": 2},
    "v1 * x / rms[b](x) - v0": {},
    "v1 * x - v0": {},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ModuleType]:
    return request.param, load(evonas.export(request.param, out=tmp_path_factory.mktemp("fold") / "b").path)


def pair(written: tuple[str, ModuleType], layout: str, affine: bool) -> tuple[nn.Module, nn.Module]:
    """The exported layer and that of evonas after a few steps, in one state."""
    name, module = written
    torch.manual_seed(0)
    ours = evonas.layer(name).module(8, layout=layout, affine=affine, backend="eager", **OPTIONS[name])
    suffix = {"btc": "Tokens", "nchw": "2d"}[layout]
    kinds = [getattr(module, one) for one in module.__all__]
    kind = next((k for k in kinds if getattr(k, "layout", "") == layout or k.__name__.endswith(suffix)), None)
    if kind is None:
        pytest.skip(f"the bundle has no class for {layout}")
    theirs = kind(8, affine=affine, **OPTIONS[name])
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.uniform_(0.5, 2.0)
    for _ in range(4):
        ours(torch.randn(3, 5, 8) if layout == "btc" else torch.randn(3, 8, 4, 4)).sum().backward()
    for mine, its in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        its.copy_(mine.reshape(its.shape))
    return theirs.eval(), ours.eval()


def maps() -> Iterator[nn.Module]:
    for bias in (True, False):
        yield nn.Linear(8, 8, bias=bias)
        yield nn.Conv1d(8, 8, 3, bias=bias)
        yield nn.Conv1d(8, 8, 1, bias=bias, padding="same")
        yield nn.Conv2d(8, 8, 3, bias=bias, groups=4)
        yield nn.Conv2d(8, 8, 1, bias=bias, padding="same")
        yield nn.Conv2d(8, 8, 3, bias=bias, padding="same")
        yield nn.Conv2d(8, 8, 3, bias=bias, padding=(0, 1))
        yield nn.Conv2d(8, 8, 3, bias=bias, padding=1, padding_mode="circular")
    yield nn.Linear(8, 3)
    yield nn.Linear(3, 8)
    yield nn.ConvTranspose2d(8, 8, 1)
    yield nn.Linear(8, 8).double()
    for frozen in ("weight", "bias"):
        one = nn.Conv2d(8, 8, 2)
        getattr(one, frozen).requires_grad_(False)
        yield one
    yield nn.Linear(8, 8, bias=False).requires_grad_(False)


@pytest.mark.parametrize("layout", ["btc", "nchw"])
@pytest.mark.parametrize("affine", [True, False])
def test_as_evonas_folds(written: tuple[str, ModuleType], layout: str, affine: bool) -> None:
    theirs, ours = pair(written, layout, affine)
    folded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cases = [(linear, position) for linear in maps() for position in ("after", "before")]
    for linear, position in cases:
        try:
            wanted = fold_layer(ours, linear, position)
        except UsageError:
            with pytest.raises(ValueError):
                written[1].fold(theirs, linear, position)
            continue
        found = written[1].fold(theirs, linear, position)
        folded += 1
        assert [type(m).__name__ for m in found.modules()] == [type(m).__name__ for m in wanted.modules()]
        values = [dict(one.named_parameters()) for one in (found, wanted)]
        assert list(values[0]) == list(values[1])
        for key, value in values[0].items():
            assert torch.allclose(value, values[1][key], rtol=1e-6, atol=1e-6)
            assert value.dtype == values[1][key].dtype
            assert value.requires_grad == values[1][key].requires_grad
    assert folded >= (5 if written[0] == "power_norm" else 10)


def test_before_a_conv1d_what_stays_has_no_layout(written: tuple[str, ModuleType]) -> None:
    theirs, ours = pair(written, "btc", True)
    conv = nn.Conv1d(8, 8, 1)
    if written[0] == "power_norm":
        with pytest.raises(ValueError, match=r"GroupScaling.* stays, and its channels are last"):
            written[1].fold(theirs, conv, "before")
        with pytest.raises(UsageError, match=r"GroupScaling.* stays, and its channels are last"):
            fold_layer(ours, conv, "before")
        return
    x = torch.randn(2, 5, 8)
    wanted = conv(theirs(x).transpose(1, 2))
    assert torch.allclose(written[1].fold(theirs, conv, "before")(x.transpose(1, 2)), wanted, atol=1e-5)


def test_without_its_activation_it_is_weight_and_bias(written: tuple[str, ModuleType]) -> None:
    layer = copy.deepcopy(type(pair(written, "nchw", True)[0])(8, apply_act=False))
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    x = torch.randn(2, 8, 5, 5)
    conv = nn.Conv2d(8, 8, 3)
    assert torch.allclose(written[1].fold(layer, conv)(x), layer(conv(x)), atol=1e-5)
    assert torch.allclose(written[1].fold(layer, conv, "before")(x), conv(layer(x)), atol=1e-5)
    plain = type(layer)(8, apply_act=False, affine=False)
    assert torch.equal(written[1].fold(plain, conv).weight, conv.weight)


def test_a_scale_that_is_not_finite_is_refused(written: tuple[str, ModuleType]) -> None:
    layer, _ = pair(written, "nchw", True)
    with torch.no_grad():
        layer.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="is not finite"):
        written[1].fold(layer, nn.Conv2d(8, 8, 1), "before")
