"""Runs and layers where people already look: TensorBoard, notebooks, data frames."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import evonas
from evonas.run.run import Run
from evonas.run.tensorboard import to_tensorboard

GOLDEN = sorted(p.parent for p in (Path(__file__).parents[2] / "runs" / "golden").glob("*/run.json"))[0]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    reader.Reload()
    return {
        tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in reader.Tensors(tag)]
        for tag in reader.Tags()["tensors"]
    }


def test_tensorboard_shows_the_scores_of_the_log(tmp_path: Path) -> None:
    run = Run(GOLDEN)
    folder = to_tensorboard(run, tmp_path)
    assert to_tensorboard(run, tmp_path) == folder, "a second call replaces what the first one wrote"
    for arm in ("search", "control", "baseline"):
        found = scalars(folder / arm)
        rows = run.scored(arm)
        assert sorted(v for _, v in found["score/mean"]) == pytest.approx(
            sorted(r["mean"] for r in rows), abs=1e-6
        )
        best = [v for _, v in found["best/mean"]]
        assert best == sorted(best)
        assert best[-1] == pytest.approx(rows[0]["mean"], abs=1e-6)
        evaluated = [r for r in run.table().to_pylist() if r["arm"] == arm and r["formula"]]
        assert [step for step, _ in found["seconds"]] == list(range(1, len(evaluated) + 1))


def test_notebooks_show_layers_and_runs_typeset() -> None:
    shown = evonas.layer("evonorm_s0")._repr_html_()
    ET.fromstring(shown)
    assert "<math" in shown
    assert "<svg" in shown
    assert "independent of the batch" in shown
    page = Run(GOLDEN)._repr_html_()
    assert page.count("<svg") == 1
    ET.fromstring(page)
    assert page.count("<math") == len(Run(GOLDEN).front())


def test_a_run_without_results_has_a_picture_too(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(GOLDEN, tmp_path / GOLDEN.name))
    shutil.rmtree(copy / "events")
    (copy / "events").mkdir()
    assert "nothing scored yet" in Run(copy)._repr_html_()
