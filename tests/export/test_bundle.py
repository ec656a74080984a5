"""What is in a bundle, where it may come from, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from export_support import GOLDEN, ROOT, load

import evonas
from evonas.errors import EnvironmentUnusable, FormulaError, UsageError, VerificationError
from evonas.export.bundle import Bundle
from evonas.layers import ZOO
from evonas.run.run import Run

FILES = {
    "LICENSE", "card.md", "expected.json", "formula.tex", "graph.svg", "kernel.py", "layer.json", "layer.py",
    "test_layer.py",
}  # fmt: skip


def test_the_files_of_a_bundle(best: Path) -> None:
    assert {p.name for p in best.iterdir()} == FILES
    assert not [p for p in best.parent.iterdir() if p.name.endswith(".part")]
    content = json.loads((best / "layer.json").read_text())
    row = Run(GOLDEN).candidate("best")
    assert content["schema"] == "evonas.layer/1"
    assert content["formula"] == row["formula"]
    assert content["digest"] == row["digest"].hex()
    assert content["origin"]["candidate"] == row["candidate"]
    assert content["origin"]["scores"]["resnet"] == row["score_resnet"]
    assert (best / "formula.tex").read_text().startswith(r"\frac{x}")
    assert (best / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_evonas_reads_it_back(best: Path) -> None:
    layer = evonas.layer(str(best / "layer.json"))
    assert layer.digest == Run(GOLDEN).layer("best").digest
    assert layer.name == f"{GOLDEN.name}/13809"
    again = evonas.export(str(best / "layer.json"), out=best.parent / "again")
    texts = [
        (folder / "layer.py").read_text().partition("from __future__")[2] for folder in (again.path, best)
    ]
    assert texts[0] == texts[1] != ""


def test_the_card_has_the_scores_of_the_run(best: Path) -> None:
    text = (best / "card.md").read_text()
    for section in ("Use", "What it replaces, and where not to use it", "How it was found", "Scores",
                    "Hyper-parameters and sensitivity", "Numerical behaviour", "Latency", "Reproduce",
                    "Licence and citation"):  # fmt: skip
        assert f"\n## {section}\n" in text
    assert text.startswith("---\nlicense: apache-2.0\n")
    for row in Run(GOLDEN).ranking():
        assert f"{row['mean']:.3f} ± {row['std']:.3f}" in text
    assert "sensitivity to the learning rate: not measured" in text
    assert "roofline model of an H200, not measured" in text
    assert f"evonas export {GOLDEN.name} 13809 -o DIR" in text
    assert "6,019 proposed" in text
    assert "| budget of the search | 500 evaluated candidates in each arm, 650 s |" in text
    assert "| budget of the final trainings | 1.25 times the steps of the search, 3 fresh seeds |" in text
    assert "| resnet | sgd, momentum 0.9 | 0.07 | cosine | 0 | 32 | 120 | 0.0001 | no |" in text
    assert f"Versions: evonas {evonas.__version__}, torch {torch.__version__}, triton " in text
    assert "groups of index sets with c/g in its trainings: at most 4" in text


def test_the_card_says_whose_hyper_parameters_these_are(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are not in the log but in the code."""
    words = "The run was made by evonas 0.1.0, whose values may have been others."
    assert (words in (best / "card.md").read_text()) is (evonas.__version__ != "0.1.0")
    monkeypatch.setattr(evonas, "__version__", "99.0")
    text = (evonas.export(GOLDEN, out=tmp_path / "b").path / "card.md").read_text()
    assert f"The table is that of evonas 99.0, which wrote this card. {words}" in text


def test_the_card_has_the_sensitivity_where_it_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranking = Run(GOLDEN).ranking()
    for row in ranking:
        row |= {"lr": {"resnet": 2.0}, "sensitivity": {"resnet": 0.125}, "sweep": {"resnet": []},
                "data_shares": {"0.25": {"n": 3, "mean": 0.61, "std": 0.02, "per_proxy": {}}}}  # fmt: skip
    monkeypatch.setattr(Run, "ranking", lambda self: ranking)
    text = (evonas.export(GOLDEN, out=tmp_path / "b").path / "card.md").read_text()
    assert "resnet 2\n" in text
    assert "resnet 0.125" in text
    assert "on 0.25 of the data: 0.610 ± 0.020" in text


def test_the_picture_is_svg(best: Path) -> None:
    picture = ET.parse(best / "graph.svg").getroot()
    assert picture.tag.endswith("svg")
    labels = ["".join(t.itertext()) for t in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"x", "v0", "+", "÷", "rms[w,h,c/g]", "× weight + bias", "y"} <= set(labels)
    assert "prefers-color-scheme: dark" in (best / "graph.svg").read_text()


@pytest.mark.parametrize("name", ["evonorm_s0", "dyt", "identity"])
def test_layers_of_the_zoo(name: str, tmp_path: Path) -> None:
    made = evonas.export(name, out=tmp_path / name)
    assert ZOO[name].source in (made.path / "card.md").read_text()
    assert "Not measured." in (made.path / "card.md").read_text()
    assert load(made.path).Layer(6)(torch.randn(2, 6, 4, 4)).shape == (2, 6, 4, 4)


def test_a_candidate_that_was_turned_away(tmp_path: Path) -> None:
    table = Run(GOLDEN).table().to_pylist()
    for stage in ("structural", "probe", "quality"):
        row = next(r for r in table if r["stage"] == stage and r["arm"] == "control")
        made = evonas.export(GOLDEN, row["candidate"], tmp_path / stage)
        text = (made.path / "card.md").read_text()
        assert f"turned away by the stage {stage}" in text
        assert json.loads((made.path / "layer.json").read_text())["origin"]["reason"] == row["reason"]


def test_a_copy_and_a_run_that_is_cut_off(tmp_path: Path) -> None:
    copy = shutil.copytree(GOLDEN, tmp_path / "elsewhere" / "renamed")
    for name in ("environment.json", "command.txt"):
        (copy / name).unlink()
    for path in copy.rglob("*"):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    whole = evonas.export(copy, out=tmp_path / "whole")
    assert whole.formula == Run(GOLDEN).layer("best").formula
    segment = max((copy / "events").iterdir())
    os.truncate(segment, segment.stat().st_size * 2 // 3)
    assert Run(copy).ranking() == []
    cut = evonas.export(copy, out=tmp_path / "cut")
    assert cut.formula == Run(copy).layer("best").formula
    text = (cut.path / "card.md").read_text()
    assert "against baselines and the control arm: not measured" in text
    assert "The command of the run was not kept." in text


def test_force_replaces_a_bundle_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    evonas.export("evonorm_s0", out=folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there and not empty") as raised:
        evonas.export("relu", out=folder)
    assert "--force" in str(raised.value.hint)
    assert json.loads((folder / "layer.json").read_text())["name"] == "evonorm_s0"
    evonas.export("v0 + 0 * x", out=folder, force=True, name="shift")
    assert json.loads((folder / "layer.json").read_text())["name"] == "shift"
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UsageError, match="is not a bundle"):
        evonas.export("relu", out=tmp_path / "other", force=True)
    (tmp_path / "empty").mkdir()
    assert isinstance(evonas.export("relu", out=tmp_path / "empty"), Bundle)


def test_force_leaves_nothing_of_another_kind_of_bundle(tmp_path: Path) -> None:
    folder, assembly = tmp_path / "b", "norm: x / rms[c](x); act: x * sigmoid(s1 * x)"

    def files() -> set[str]:
        return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}

    first = evonas.export(assembly, out=folder)
    assert "norm/kernel.py" in first.files
    (folder / "act" / "notes.txt").write_text("mine")
    made = evonas.export("mean[w,h](v1) * x", out=folder, force=True)
    assert files() == {*made.files, "act/notes.txt"}
    assert not (folder / "norm").exists()
    made = evonas.export(assembly, out=folder, force=True)
    assert files() == {*made.files, "act/notes.txt"}
    made = evonas.export("norm: x - x / rms[c](x); ffn: x * sigmoid(x)", out=folder, force=True)
    assert files() == {*made.files, "act/notes.txt"}
    assert load(folder / "norm").Layer(8)(torch.randn(2, 5, 8)).shape == (2, 5, 8)


def test_force_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "layer.py").write_text("mine")
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "layer.json").write_text('{"parts": {"../other": "", "link": "", "..": "", "gone": ""}}')
    evonas.export("relu", out=folder, force=True)
    assert (tmp_path / "other" / "layer.py").read_text() == "mine"


def test_kernels_of_another_layer_are_not_used(best: Path, tmp_path: Path) -> None:
    other = evonas.export("evonorm_s0", out=tmp_path / "other").path
    for name, kernel in (("same", best), ("mixed", other)):
        (tmp_path / name).mkdir()
        shutil.copy(best / "layer.py", tmp_path / name)
        shutil.copy(kernel / "kernel.py", tmp_path / name)
    code = (
        "import sys, warnings; from pathlib import Path\n"
        "from export_support import load\n"
        "assert load(Path(sys.argv[1]) / 'same')._kernel is not None\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    assert load(Path(sys.argv[1]) / 'mixed')._kernel is None\n"
        "assert 'kernel.py is of another layer' in str(seen[-1].message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_layer_without_kernels_says_so(tmp_path: Path) -> None:
    made = evonas.export("mean[w,h](v1) * x", out=tmp_path / "b")
    assert "kernel.py" not in made.files
    assert "There are no kernels in this bundle" in (made.path / "card.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evonorm_s9",), "unknown layer 'evonorm_s9'"),
        ((GOLDEN, 99999999), "has no candidate 99999999"),
        ((GOLDEN, "first"), "'first' is not a candidate"),
        (("max(x,",), "cannot read the formula"),
        (("nowhere", 3), "no run"),
    ],
)
def test_what_does_not_exist(arguments: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        evonas.export(*arguments, out=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format 'onx'") as raised:
        evonas.export("relu", out=tmp_path / "b", to=["onx"])
    assert "did you mean 'onnx'" in str(raised.value.hint)
    with pytest.raises(UsageError, match="no folder"):
        evonas.export("relu")
    with pytest.raises(UsageError, match="eps=2"):
        evonas.export("relu", out=tmp_path / "b", eps=2)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        evonas.export("relu", out=tmp_path / "file")
    with pytest.raises(EnvironmentUnusable, match="exporting to"):
        evonas.export("relu", out=tmp_path / "file" / "b")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evonas.export.bundle.os.rename", full)
    with pytest.raises(EnvironmentUnusable, match="No space left on device"):
        evonas.export("relu", out=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_candidate_without_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**Run(GOLDEN).candidate("best"), "formula": None, "genotype": None}
    monkeypatch.setattr(Run, "candidate", lambda self, candidate: row)
    with pytest.raises(UsageError, match="has no formula"):
        evonas.export(GOLDEN, out=tmp_path / "b")


def test_an_assembly_is_a_bundle_per_part(tmp_path: Path) -> None:
    made = evonas.export("norm: x / rms[c](x); act: x * sigmoid(s1 * x)", out=tmp_path / "b", groups=4)
    assert {"norm/layer.py", "act/layer.py", "act/test_act.py", "norm/card.md", "layer.json"} <= set(
        made.files
    )
    content = json.loads((tmp_path / "b" / "layer.json").read_text())
    assert content["formula"] == made.formula
    assert content["parts"] == {"norm": "norm/layer.json", "act": "act/layer.json"}
    norm, act = (load(tmp_path / "b" / part).Layer(8) for part in ("norm", "act"))
    x = torch.randn(2, 5, 8)
    assert torch.allclose(norm(x), torch.nn.functional.rms_norm(x, (8,), eps=1e-5), atol=1e-6)
    assert list(act.state_dict()) == ["s1"]
    assert torch.allclose(act(x), x * torch.sigmoid(x))


def test_pytest_runs_the_tests_of_all_parts(tmp_path: Path) -> None:
    evonas.export("pre_ffn+final: x / rms[c](x); act: x * sigmoid(s1 * x)", out=tmp_path / "b")
    evonas.export("relu", out=tmp_path / "c")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "b", "c"], cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout


def test_the_card_of_a_run_of_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scores are shares of saved bits: 0.75 is 2 bits per byte. One finalist was not trained."""
    run = Run(GOLDEN)
    candidate = run.candidate("best") | {"score_resnet": 0.7}
    rows = [r | {"per_proxy": {"resnet": [0.75, 0.0125]}} for r in run.ranking()]
    rows[-1] |= {"n": 0, "mean": None, "std": None, "per_proxy": {"resnet": [None, None]}, "versus": None}
    monkeypatch.setattr("evonas.proxies.registry.kind", lambda name: "text" if name == "resnet" else "image")
    monkeypatch.setattr(Run, "candidate", lambda self, _: candidate)
    monkeypatch.setattr(Run, "ranking", lambda self: rows)
    text = (evonas.export(GOLDEN, out=tmp_path / "b").path / "card.md").read_text()
    head, _, body = text.removeprefix("---").partition("\n---\n")
    assert "type: text-generation" in head
    assert "- type: bits_per_byte\n      value: 2.0000\n" in head
    assert "name: held-out bits per byte on resnet, standard deviation 0.100" in head
    assert "accuracy" not in head
    assert "validation scores: mobilenet 0." in body
    assert ", resnet bits/byte 2.400; mean 0." in body
    assert "| 2.000 ± 0.100 |" in body
    assert "| - | - | 0 |" in body
    assert "Bits per byte: lower is better." in body
    candidate["candidate"] = rows[-1]["candidate"]  # itself the one without a training
    text = (evonas.export(GOLDEN, out=tmp_path / "c").path / "card.md").read_text()
    assert "model-index" not in text


def test_the_card_of_a_part_has_the_scores_of_the_assembly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Run(GOLDEN).candidate("best") | {"formula": "norm: x / rms[c](x); act: x * sigmoid(x)"}
    monkeypatch.setattr(Run, "candidate", lambda self, candidate: row)
    made = evonas.export(GOLDEN, out=tmp_path / "b")
    for part in ("norm", "act"):
        text = (made.path / part / "card.md").read_text()
        assert f"Scores of the assembly, of which this layer is a part: `{made.formula}`" in text
        assert "held-out accuracy of the assembly on resnet" in text


def test_a_name_alone_makes_no_layer_of_the_zoo(tmp_path: Path) -> None:
    other = (evonas.export("x * tanh(x)", out=tmp_path / "a", name="silu").path / "card.md").read_text()
    assert "is published" not in other
    assert "Not by a search that is recorded here." in other
    same = (evonas.export("silu", out=tmp_path / "b", name="swish").path / "card.md").read_text()
    assert f"The layer itself is published: {ZOO['silu'].source}." in same


def test_a_gradient_that_is_not_a_number_is_no_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evonas.export.numerics as numerics

    both = numerics._both

    def broken(module: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> tuple:
        y, gradients = both(module, x, dy)
        mine = type(module).__module__ == "evonas_exported_layer"
        return y, [*gradients[:-1], gradients[-1] * float("nan")] if mine else gradients

    monkeypatch.setattr(numerics, "_both", broken)
    with pytest.raises(VerificationError, match="off by nan"):
        evonas.export("evonorm_s0", out=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_run_and_a_candidate_as_a_pair(tmp_path: Path) -> None:
    made = evonas.export((GOLDEN, "best"), out=tmp_path / "b")
    assert made.name == f"{GOLDEN.name}/13809"
    for wrong in (None, 3, (GOLDEN,), (GOLDEN, "best", 1), ["relu"]):
        with pytest.raises(UsageError, match="cannot export a"):
            evonas.export(wrong, out=tmp_path / "c")


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = evonas.export("relu", out=".")
    assert {p.name for p in Path.cwd().iterdir()} == set(made.files)


@pytest.mark.parametrize("name", ["none", "true", "tensor", "any", "path", "value error", "class"])
def test_names_that_mean_something_in_python(name: str, tmp_path: Path) -> None:
    made = evonas.export("x / rms[c](x)", out=tmp_path / "b", name=name)
    assert load(made.path).Layer(4)(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)
    assert made.name == name


def test_a_candidate_of_a_layer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="evonorm_s0 is a layer and no run"):
        evonas.export("evonorm_s0", 3, tmp_path / "b")


@pytest.mark.parametrize(
    "layer", ["rms_norm+silu", "power_norm+silu", "norm (no affine): x / rms[c](x); act: x"]
)
def test_evonas_reads_an_assembly_back(layer: str, tmp_path: Path) -> None:
    made = evonas.export(layer, out=tmp_path / "b")
    for spec in (made.path, str(made.path), made.path / "layer.json", str(made.path / "layer.json")):
        found = evonas.layer(spec)
        assert found.digest == evonas.layer(layer).digest
        assert found.text == evonas.layer(layer).text
        assert found.name == made.name
    part = evonas.layer(made.path / "norm")
    wanted = evonas.layer(layer).parts["norm"]
    assert (part.digest, part.affine, part.stateful) == (wanted.digest, wanted.affine, wanted.stateful)
    text = tmp_path / "assembly.txt"
    text.write_text("norm: x / rms[c](x); act: v2 * x")
    with pytest.raises(FormulaError, match=r"assembly\.txt: "):
        evonas.layer(text)


def test_a_file_that_is_no_layer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has no formula"):
        evonas.layer(GOLDEN / "run.json")
    (tmp_path / "layer.json").write_text("{")
    with pytest.raises(UsageError, match="is not a layer file"):
        evonas.layer(tmp_path)


def test_a_folder_does_not_hide_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "relu", "mine"):
        evonas.export("x * tanh(x)", out=name)
    assert evonas.layer("x").formula == "x"
    assert evonas.layer("relu").formula == "max(x, 0)"
    assert evonas.layer("mine").formula == "x * tanh(x)"
