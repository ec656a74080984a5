"""Options of a swap, what stays as it was, and swaps on swaps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from swap_support import new_modules, numbers, plain, swap_and_check
from torch import Tensor, nn

import evonas
from evonas.errors import FormulaError, UsageError
from evonas.layers import GraphLayer
from evonas.swapping.modules import ChannelAffine, Viewed

GOLDEN = next((Path(__file__).parents[2] / "runs" / "golden").iterdir())
IMAGE = torch.linspace(-2, 2, 2 * 3 * 8 * 8).cos().reshape(2, 3, 8, 8)
TOKENS = torch.linspace(-2, 2, 2 * 6 * 12).cos().reshape(2, 6, 12)


def net() -> nn.Sequential:
    """Two pairs and a norm alone."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4),
    )  # fmt: skip


class MLP(nn.Sequential):
    """A token block: norm, linear map, activation, linear map."""

    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))


def run(model: nn.Module) -> Tensor:
    out: Tensor = model(IMAGE)
    return out


@pytest.mark.parametrize(
    "layer",
    ["evonorm_s0", "evonorm_b0", "gn_silu", "frn", "x * tanh(v1 * x) / rms[w,h](x)"],
)
def test_any_layer(layer: Any) -> None:
    report = swap_and_check(net(), layer, run)
    assert numbers(report) == (2, 1, 0)
    assert report.layers == {"norm_act": evonas.layer(layer).formula}


def test_a_layer_of_a_run() -> None:
    report = evonas.swap(net(), (GOLDEN, "best"))
    assert report.layers == {"norm_act": evonas.layer((GOLDEN, "best")).formula}
    assert numbers(report) == (2, 1, 0)


def test_running_statistics_are_those_of_training() -> None:
    model = net()
    evonas.swap(model, "evonorm_b0")
    model.train()
    for _ in range(3):
        model(IMAGE)
    state = model.state_dict()
    assert "1.statistics.0.running" in state
    assert not torch.equal(state["1.statistics.0.running"], torch.ones_like(state["1.statistics.0.running"]))
    assert not torch.allclose(model(IMAGE[:1]), model(IMAGE)[:1])  # the batch counts
    model.eval()
    torch.testing.assert_close(model(IMAGE[:1]), model(IMAGE)[:1])


@pytest.mark.parametrize(
    ("linear", "kind"),
    [
        (None, ChannelAffine),
        ("affine", ChannelAffine),
        ("keep", nn.BatchNorm2d),
        ("replace", GraphLayer),
    ],
)
def test_norms_without_activation(linear: str | None, kind: type[nn.Module]) -> None:
    model = net()
    nn.init.uniform_(model[7].weight)
    weight = model[7].weight.detach().clone()
    evonas.swap(model, "evonorm_s1", linear=linear, groups=2)
    assert isinstance(model[7], kind)
    assert torch.equal(model[7].weight, weight)


def test_the_affine_alone_is_weight_times_x_plus_bias() -> None:
    model = net()
    nn.init.uniform_(model[7].weight)
    nn.init.uniform_(model[7].bias)
    weight, bias = model[7].weight.detach(), model[7].bias.detach()
    evonas.swap(model, "evonorm_s1")
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(model[7](x), x * weight.view(4, 1, 1) + bias.view(4, 1, 1))


@pytest.mark.parametrize(
    ("what", "changed"),
    [("norm_act", {1, 2, 4, 5, 7}), ("norm", {1, 4, 7}), ("act", {2, 5}), (None, {1, 2, 4, 5, 7})],
)
def test_what_is_replaced(what: str | None, changed: set[int]) -> None:
    model = net()
    before = list(model)
    evonas.swap(model, "x * sigmoid(v1 * x)", what=what)
    assert {i for i, (a, b) in enumerate(zip(before, model, strict=True)) if a is not b} == changed


def test_norms_of_tokens_are_kept_beside_pairs_on_maps() -> None:
    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Sequential(nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU()), MLP()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.stem(x).flatten(2).transpose(1, 2))

    model = Hybrid()
    report = swap_and_check(model, "evonorm_s1", run)
    assert numbers(report) == (1, 0, 2)
    report.undo()
    report = swap_and_check(model, {"norm_act": "evonorm_s1", "norm": "rms_norm", "act": "silu"}, run)
    assert {e.path: e.kind for e in report.replaced} == {
        "stem.1": "norm_act",
        "block.0": "norm",
        "block.2": "act",
    }


@pytest.mark.parametrize(
    ("norm", "becomes"),
    [
        (nn.BatchNorm2d(8), "affine"),
        (nn.GroupNorm(4, 8), "affine"),
        (nn.InstanceNorm2d(8, affine=True), "affine"),
        (nn.GroupNorm(1, 8), ""),
        (timm.layers.LayerNorm2d(8), ""),
    ],
)
def test_which_norms_without_activation_become_affine(norm: nn.Module, becomes: str) -> None:
    """Layer normalization is the only norm of a token block, also where channels come first."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), norm, nn.Conv2d(8, 8, 1))
    report = evonas.swap(model, "evonorm_s1")
    assert next(e.by for e in (*report.replaced, *report.left) if e.path == "3") == becomes


def test_an_assembly_goes_to_norms_and_activations() -> None:
    model = MLP()
    report = swap_and_check(
        model, "norm (no affine): x / rms[c](x); act: x * sigmoid(x)", lambda m: m(TOKENS)
    )
    assert report.layers == {"norm": "x / rms[c](x)", "act": "x * sigmoid(x)"}
    assert not list(new_modules(model)[0].parameters())
    assert not list(new_modules(model)[1].parameters())
    with pytest.raises(UsageError, match="different layers for pre_attention"):
        evonas.swap(MLP(), "pre_ffn: x / rms[c](x); act: x * sigmoid(x)")


def test_only_and_skip() -> None:
    report = evonas.swap(net(), "evonorm_s1", only=["1", "7"], dry_run=True)
    assert [e.path for e in report.replaced] == ["1", "7"]
    report = evonas.swap(net(), "evonorm_s1", skip="4")
    assert [e.path for e in report.replaced] == ["1", "7"]
    assert {e.path: e.reason for e in report.left}["4"] == "is left out by skip="
    with pytest.raises(UsageError, match="patterns of only="):
        evonas.swap(net(), "evonorm_s1", only="layer*")


def test_weights_are_carried_or_fresh() -> None:
    model, fresh = net(), net()
    for m in (model, fresh):
        nn.init.constant_(m[1].weight, 0.5)
        nn.init.constant_(m[1].bias, 0.25)
    evonas.swap(model, "evonorm_s0")
    evonas.swap(fresh, "evonorm_s0", affine="fresh")
    values = [[v.detach().unique().tolist() for v in (m[1].weight, m[1].bias)] for m in (model, fresh)]
    assert values == [[[0.5], [0.25]], [[1.0], [0.0]]]


def test_a_norm_without_affine_gets_a_layer_without() -> None:
    model = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12, elementwise_affine=False))
    evonas.swap(model, "x / rms[c](x)", example=TOKENS)
    assert not list(model[1].parameters())


def test_frozen_norms_stay_frozen_and_norms_without_parameters_do_not() -> None:
    frozen = timm.layers.FrozenBatchNormAct2d(8)
    frozen.weight.fill_(0.5)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), frozen, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU()
    )
    report = swap_and_check(model, "evonorm_s0", run)
    assert [e.was for e in report.replaced] == ["FrozenBatchNormAct2d + ReLU", "BatchNorm2d + ReLU"]
    assert {n: p.requires_grad for n, p in model[1].named_parameters()} == dict.fromkeys(
        ("weight", "bias", "v1"), False
    )
    assert model[1].weight.unique().tolist() == [0.5]
    assert {n: p.requires_grad for n, p in model[3].named_parameters()} == {"v1": True}


def test_a_compiled_model() -> None:
    model = net()
    compiled = torch.compile(model, backend="eager")
    report = evonas.swap(compiled, "evonorm_s0")
    assert [e.path for e in report.replaced] == ["_orig_mod.1", "_orig_mod.4", "_orig_mod.7"]
    torch.testing.assert_close(compiled(IMAGE), model(IMAGE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_mode_and_frozen_parameters_stay(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    model[4].eval()
    for p in model[1].parameters():
        p.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    evonas.swap(model, "evonorm_s0")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert [m.training for m in model] == [True, True, True, True, False, True, True, True]
    assert {n: p.requires_grad for n, p in model[1].named_parameters()} == dict.fromkeys(
        ("weight", "bias", "v1"), False
    )
    assert {n: p.requires_grad for n, p in model[4].named_parameters()} == {
        "weight": True,
        "bias": False,
        "v1": True,
    }
    assert model(IMAGE.to(dtype)).dtype == dtype


def test_channels_last_memory_stays() -> None:
    model = net().to(memory_format=torch.channels_last)
    evonas.swap(model, "evonorm_s0")
    x = IMAGE.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), model(IMAGE))
    maps = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last)
    assert model[7](maps).is_contiguous(memory_format=torch.channels_last)


def test_looking_changes_nothing() -> None:
    """Not modes, nor running statistics, nor hooks, nor the random generator."""
    model = net()
    model[1].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    report = evonas.swap(model, "evonorm_s0", dry_run=True)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, False, *[True] * 6]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "would become" in str(report)
    with pytest.raises(UsageError, match="a dry run changed nothing"):
        report.undo()


def test_a_swap_on_a_swap() -> None:
    model = net()
    before = list(model)
    first = evonas.swap(model, "evonorm_s0")
    middle = list(model)
    second = evonas.swap(model, "evonorm_b0")
    assert [(e.path, e.by) for e in second.replaced] == [("1", "evonorm_b0"), ("4", "evonorm_b0")]
    assert {e.path: e.reason for e in second.left} == {"7": "is the affine alone already"}
    assert "std[b,w,h]" in model[1].formula
    with pytest.raises(UsageError, match="undo later swaps first"):
        first.undo()
    second.undo()
    assert all(a is b for a, b in zip(model, middle, strict=True))
    first.undo()
    assert all(a is b for a, b in zip(model, before, strict=True))
    with pytest.raises(UsageError, match="undone already"):
        first.undo()


def test_a_swap_on_a_swap_with_a_shared_activation() -> None:
    from test_places import Residual

    model = Residual()
    evonas.swap(model, "evonorm_s0")
    report = evonas.swap(model, "evonorm_s1")
    assert numbers(report) == (2, 0, 2)
    x = model.stem(IMAGE)
    inner = plain(model.bn2(model.b(plain(model.bn1(model.a(x))))))
    assert torch.equal(model(IMAGE), (model.bn3(model.c(inner)) + x).relu())


def test_undo_follows_the_model_in_mode_and_keeps_state() -> None:
    model = net()
    before = run(model.eval()).clone()
    model.train()
    report = evonas.swap(model, "evonorm_s0")
    model.eval()
    report.undo()
    assert not model[1].training
    assert torch.equal(run(model), before)


def test_undo_follows_the_model_where_the_new_module_has_no_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8))
    report = evonas.swap(model, "evonorm_s1")
    assert isinstance(model[2], nn.Identity)
    model.to("meta")
    report.undo()
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}


def test_undo_brings_back_the_dtype_that_was_there() -> None:
    model = net()
    report = evonas.swap(model, "evonorm_s1")
    model.double()
    report.undo()
    assert model[1].weight.dtype == torch.float32
    model.double()(IMAGE.double())


def test_the_report_as_text_and_as_json() -> None:
    report = evonas.swap(net(), "evonorm_s0", skip="4")
    text = str(report)
    assert text.splitlines()[0] == "Sequential: 1 became layers, 1 became affines, 2 left"
    assert "norm_act: x * sigmoid(v1 * x) / std[w,h,c/g](x)" in text
    assert any(
        line.split() == ["1", "BatchNorm2d", "+", "ReLU", "8", "1x8x62x62", "evonorm_s0"]
        for line in text.splitlines()
    )
    data = json.loads(json.dumps(report.to_dict()))
    assert data["counts"] == {"layers": 1, "affine": 1, "left": 2}
    assert data["replaced"][0] == {
        "path": "1", "kind": "norm_act", "was": "BatchNorm2d + ReLU", "channels": 8, "shape": [1, 8, 62, 62],
        "by": "evonorm_s0", "reason": "", "act": "2",
    }  # fmt: skip
    assert repr(report) == "SwapReport(Sequential, layers=1, affine=1, left=2)"


def test_a_swapped_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model, other = net(), net()
    evonas.swap(model, "evonorm_b0")
    evonas.swap(other, "evonorm_b0")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(run(other.eval()), run(model.eval()))
    assert torch.equal(run(pickle.loads(pickle.dumps(model))), run(model))


def test_views_of_other_shapes() -> None:
    flat = Viewed(evonas.layer("x / rms[c](x)").module(12, layout="btc"), "flat")
    expected = TOKENS / (TOKENS.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(flat(TOKENS), expected)
    torch.testing.assert_close(flat(TOKENS[0]), expected[0])
    torch.testing.assert_close(flat(TOKENS[None]), expected[None])
    last = Viewed(evonas.layer("evonorm_s1").module(3, layout="nchw"), "last")
    torch.testing.assert_close(last(IMAGE.permute(0, 2, 3, 1)), last.layer(IMAGE).permute(0, 2, 3, 1))
    with pytest.raises(UsageError, match="unknown view"):
        Viewed(nn.Identity(), "wide")


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="a str: it is not"):
        evonas.swap("resnet18", "evonorm_s0")
    with pytest.raises(UsageError, match="on the meta device"):
        evonas.swap(net().to("meta"), "evonorm_s0")
    with pytest.raises(UsageError, match="value of what"):
        evonas.swap(net(), "evonorm_s0", what="norms")
    with pytest.raises(UsageError, match="value of linear"):
        evonas.swap(net(), "evonorm_s0", linear="drop")
    with pytest.raises(UsageError, match="unknown layer"):
        evonas.swap(net(), "evonorm_s7")
    with pytest.raises(FormulaError):
        evonas.swap(net(), "x +")
    with pytest.raises(UsageError, match="cannot make a layer of a int"):
        evonas.swap(net(), 3)
    with pytest.raises(UsageError, match="layers for 'norms'"):
        evonas.swap(net(), {"norms": "relu"})
    with pytest.raises(UsageError, match="does not run on the example: RuntimeError"):
        evonas.swap(net(), "evonorm_s0", example=torch.zeros(1, 5, 8, 8))


@pytest.mark.parametrize("layer", ["evonorm_s0", "power_norm", "power_norm+silu"])
@pytest.mark.parametrize("option", [{"group": 2}, {"device": "cpu"}])
def test_an_unknown_option(layer: str, option: dict[str, Any]) -> None:
    model = net()
    with pytest.raises(UsageError, match="option") as raised:
        evonas.swap(model, layer, dry_run=True, **option)
    assert "groups" in f"{raised.value} {raised.value.hint}" or layer != "evonorm_s0"
    assert isinstance(model[1], nn.BatchNorm2d)


def test_no_place() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(
        UsageError, match=r"(?s)looked for norms, it has none as norms and 1 ReLU.*what=\"act\""
    ):
        evonas.swap(bare, "evonorm_s0")
    with pytest.raises(UsageError, match="is the model itself"):
        evonas.swap(nn.BatchNorm2d(3), "evonorm_s0")
    with pytest.raises(UsageError, match="normalises over the 2 axes"):
        evonas.swap(nn.Sequential(nn.Linear(12, 12), nn.LayerNorm((6, 12))), "x / rms[c](x)", example=TOKENS)
    volume = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU())
    with pytest.raises(UsageError, match="tensors of 5 axes with channels first"):
        evonas.swap(volume, "evonorm_s0", example=torch.zeros(1, 3, 4, 4, 4))


def test_a_layer_for_another_layout() -> None:
    with pytest.raises(
        UsageError, match=r"index set \[w,h,c/g\] needs h, w, which tensors \(B, T, C\) do not have"
    ):
        evonas.swap(MLP(), "evonorm_s0", example=TOKENS)
    with pytest.raises(
        UsageError, match=r"index set \[t\] needs t, which tensors \(B, C, H, W\) do not have"
    ):
        evonas.swap(net(), "x / rms[t](x)")
    report = evonas.swap(MLP(), "evonorm_s0", example=TOKENS, dry_run=True)
    assert numbers(report) == (0, 0, 2)


def test_a_deviation_of_a_single_value_is_refused() -> None:
    """8 groups of one channel on a pooled map: it would be 0, and x / 0 its input times 316."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.ReLU())
    with pytest.raises(UsageError, match=r"std\[w,h,c/g\] is that of a single value on 1x8x1x1"):
        evonas.swap(model, "evonorm_s0")
    assert evonas.swap(model, "evonorm_s0", groups=2).counts["layers"] == 1


def test_a_tanh_is_named_to_be_replaced() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU())
    assert [e.path for e in evonas.swap(model, "silu", what="act", dry_run=True).replaced] == ["3"]
    assert [e.path for e in evonas.swap(model, "silu", what="act", only="1").replaced] == ["1"]
