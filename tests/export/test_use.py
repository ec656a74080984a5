"""Exported layers in use: with torch alone, compiled, exported, under autocast, in timm, in Triton's interpreter."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch
from export_support import GOLDEN, load, off, results, stir
from torch import nn

import evonas
from evonas.errors import UsageError
from evonas.run.run import Run


@pytest.fixture(scope="session")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with torch and what it needs, without triton and evonas."""
    folder = tmp_path_factory.mktemp("alone") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    wanted, done = ["torch"], set()
    while wanted:
        name = wanted.pop()
        if name in done or name.startswith(("triton", "nvidia", "cuda")):
            continue
        done.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        for requirement in found.requires or ():
            if "extra ==" not in requirement:
                wanted.append(
                    requirement.split(";")[0].split("[")[0].split(" ")[0].rstrip("<>=!~0123456789.,")
                )
    return folder / "bin" / "python"


def alone(python: Path, *arguments: str, cwd: Path) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EVONAS"))}
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["best", "power_norm", pytest.param("batch_norm", marks=pytest.mark.slow)])
def test_with_torch_alone(
    name: str, torch_alone: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(name)
    out = alone(torch_alone, str(bundle / "test_layer.py"), cwd=tmp_path)
    assert out.count(": ok") == 3
    code = (
        "import importlib.util as u; assert not any(u.find_spec(n) for n in ('evonas', 'triton', 'pytest', 'timm'))\n"
        f"import sys; sys.path.insert(0, {str(bundle)!r})\n"
        "import torch, layer; m = layer.norm_act(8); y = m(torch.ones(2, 8, 3, 3)); y.sum().backward(); print(y.shape)"
    )
    assert "torch.Size([2, 8, 3, 3])" in alone(torch_alone, "-c", code, cwd=tmp_path)


def test_the_self_test_finds_a_wrong_layer(best: Path, tmp_path: Path) -> None:
    for name in ("layer.py", "test_layer.py", "expected.json"):
        text = (best / name).read_text()
        (tmp_path / name).write_text(
            text.replace("x / rms", "x / (1.0001 * rms)") if name == "layer.py" else text
        )
    done = subprocess.run([sys.executable, "test_layer.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "y in torch.float64: off by" in done.stderr


def test_it_is_the_module_of_evonas(best: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn((4, 16, 6, 6), generator=generator) for _ in range(2))
    ours = stir(Run(GOLDEN).layer("best").module(16, backend="eager"))
    theirs = load(best).Layer(16)
    theirs.load_state_dict(ours.state_dict())
    wanted, found = results(ours, x, dy), results(theirs, x, dy)
    assert max(off(found[name], wanted[name]) for name in wanted) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best", "batch_norm"])
def test_compiled(name: str, request: pytest.FixtureRequest) -> None:
    layer = stir(load(request.getfixturevalue(name)).Layer(8))
    plain = copy.deepcopy(layer)
    x, dy = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 5, 5)
    compiled = torch.compile(layer, fullgraph=True)
    for training in (True, False):
        layer.train(training)
        plain.train(training)
        found, wanted = results(compiled, x, dy), results(plain, x, dy)
        assert max(off(f, w) for f, w in zip(found.values(), wanted.values(), strict=True)) <= 1e-5
    for key, value in plain.state_dict().items():
        assert torch.allclose(layer.state_dict()[key], value, atol=1e-5)


@pytest.mark.parametrize("name", ["best", "batch_norm"])
def test_traced_without_a_break(name: str, request: pytest.FixtureRequest) -> None:
    layer = stir(load(request.getfixturevalue(name)).Layer(8)).eval()
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


@pytest.mark.parametrize("name", ["best", "batch_norm"])
def test_torch_export(name: str, request: pytest.FixtureRequest) -> None:
    for training in (True, False):
        layer = stir(load(request.getfixturevalue(name)).Layer(8)).train(training)
        before = copy.deepcopy(layer)
        x = torch.randn(4, 8, 5, 5)
        shapes = ({0: torch.export.Dim("batch", min=2)},)
        program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
        other = torch.randn(7, 8, 5, 5)
        assert off(program.module()(other).detach(), before(other).detach()) <= 1e-6


def test_autocast_channels_last_and_bfloat16(best: Path) -> None:
    layer = stir(load(best).Layer(8))
    x = torch.randn(4, 8, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.forward(x))
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert torch.equal(layer(x.bfloat16()), layer(x.bfloat16().float()).bfloat16())
    last = x.contiguous(memory_format=torch.channels_last)
    assert layer(last).is_contiguous(memory_format=torch.channels_last)
    assert off(layer(last).detach(), layer(x).detach()) <= 1e-6
    half = copy.deepcopy(layer).bfloat16()
    assert off(half(x.bfloat16()).detach(), layer(x).detach()) < 0.05


def test_state_goes_through_a_file(batch_norm: Path) -> None:
    module = load(batch_norm)
    layer = stir(module.Layer(8))
    layer(torch.randn(4, 8, 5, 5))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = module.Layer(8)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 8, 5, 5)
    assert torch.equal(other.eval()(x), layer.eval()(x))
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_the_form_for_tokens(tokens: ModuleType) -> None:
    norm = tokens.RmsNormTokens(16, eps=1e-5)
    for shape in ((2, 5, 16), (3, 16), (2, 4, 4, 16)):
        x = torch.randn(shape)
        assert torch.allclose(norm(x), nn.functional.rms_norm(x, (16,), eps=1e-5), atol=1e-6)
    assert tokens.RmsNormTokens((16,)).num_features == 16
    images = torch.randn(2, 16, 4, 4)
    assert torch.equal(tokens.Layer(16)(images), norm(images.movedim(1, -1)).movedim(-1, 1))
    with pytest.raises(ValueError, match="needs"):
        norm(torch.randn(2, 5, 8))


def test_wrong_arguments(best: Path) -> None:
    module = load(best)
    with pytest.raises(ValueError, match="group_size=3 does not divide 8 channels"):
        module.Layer(8, group_size=3)
    with pytest.raises(ValueError, match="need at least 1"):
        module.Layer(0)
    with pytest.raises(ValueError, match=r"input of shape \(2, 4, 3, 3\)"):
        module.Layer(8)(torch.randn(2, 4, 3, 3))
    assert module.Layer(12, groups=8).groups == 6
    assert module.Layer(12, group_size=4).groups == 3


def test_apply_act_and_drop_layer(best: Path) -> None:
    module = load(best)
    layer = stir(module.Layer(8, apply_act=False))
    x = torch.randn(2, 8, 3, 3)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert torch.allclose(layer(x), x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1))
    dropped = module.Layer(8, drop_layer=lambda: nn.Dropout2d(0.5))
    assert torch.equal(dropped.eval()(x), module.Layer(8).eval()(x))
    maps = dropped.train()(torch.randn(64, 8, 3, 3)).flatten(2).eq(0)
    assert 0.3 < maps.all(2).float().mean() < 0.7
    assert torch.equal(maps.all(2), maps.any(2))
    assert module.Layer(8, device="meta", dtype=torch.bfloat16).weight.is_meta


def test_drop_layer_sees_the_tensor_that_comes_out(tokens: ModuleType) -> None:
    """The form for images computes with channels last, and whole maps are dropped all the same."""
    maps = tokens.RmsNorm(8, drop_layer=lambda: nn.Dropout2d(0.5))(torch.randn(64, 8, 3, 3)).flatten(2).eq(0)
    assert 0.3 < maps.all(2).float().mean() < 0.7
    assert torch.equal(maps.all(2), maps.any(2))
    rows = tokens.RmsNormTokens(8, drop_layer=lambda: nn.Dropout(0.5))(torch.randn(64, 8)).eq(0)
    assert 0.3 < rows.float().mean() < 0.7


@pytest.mark.parametrize("model", ["resnetv2_50", "regnety_002", "densenet121"])
def test_in_a_model_of_timm(model: str, best: Path, timm: ModuleType) -> None:
    """Models that take a norm-act layer as a function; BatchNormAct2d is what they have otherwise."""
    module = load(best)
    from timm.layers import create_norm_act_layer, get_norm_act_layer

    assert get_norm_act_layer(module.norm_act) is module.norm_act
    made = create_norm_act_layer(module.norm_act, 16, act_layer="silu", apply_act=False, inplace=True)
    assert isinstance(made, module.Layer)
    plain = timm.create_model(model, pretrained=False, num_classes=3)
    network = timm.create_model(model, pretrained=False, num_classes=3, norm_layer=module.norm_act)
    wanted = sum(isinstance(m, timm.layers.BatchNormAct2d) for m in plain.modules())
    found = [m for m in network.modules() if isinstance(m, module.Layer)]
    assert len(found) == wanted > 20
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.tensor([0, 2]))
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    network.load_state_dict(copy.deepcopy(network).state_dict())


def test_in_a_vision_transformer_of_timm(tokens: ModuleType, timm: ModuleType) -> None:
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=3, norm_layer=tokens.RmsNormTokens
    )
    assert sum(isinstance(m, tokens.RmsNormTokens) for m in network.modules()) == 25
    network(torch.randn(2, 3, 32, 32)).sum().backward()


@pytest.mark.parametrize(
    "layer",
    ["evonorm_s0", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bn_relu", "dyt"))],
)
def test_other_formats(layer: str, tmp_path: Path) -> None:
    made = evonas.export(layer, out=tmp_path / "b", to=["onnx", "torch_export"], channels=8, groups=4)
    assert made.checks["layer.onnx"] == "checked in onnxruntime"
    assert made.checks["layer.pt2"] == "loaded again and checked"
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(tmp_path / "b" / "layer.onnx"), providers=["CPUExecutionProvider"]
    )
    options = {"groups": 4} if layer == "evonorm_s0" else {}
    module = load(tmp_path / "b").Layer(8, **options).eval()
    x = torch.randn(3, 8, 8, 8)
    (y,) = session.run(None, {"x": x.numpy()})
    assert off(torch.from_numpy(y), module(x).detach()) <= 1e-5
    program = torch.export.load(tmp_path / "b" / "layer.pt2")
    assert off(program.module()(x).detach(), module(x).detach()) <= 1e-6


def test_a_format_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError("no counterpart for this operation")

    monkeypatch.setattr("torch.onnx.export", broken)
    with pytest.raises(UsageError, match="cannot be written as onnx: no counterpart"):
        evonas.export("relu", out=tmp_path / "b", to=["onnx"])
    assert not list(tmp_path.iterdir())


SLOW = [("evonorm_b0", "3,5,3,4"), ("x - mean[b](x)", "3,4,2,2"), ("x / rms[c](x)", "3,6,8")]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [("evonorm_s0", "3,6,3,5"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_kernels_in_the_interpreter(layer: str, shape: str, tmp_path: Path) -> None:
    folder = evonas.export(layer, out=tmp_path / "b").path
    if len(shape.split(",")) == 3:
        text = (folder / "layer.py").read_text()
        (folder / "layer.py").write_text(text.replace("\nLayer = NormAct\n", "\nLayer = NormActTokens\n"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kernel_in_interpreter.py")), str(folder), shape],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    count, worst = done.stdout.split()
    assert int(count) >= 4
    assert float(worst) <= 1e-5
