"""Layers with state as bundles: the same buffers, warm-up, both formulas and gradient rule, and folding."""

from __future__ import annotations

import ast
import copy
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from export_support import ROOT, load
from torch import Tensor, nn

import evonas
from evonas.errors import PluginError
from evonas.export.bundle import Bundle
from evonas.layers import STATEFUL, Buffer, StateContract, StatefulLayer, stateful_layer

EXAMPLE = ROOT / "examples" / "own_stateful_layer.py"
CASES = {
    "power_norm": {"warm_up": 3, "scaling_groups": 2},
    "unified_norm": {"warm_up": 2, "filter_outliers": True, "absorb_outliers": False},
    "streaming_rms": {},
}


@pytest.fixture(scope="module", params=list(CASES))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    plugins = [str(EXAMPLE)] if request.param == "streaming_rms" else []
    out = tmp_path_factory.mktemp("stateful") / request.param
    yield evonas.export(request.param, out=out, plugins=plugins)
    if plugins:
        del STATEFUL["streaming_rms"]


def pair(bundle: Bundle, layout: str, **more: object) -> tuple[ModuleType, nn.Module, nn.Module]:
    """The exported module and that of evonas, from one state."""
    written = load(bundle.path)
    name = bundle.path.name
    suffix = {"btc": "Tokens", "nchw": "2d"}[layout]
    cls = next(getattr(written, n) for n in written.__all__ if n.endswith(suffix))
    ours = evonas.layer(name).module(8, layout=layout, **CASES[name], **more)
    theirs = cls(8, **CASES[name], **more)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2.0)
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    return written, theirs, ours


def step(module: nn.Module, x: Tensor, dy: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    y = module(x, mask=mask)
    return y.detach(), list(torch.autograd.grad(y, [x, module.weight, module.bias], dy))


@pytest.mark.parametrize("layout", ["btc", "nchw"])
def test_every_step_is_that_of_evonas(bundle: Bundle, layout: str) -> None:
    """In warm-up, after it, late in a training where other rules hold, over an outlier, with padding, and in
    evaluation: outputs, gradients and buffers to the last bit."""
    _, theirs, ours = pair(bundle, layout)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 8) if layout == "btc" else (3, 8, 2, 4)
    for number in range(14):
        if number == 8 and hasattr(ours, "step"):
            for module in (theirs, ours):
                module.step.fill_(5000)  # the correction of unified_norm starts after 1000 steps
        x = torch.randn(shape, generator=generator) * (40.0 if number == 11 else 1.0)
        dy = torch.randn(shape, generator=generator)
        mask = None
        if number % 3 == 2:
            mask = torch.rand((3, 5) if layout == "btc" else (3, 2, 4), generator=generator) < 0.3
        found, wanted = step(theirs, x, dy, mask), step(ours, x, dy, mask)
        assert torch.equal(found[0], wanted[0])
        assert all(torch.equal(a, b) for a, b in zip(found[1], wanted[1], strict=True))
        for (name, a), b in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"{name} after step {number}"
    x = torch.randn(shape, generator=generator)
    assert torch.equal(theirs.eval()(x), ours.eval()(x))


def test_with_torch_alone(bundle: Bundle) -> None:
    tree = ast.parse((bundle.path / "layer.py").read_text())
    roots = {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots |= {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert roots - set(sys.stdlib_module_names) == {"torch"}
    ran = subprocess.run(
        [sys.executable, str(bundle.path / "test_layer.py")], capture_output=True, text=True, cwd=bundle.path
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(": ok") == 3
    assert not (bundle.path / "kernel.py").exists()


def test_the_self_test_finds_a_wrong_update(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(bundle.path, tmp_path / "b")
    text = (folder / "layer.py").read_text()
    wrong = {
        "power_norm": ("self.forward_decay * cumulative", "0.5 * cumulative"),
        "unified_norm": ("average.copy_(self.decay * average", "average.copy_(0.99 * average"),
        "streaming_rms": ("self.square.dtype), 0.01)", "self.square.dtype), 0.02)"),
    }[bundle.path.name]
    assert wrong[0] in text
    (folder / "layer.py").write_text(text.replace(*wrong))
    ran = subprocess.run([sys.executable, str(folder / "test_layer.py")], capture_output=True, text=True)
    assert ran.returncode != 0
    assert "off by" in ran.stderr


def test_files_copies_precision_and_export(bundle: Bundle) -> None:
    _, layer, _ = pair(bundle, "btc")
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(4):
        layer(x).sum().backward()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = type(layer)(8, **CASES[bundle.path.name])
    other.load_state_dict(torch.load(file, weights_only=True))
    wanted = layer.eval()(x)
    assert torch.equal(other.eval()(x), wanted)
    assert torch.equal(copy.deepcopy(layer)(x), wanted)
    half = copy.deepcopy(layer).bfloat16()
    assert all(b.dtype in (torch.float32, torch.int64) for b in half.buffers())
    assert half(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), wanted)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(x[:3]), wanted[:3])
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), wanted)


def test_compiled_in_training(bundle: Bundle) -> None:
    """Buffers that the backward pass writes to are the same as without the compiler, in and after the warm-up."""
    _, written, ours = pair(bundle, "btc")
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(3, 5, 8, generator=generator) for _ in range(6)]
    for module in (written, ours):
        twin = copy.deepcopy(module)
        torch._dynamo.reset()
        compiled = torch.compile(twin, backend="aot_eager")
        for x in batches:
            found, wanted = step(compiled, x, x, None), step(module, x, x, None)
            assert torch.allclose(found[0], wanted[0], atol=1e-6)
            assert torch.allclose(found[1][0], wanted[1][0], atol=1e-6)
        for name, value in module.state_dict().items():
            assert torch.allclose(twin.state_dict()[name], value, atol=1e-6), name


def test_the_contracts_of_timm_and_layer_norm(bundle: Bundle) -> None:
    written = load(bundle.path)
    made = written.norm_act(8, eps=1e-3, act_layer=nn.ReLU, inplace=True, drop_layer=nn.Identity)
    assert made(torch.randn(2, 8, 3, 3)).shape == (2, 8, 3, 3)
    assert made.eps == 1e-3
    assert written.Layer((8,))(torch.randn(2, 5, 8)).shape == (2, 5, 8)
    plain = written.norm_act(8, apply_act=False)
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(plain(x), x)
    assert list(plain.state_dict()) == ["weight", "bias"]
    with pytest.raises(ValueError, match="needs"):
        made(torch.randn(2, 7, 3, 3))
    for shape, dtype in (((2, 5), torch.float32), ((5, 2), torch.bool), ((2, 1), torch.bool)):
        with pytest.raises(ValueError, match=r"has to be \(2, 5\) and bool"):
            written.Layer(8)(torch.randn(2, 5, 8), torch.zeros(shape, dtype=dtype))
    with pytest.raises(ValueError, match=r"has to be \(2, 3, 3\) and bool"):
        made(x, torch.zeros(2, 9, dtype=torch.bool))


def test_evonas_reads_it_back(bundle: Bundle) -> None:
    layer = evonas.layer(str(bundle.path / "layer.json"))
    assert layer.stateful == bundle.path.name
    assert layer.digest == evonas.layer(bundle.path.name).digest
    assert isinstance(layer.module(8), StatefulLayer)


def test_the_card_says_what_is_kept(bundle: Bundle) -> None:
    text = (bundle.path / "card.md").read_text()
    contract = evonas.layer(bundle.path.name).contract
    assert contract is not None
    section = text.partition("## State\n")[2].partition("\n## ")[0]
    for _, words in contract.lines():
        assert words.replace("|", "\\|") in section
    assert "fold(layer, linear)" in section
    rule = "the gradient rule of the layer is not the derivative" in text
    assert rule is not contract.derivative


def maps(dtype: torch.dtype) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """Maps with a layer of eight channels after or before them, a layout, and an input."""
    torch.manual_seed(2)
    tokens = torch.randn(2, 5, 8, dtype=dtype)
    images = torch.randn(2, 8, 6, 6, dtype=dtype)
    for bias in (True, False):
        for position in ("after", "before"):
            yield nn.Linear(8, 8, bias=bias), position, "btc", tokens
            yield nn.Conv2d(8, 8, 3, bias=bias, stride=2), position, "nchw", images
            yield nn.Conv2d(8, 8, 3, bias=bias, groups=4), position, "nchw", images
            yield nn.Conv2d(8, 8, 3, bias=bias, padding=1, padding_mode="reflect"), position, "nchw", images
        yield nn.Conv2d(8, 16, 1, bias=bias), "before", "nchw", images
        yield (
            nn.Conv2d(16, 8, 3, bias=bias, padding=1, groups=8),
            "after",
            "nchw",
            torch.randn(2, 16, 6, 6, dtype=dtype),
        )


def test_folding_is_the_same_function(bundle: Bundle) -> None:
    for linear, position, layout, x in maps(torch.float64):
        written, layer, _ = pair(bundle, layout)
        layer.double()
        for _ in range(5):
            layer(torch.randn(x.shape[:1] + (x.shape[1:] if x.shape[1] == 8 or layout == "btc" else (8, 6, 6)),
                              dtype=torch.float64) * 2).sum().backward()  # fmt: skip
        layer.eval()
        linear = linear.double()
        if bundle.path.name == "power_norm" and position == "after":
            with pytest.raises(ValueError, match=r"GroupScaling.* stands between"):
                written.fold(layer, linear, position)
            continue
        wanted = layer(linear(x)) if position == "after" else linear(layer(x))
        before = copy.deepcopy(linear.state_dict())
        found = written.fold(layer, linear, position)(x)
        assert float((found - wanted).detach().abs().max()) <= 1e-10
        assert all(torch.equal(v, before[k]) for k, v in linear.state_dict().items())


@pytest.mark.parametrize("formula", ["(x - mean[b,w,h](x)) / std[b,w,h](x)", "v1 * x / rms[b](x) - v0", "-x"])
def test_formulas_that_are_affine_at_evaluation_fold(formula: str, tmp_path: Path) -> None:
    written = load(evonas.export(formula, out=tmp_path / "b").path)
    image = next(getattr(written, n) for n in written.__all__ if n not in ("Layer", "norm_act", "fold"))
    if formula == "-x":
        image = written.NormAct
    torch.manual_seed(3)
    layer = image(8).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    images = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    for _ in range(3):
        layer(3 * images + 5)
    layer.eval()
    for linear, position, layout, x in maps(torch.float64):
        if layout != "nchw":
            continue
        linear = linear.double()
        wanted = layer(linear(x)) if position == "after" else linear(layer(x))
        found = written.fold(layer, linear, position)(x)
        assert float((found - wanted).detach().abs().max()) <= 1e-10
    # in float32 it is rounded once; zero padding in front of a shift is refused
    conv = nn.Conv2d(8, 8, 3, padding=1)
    folded = written.fold(layer.float(), conv)
    assert folded.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="pads with zeros"):
        written.fold(layer, conv, "before")
    with pytest.raises(ValueError, match="a layer of 8 channels after a map from 8 to 4"):
        written.fold(layer, nn.Conv2d(8, 4, 1))
    with pytest.raises(ValueError, match="need Linear, Conv1d, Conv2d"):
        written.fold(layer, nn.ConvTranspose2d(8, 8, 1))


@pytest.mark.parametrize("formula", ["bn_relu", "evonorm_b0", "x / rms[c](x)"])
def test_layers_that_are_not_affine_have_no_fold(formula: str, tmp_path: Path) -> None:
    assert "fold" not in load(evonas.export(formula, out=tmp_path / "b").path).__all__


def test_an_assembly_with_a_layer_with_state(tmp_path: Path) -> None:
    made = evonas.export("power_norm+silu", out=tmp_path / "b")
    assert "norm/layer.py" in made.files
    norm = load(made.path / "norm").Layer(8, warm_up=1)
    act = load(made.path / "act").Layer(8)
    assert act(norm(torch.randn(2, 5, 8))).shape == (2, 5, 8)
    assert evonas.layer(str(made.path / "norm" / "layer.json")).stateful == "power_norm"
    text = made.path.joinpath("layer.json").read_text()
    assert '"power_norm' in text


def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    made = evonas.export("power_norm", out=tmp_path / "b", to=["onnx"], channels=8)
    assert made.checks["layer.onnx"] == "checked in onnxruntime"


OUTSIDE = torch.ones(3)


def test_a_class_that_cannot_be_copied_says_why(tmp_path: Path) -> None:
    @stateful_layer("test_outside", formulas={"btc": "x"}, source="this test")
    class Outside(StatefulLayer):
        """x"""

        contract = StateContract(
            buffers=(Buffer("count", ("C",), 0.0, "steps"),), warm_up="none", train_formula="x", eval_formula="x",
            gradient_rule="the derivative", derivative=True, affine_at_eval=False, not_affine="not declared",
        )  # fmt: skip

        def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
            return x * OUTSIDE[0]

        def eval_form(self, x: Tensor) -> Tensor:
            return x

    try:
        with pytest.raises(PluginError, match="it uses OUTSIDE, a Tensor") as raised:
            evonas.export("test_outside", out=tmp_path / "b")
        assert "torch, the standard library" in str(raised.value.hint)
        assert not list(tmp_path.iterdir())
    finally:
        del STATEFUL["test_outside"]
