"""Numbers on the pages are those of the committed measurements."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_numbers", ROOT / "scripts" / "readme_numbers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_say_what_was_measured(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--check"]) == 0, capsys.readouterr().err


def make_tree(root: Path, page: str) -> None:
    (root / "docs").mkdir()
    (root / "benchmarks" / "results").mkdir(parents=True)
    (root / "README.md").write_text(page)
    target = {"what": "loop against plain_full", "value": 0.8211, "bound": 0.5, "at_most": False, "met": True}
    report = {
        "machine": "x86_64, 2 cores", "load": 0.5, "targets": [target],
        "cases": {"evonas": {"candidates": 10000, "rate": 25059.4, "range": [21744.0, 25200.0]}},
    }  # fmt: skip
    (root / "benchmarks" / "results" / "search_loop.json").write_text(json.dumps(report))


PAGE = "before\n<!-- numbers: search_loop_targets -->\nold\n<!-- /numbers -->\nafter\n"


def test_a_stale_page_is_found_and_written(script: ModuleType, tmp_path: Path) -> None:
    make_tree(tmp_path, PAGE)
    assert script.main(["--check"], tmp_path) == 1
    assert script.main(["--write"], tmp_path) == 0
    written = (tmp_path / "README.md").read_text()
    assert "| loop against plain_full | 0.82 | at least 0.5 | yes |" in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert script.main(["--check"], tmp_path) == 0


def test_a_block_without_a_measurement_is_empty(script: ModuleType, tmp_path: Path) -> None:
    make_tree(tmp_path, PAGE.replace("search_loop_targets", "workers"))
    script.main(["--write"], tmp_path)
    assert "workers -->\n<!-- /numbers -->" in (tmp_path / "README.md").read_text()


def test_every_layer_that_is_off_is_listed(script: ModuleType, tmp_path: Path) -> None:
    make_tree(tmp_path, PAGE)
    failed = {"formula": "x / x", "outputs": ["dx", "y"], "errors": {"dx": 0.5, "y": 2e-5, "dv0": 0.0},
              "rounding": {"dx": 0.01, "y": 1e-7, "dv0": 0.0}}  # fmt: skip
    one = {"layers": "random", "limits": "small", "dtype": "float32", "tolerance": 1e-5, "cases": 1000,
           "within_tolerance": 990, "within_rounding": 9, "disagree": [failed], "overflow": []}  # fmt: skip
    clean = {**one, "layers": "zoo", "dtype": "bfloat16", "tolerance": 0.02, "disagree": []}
    path = tmp_path / "benchmarks" / "results" / "kernel_fuzz.json"
    for sets, last in (
        ([one, clean], "- `x / x` (random, small, float32): dx by 5.0e-01, rounding moves it by 1.0e-02; "
                       "y by 2.0e-05, rounding moves it by 1.0e-07"),
        ([clean], "None is further off."),
    ):  # fmt: skip
        path.write_text(json.dumps({"versions": {"triton": "3", "torch": "2"}, "sets": sets}))
        lines = script.BLOCKS["kernel_fuzz"](tmp_path).splitlines()
        assert lines[-1] == last
        assert len([line for line in lines if line.startswith("| ")]) == 2 + len(sets)
    assert "| the zoo | small | bfloat16 | 1,000 | 0.02 | 990 | 9 | 0 | 0 |" in lines


def test_an_unknown_block_is_named(script: ModuleType, tmp_path: Path) -> None:
    make_tree(tmp_path, PAGE.replace("search_loop_targets", "serach"))
    with pytest.raises(SystemExit, match="serach"):
        script.main(["--check"], tmp_path)


def test_the_ranking_of_a_run(script: ModuleType, tmp_path: Path, finished_run: Path) -> None:
    make_tree(tmp_path, PAGE.replace("search_loop_targets", "ranking"))
    golden = tmp_path / "runs" / "golden"
    golden.parent.mkdir()
    golden.symlink_to(finished_run)
    import evonas

    rows = evonas.open_run(finished_run).ranking()
    table = script.ranking(tmp_path)
    assert table.startswith("| layer | arm | formula | mean | resnet | n | against relu |")
    assert len(table.splitlines()) == 2 + len(rows)
    assert f"{100 * rows[0]['mean']:.1f}" in table.splitlines()[2]
