"""Which places are found, on small models of our own: one idea each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from swap_support import numbers, plain, swap_and_check
from torch import Tensor, nn

import evonas
from evonas.errors import UsageError
from evonas.layers import GraphLayer
from evonas.swapping.modules import ChannelAffine, SharedActivation

IMAGE = torch.linspace(-2, 2, 2 * 3 * 8 * 8).cos().reshape(2, 3, 8, 8)
TOKENS = torch.linspace(-2, 2, 2 * 6 * 12).cos().reshape(2, 6, 12)


def on(x: Tensor) -> Any:
    return lambda model: model(x)


class Attributes(nn.Module):
    """norm and activation as attributes, registered in another order than they are called in."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.last = nn.BatchNorm2d(8)
        self.first = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(3, 8, 3, bias=False)
        self.b = nn.Conv2d(8, 8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.act(self.first(self.a(x)))))


class Residual(nn.Module):
    """One activation module behind two norms and behind the sum, as in torchvision's ResNet."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(8) for _ in range(3))
        self.relu = act or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.relu(self.bn1(self.a(x)))
        out = self.relu(self.bn2(self.b(out)))
        return self.relu(self.bn3(self.c(out)) + x)


class Functional(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.bn, self.kind = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), kind
        self.other = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        y = {"relu": F.relu, "silu": F.silu, "clamp": lambda t: t.clamp(min=0)}.get(
            self.kind, lambda t: t * torch.sigmoid(t)
        )(y)
        return self.other(y)


def test_a_norm_then_an_activation_in_sequential() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Dropout2d(0.1),
        nn.GELU(), nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.Identity(), nn.Mish(),
    )  # fmt: skip
    report = swap_and_check(model, "evonorm_s1", on(IMAGE))
    assert [(e.path, e.act) for e in report.replaced] == [("1", "2"), ("4", "6"), ("8", "10")]
    assert numbers(report) == (3, 0, 0)
    assert [type(m).__name__ for m in model][2] == "Identity"


def test_a_norm_and_an_activation_as_attributes() -> None:
    model = Attributes()
    report = swap_and_check(model, "evonorm_b0", on(IMAGE))
    assert numbers(report) == (1, 1, 0)
    assert isinstance(model.first, GraphLayer)
    assert isinstance(model.last, ChannelAffine)
    assert isinstance(model.act, nn.Identity)


def test_an_activation_before_the_norm_is_no_pair() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8))
    report = evonas.swap(model, "evonorm_s0")
    assert [(e.path, e.kind) for e in report.replaced] == [("2", "norm")]
    assert [(e.path, e.kind) for e in report.left] == [("1", "act")]


def test_a_shared_activation_still_works_behind_the_sum() -> None:
    model = Residual()
    report = swap_and_check(model, "evonorm_s1", on(IMAGE))
    assert numbers(report) == (2, 1, 1)
    assert report.left[0].reason == "an activation without a norm before it, in some of its calls"
    assert isinstance(model.relu, SharedActivation)
    made = {n: m for n, m in model.named_modules() if isinstance(m, GraphLayer)}
    x = model.stem(IMAGE)
    out = plain(made["bn2"](model.b(plain(made["bn1"](model.a(x))))))
    assert out.min() < 0  # what ReLU would cut off
    expected = F.relu(model.bn3(model.c(out)) + x)
    assert torch.equal(model(IMAGE), expected)


def test_a_shared_activation_compiles() -> None:
    model = Residual().eval()
    evonas.swap(model, "evonorm_s1", backend="eager")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), model(IMAGE))


def test_a_shared_activation_behind_a_dropout_is_left() -> None:
    class Dropped(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout2d(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out = self.relu(self.drop(self.bn1(self.a(x))))
            out = self.relu(self.bn2(self.b(out)))
            return self.relu(self.bn3(self.c(out)) + x)

    model = Dropped()
    report = evonas.swap(model, "evonorm_s1")
    assert {e.path: e.reason for e in report.left}["bn1"].startswith(
        "has a dropout between norm and activation"
    )
    assert isinstance(model.bn1, nn.BatchNorm2d)


@pytest.mark.parametrize("way", ["run", "fx"])
def test_dropouts_that_are_functions(way: str) -> None:
    """They do nothing in evaluation, where places are looked for, and hide in training what the layer has made."""

    class Dropped(Residual):
        rates = (0.5, 0.0)

        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
            if way == "fx":
                x = x + y
            x = self.stem(x)
            out = self.relu(F.dropout(self.bn1(self.a(x)), self.rates[0], self.training))
            out = self.relu(F.dropout2d(self.bn2(self.b(out)), p=self.rates[1], training=self.training))
            return self.relu(self.bn3(self.c(out)) + x)

    model = Dropped()
    report = evonas.swap(model, "evonorm_s1")
    assert ("fx" in report.found) == (way == "fx")
    left = {e.path: e.reason for e in report.left}
    for name in ("bn1", "bn2"):
        assert left[name].startswith("has a dropout between norm and activation")
        assert isinstance(model.get_submodule(name), nn.BatchNorm2d)


@pytest.mark.parametrize(("kind", "name"), [("swish", "sigmoid"), ("clamp", "clamp")])
def test_an_activation_of_several_operations_is_left_with_the_norm(kind: str, name: str) -> None:
    model = Functional(kind)
    report = swap_and_check(model, "evonorm_s1", on(IMAGE))
    assert numbers(report) == (1, 0, 1)
    assert f"its activation is in the code of the model, with {name}" in report.left[0].reason
    assert isinstance(model.bn, nn.BatchNorm2d)
    # where norms alone are replaced, it stays and is no obstacle
    other = Functional(kind)
    assert numbers(evonas.swap(other, "x / rms[w,h](x)", what="norm")) == (2, 0, 1)
    norms = [m for m in other.modules() if isinstance(m, GraphLayer)]
    y = norms[0](other.conv(IMAGE))
    y = y.clamp(min=0) if kind == "clamp" else y * torch.sigmoid(y)
    assert torch.equal(other(IMAGE), other.other(y))


def test_a_norm_whose_output_is_used_twice_is_left() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.act, self.head = (
                nn.BatchNorm2d(3),
                nn.ReLU(),
                nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(x)
            return self.head(self.act(y) + y)

    model = Twice()
    report = evonas.swap(model, "evonorm_s1")
    assert [e.path for e in report.replaced] == ["head.0"]
    assert {e.path: e.reason for e in report.left} == {
        "bn": "its output is used beside the activation, by add",
        "act": "an activation without a norm before it",
    }


def test_one_norm_at_two_places() -> None:
    class Shared(nn.Module):
        def __init__(self, same: bool) -> None:
            super().__init__()
            self.same, self.bn, self.act = same, nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.act(self.bn(x)))
            return self.act(y) if self.same else y

    assert numbers(swap_and_check(Shared(True), "evonorm_s1", on(IMAGE))) == (1, 0, 0)
    with pytest.raises(UsageError, match="called 2 times, and what comes behind it is not always the same"):
        evonas.swap(Shared(False), "evonorm_s1")


def test_one_module_under_two_names() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())})
    model["same"] = model["body"][1]
    model.forward = lambda x: model["body"](x)  # type: ignore[assignment]
    report = evonas.swap(model, "evonorm_s1", example=IMAGE)
    assert isinstance(model["same"], GraphLayer)
    assert model["same"] is model["body"][1]
    report.undo()
    assert model["same"] is model["body"][1]
    assert isinstance(model["same"], nn.BatchNorm2d)


def test_a_custom_norm_and_a_custom_activation_by_what_they_do() -> None:
    class Root(nn.Module):  # RMS normalisation over channels that come first
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.linspace(1, 2, channels))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain.view(-1, 1, 1) / x.square().mean(1, keepdim=True).add(1e-6).sqrt()

    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x).square()

    class Scale(nn.Module):  # not a norm
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(channels))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma.view(-1, 1, 1)

    model = nn.Sequential(nn.Conv2d(3, 7, 1), Root(7), Squared(), Scale(7), nn.Sigmoid())
    report = swap_and_check(model, "evonorm_s1", on(IMAGE))
    assert [e.was for e in report.replaced] == ["Root + Squared"]
    assert numbers(report) == (1, 0, 0)
    torch.testing.assert_close(model[1].weight.detach(), torch.linspace(1, 2, 7), rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_be_traced() -> None:
    class Choice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() < 2 else x

    model = Choice(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    with pytest.raises(torch.fx.proxy.TraceError):
        torch.fx.symbolic_trace(model)
    assert numbers(swap_and_check(model, "evonorm_s1", on(IMAGE), example=IMAGE)) == (1, 0, 0)


class TwoInputs(nn.Module):
    """No input can be guessed; ``refuse`` makes it untraceable as well."""

    def __init__(self, refuse: bool = False) -> None:
        super().__init__()
        self.refuse = refuse
        self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.drop, self.end, self.norm = nn.Dropout(0.1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU())

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if self.refuse and left.sum() > right.sum():
            return left
        y = self.act(self.drop(self.bn(self.conv(left + right))))
        return self.head(self.act(self.norm(self.end(y) + y)))


def test_without_an_example_the_graph_of_fx_is_used() -> None:
    model = TwoInputs()
    report = swap_and_check(model, "evonorm_s1", lambda m: m(IMAGE, IMAGE))
    assert report.found == "traced with torch.fx, shapes are not known"
    assert {e.path: e.by or e.reason for e in report.replaced + report.left} == {
        "bn": "has a dropout between norm and activation, and the activation is used elsewhere too",
        "end": "affine",
        "norm": "evonorm_s1",
        "head.0": "the shape of its tensors is not known: give example=",
        "act": "an activation without a norm before it, in some of its calls",
        "head.1": "an activation without a norm before it",
    }


def test_fx_and_a_run_find_the_same() -> None:
    class Pair(Residual):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
            return super().forward(x if y is None else x + y)

    class Needy(Residual):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + y)

    seen, traced = evonas.swap(Pair(), "evonorm_s1"), evonas.swap(Needy(), "evonorm_s1")
    assert "run" in seen.found
    assert "fx" in traced.found
    assert [e._replace(shape=None) for e in seen.replaced] == list(traced.replaced)
    assert [e.path for e in seen.left] == [e.path for e in traced.left]


def test_neither_an_example_nor_a_graph() -> None:
    with pytest.raises(UsageError, match=r"(?s)cannot see which activation.*example="):
        evonas.swap(TwoInputs(refuse=True), "evonorm_s1")
    report = evonas.swap(
        TwoInputs(refuse=True), "evonorm_s1", example={"left": -IMAGE.abs(), "right": IMAGE.abs()}
    )
    assert report.found == "seen in a run on the given example"


def test_pairs_on_tokens_and_vectors() -> None:
    model = nn.Sequential(
        nn.Linear(12, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8), nn.RMSNorm(8), nn.SiLU()
    )
    report = swap_and_check(model, "x * sigmoid(v1 * x) / rms[c](x)", on(TOKENS))
    assert [e.kind for e in report.replaced] == ["norm_act", "norm_act"]
    rows = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
    report = swap_and_check(rows, "x * sigmoid(v1 * x) / std[c](x)", on(TOKENS[0]))
    assert report.replaced[0].by.endswith("(on nchw by view vector)")


def test_sequences_with_channels_first() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU())
    report = swap_and_check(model, "evonorm_b0", on(IMAGE.flatten(2)))
    assert report.replaced[0].by == "evonorm_b0 (on nchw by view length)"
    x = torch.randn(2, 8, 9)
    assert torch.equal(model[1](x), model[1].layer(x[:, :, None])[:, :, 0])


def test_norms_of_a_transformer_encoder_layer_are_called_in_evaluation() -> None:
    """Its fused path would read weights and eps of its norms and normalise without calling them."""
    model = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
    report = swap_and_check(model, "tanh(v1 * x)", on(TOKENS), example=TOKENS)
    assert [e.path for e in report.replaced] == ["norm1", "norm2"]
    model.eval()
    with torch.no_grad():
        fast = model(TOKENS)
    torch.testing.assert_close(fast, model(TOKENS).detach())
    assert fast.abs().max() <= 1


def test_a_transformer_encoder_with_a_padding_mask() -> None:
    """In evaluation it would make nested tensors, which its norms take and layers do not."""
    layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    with torch.no_grad():
        before = model(TOKENS, src_key_padding_mask=padding)
        assert before[1, 4:].abs().max() == 0  # what nested tensors leave of padding
        one = evonas.swap(model, "x / rms[c](x)", what="norm", example=TOKENS, only="layers.0.*")
        two = evonas.swap(model, "x / rms[c](x)", what="norm", example=TOKENS, only="layers.1.*")
        out = model(TOKENS, src_key_padding_mask=padding)
        shorter = model(TOKENS[1:, :4])
        torch.testing.assert_close(out[1:, :4], shorter)
        one.undo()
        assert model(TOKENS, src_key_padding_mask=padding).isfinite().all()
        assert not model.use_nested_tensor
        two.undo()
        assert torch.equal(model(TOKENS, src_key_padding_mask=padding), before)
