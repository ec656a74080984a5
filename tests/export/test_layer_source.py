"""The written module is the module of evonas: every layer of the zoo and shapes of formulas that it does not have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evonas.primitives import unregister
from export_support import load, off, results, stir

import evonas
from evonas.errors import FormulaError, PluginError
from evonas.export import from_evonas_state, to_evonas_state
from evonas.export.layer_text import Source, class_name, layer_source
from evonas.layers import ZOO

FORMULAS = [
    "x / rms[w,h,c/g](v0 + x)", "mean[b](x) + x", "x / std[b,w,h,c/g](x)", "x / rms[b,w,h,c](x)",
    "log(x) * sqrt(v1) + rsqrt(x) - step(x) + sign(x)", "v1 + 0 * x", "mean[w,h](v1) * x", "max(0, 1)",
    "x / (0 - x)", "min(1, x) / 0.5", "1 / x", "x * mean[c](1)", "v0", "std[c/g](x)", "x / std[t](x)",
    "x - cmean[t](x)", "x / crms[t,c](x)", "(x - cmean[t,c/g](x)) / cstd[t,c/g](x)", "x * sigmoid(s1 * x) + s0",
    "exp(-abs(x)) * square(tanh(x) + erf(x)) / (std[c](x) + abs(x))", "x - -x", "mean[b,w,h](mean[w,h](x)) - x",
]  # fmt: skip


def write(formula: str, layout: str, groups: int = 4) -> Source:
    layer = evonas.layer(formula)
    return layer_source(
        layer.graph, layer.name, layout, eps=1e-5, groups=groups, about="A test.", licence="Apache-2.0",
        digest=layer.digest, version="0", affine=layer.affine,
    )  # fmt: skip


def fits(formula: str, layout: str) -> bool:
    try:
        evonas.layer(formula).module(8, layout=layout, backend="eager")
    except FormulaError:
        return False
    return True


CASES = [(f, layout) for f in [*ZOO, *FORMULAS] for layout in ("nchw", "btc") if fits(f, layout)]


@pytest.mark.parametrize(("formula", "layout"), CASES)
def test_the_written_layer_is_that_of_evonas(formula: str, layout: str, tmp_path: Path) -> None:
    layer = evonas.layer(formula)
    source = write(formula, layout)
    (tmp_path / "layer.py").write_text(source.text)
    assert not re.search(r"\bimport evonas|from evonas", source.text)
    names = {n.id for n in ast.walk(ast.parse(source.text)) if isinstance(n, ast.Name)}
    assert not [n for n in names if re.fullmatch(r"t\d+", n)]
    ours = stir(layer.module(12, layout=layout, groups=4, backend="eager"))
    theirs = load(tmp_path).Layer(12)
    theirs.load_state_dict(from_evonas_state(ours.state_dict(), layer.graph, layout))
    generator = torch.Generator().manual_seed(0)
    shape = (3, 12, 5, 4) if layout == "nchw" else (3, 7, 12)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
        wanted, found = results(ours, x, dy), results(theirs, x, dy)
        assert {
            name: off(found[name], wanted[name]) for name in wanted if off(found[name], wanted[name]) > 1e-6
        } == {}
    after = from_evonas_state(ours.state_dict(), layer.graph, layout)
    assert sorted(after) == sorted(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.allclose(value, after[name], atol=1e-6)
    back = to_evonas_state(theirs.state_dict(), ours)
    ours.load_state_dict(back)


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    (tmp_path / "layer.py").write_text(write("evonorm_b0", "nchw").text)
    layer = load(tmp_path).Layer(8)
    wide = torch.full((2, 8, 4, 4), 3.0e3) + torch.arange(16.0).reshape(4, 4)  # squares overflow float16
    y = layer(wide.half())
    assert y.dtype == torch.float16
    assert y.isfinite().all()
    half = load(tmp_path).Layer(8).half()
    half(wide.half())
    assert half.running_var.dtype == torch.float32
    assert half.running_var.isfinite().all()


def test_state_dict_keys_stay() -> None:
    keys = {}
    for name in ZOO:
        source = write(name, "nchw")
        keys[name] = [*sorted(source.program.parameters), *(s.name for s in source.program.statistics)]
    assert keys == {
        **{f"bn_{act}": ["running_mean", "running_var"] for act in ("relu", "silu", "gelu")},
        **{f"{n}_{act}": [] for n in ("gn", "in", "ln") for act in ("relu", "silu", "gelu")},
        "dyt_scalar": ["s1"], "derf_scalar": ["s0", "s1"], "rms_norm": [], "simple_rms_norm": [], "layer_norm": [],
        "frn": ["v0"], "dyt": ["v1"], "derf": ["v0", "v1"], "evonorm_b0": ["v1", "running_var"],
        "evonorm_b1": ["running_var"], "evonorm_b2": ["running_var"], "evonorm_s0": ["v1"], "evonorm_s1": [],
        "evonorm_s2": [], "relu": [], "silu": [], "gelu": [], "identity": [],
    }  # fmt: skip


def test_names_say_what_values_are() -> None:
    text = write("evonorm_s0", "nchw").text
    assert "gate = torch.sigmoid(v1 * x)" in text
    assert "y = x * gate / std" in text
    text = write("(n := (x - mean[w,h](x)) / std[w,h](x)) * sigmoid(n)", "nchw").text
    assert "normalized = (x - mean) / std" in text
    text = write("std[w,h](x) + std[w,h,c](x) * x", "nchw").text
    assert "instance_std = " in text
    assert "layer_std = " in text


@pytest.mark.parametrize(
    "formula",
    ["bn_relu", "evonorm_s0", "derf", "log(x) * mean[w,h,c/g](1)", "v1 * x - v0"],
)
def test_the_text_is_in_style(formula: str, tmp_path: Path) -> None:
    path = tmp_path / "layer.py"
    path.write_text(write(formula, "nchw").text)
    ruff = str(Path(sys.executable).with_name("ruff"))
    options = ["--no-cache", "--isolated", "--config", "line-length = 110"]
    check = [ruff, "check", *options, "--select", "E,F,I,B,UP", "--ignore", "E501", str(path)]
    for command in (check, [ruff, "format", "--check", *options, str(path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tree = ast.parse(path.read_text())
    assert all(ast.get_docstring(n) for n in tree.body if isinstance(n, ast.ClassDef))


def test_words_cannot_end_the_docstring() -> None:
    layer = evonas.layer("relu")
    words = 'a "quoted" \\xi' + '"""'
    text = layer_source(
        layer.graph, layer.name, "nchw", eps=1e-5, groups=4, about=words, licence="Apache-2.0",
        digest=layer.digest, version="0",
    ).text  # fmt: skip
    assert "a \"quoted\" \\xi'''" in str(ast.get_docstring(ast.parse(text)))


def test_class_names() -> None:
    assert class_name("evonorm_s0") == "EvonormS0"
    assert class_name("20261123T163432Z-norm_act-75b415aa/13809") == "Layer13809"
    assert class_name("layer") == "NormAct"


def test_a_plug_in_is_copied(tmp_path: Path) -> None:
    @evonas.primitive(
        "shifted_sign",
        gradient=lambda ops, g, y, a: ops.div(g, ops.square(ops.add(ops.const(1.0), ops.abs(a)))),
        source="a test",
    )
    def shifted_sign(xp, a):
        """a / (1 + |a|)"""
        return a / xp.at_least(1.0 + xp.abs(a), 1e-3)

    try:
        (tmp_path / "layer.py").write_text(write("shifted_sign(v1 * x)", "nchw").text)
        x = torch.randn(2, 4, 3, 3)
        assert torch.allclose(load(tmp_path).Layer(4)(x), x / (1 + x.abs()))
    finally:
        unregister("shifted_sign")


def test_a_plug_in_that_cannot_be_copied_says_why() -> None:
    factor = 0.5

    @evonas.primitive("halved", gradient=lambda ops, g, y, a: ops.mul(g, ops.const(0.5)), source="a test")
    def halved(xp, a):
        """a / 2"""
        return a * factor

    try:
        with pytest.raises(PluginError, match=r"'halved' cannot be exported: it uses factor") as raised:
            write("halved(x)", "nchw")
        assert "as a function" in str(raised.value.hint)
    finally:
        unregister("halved")
