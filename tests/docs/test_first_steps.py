"""The README's way from a clone to a layer in a model: at most five commands, which a script times."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_way_is_at_most_five_commands() -> None:
    found = script("time_first_steps").commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) <= 5
    assert found[0].startswith("git clone ")
    assert found[1] == "make search"
    assert "evonas export" in found[-2]
    assert found[-1].endswith("examples/swap_timm.py resnet18 my_layer/layer.json")
    with pytest.raises(SystemExit, match="no console block"):
        script("time_first_steps").commands("# a page without it")


def test_a_command_is_timed_and_a_failure_ends_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timing = script("time_first_steps")
    done = timing.run("echo first; sleep 0.1; echo last", tmp_path, {"PATH": "/usr/bin:/bin"})
    assert done["said"] == ["last"]
    assert done["cpu_seconds"] >= 0
    assert 0 < done["seconds"] < 60
    with pytest.raises(SystemExit, match="ended with 3"):
        timing.run("echo gone; exit 3", tmp_path, {"PATH": "/usr/bin:/bin"})
    assert "gone" in capsys.readouterr().err


def test_the_times_become_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    steps = [
        {"command": "git clone x", "seconds": 0.4},
        {"command": "make search", "seconds": 900.0, "set_up_seconds": 180.0},
    ]
    report = {
        "machine": {"cores": 2, "load": 0.5}, "versions": {"torch": "2.13.0"}, "torchvision": "imported as installed",
        "seconds": 900.4, "steps": steps,
    }  # fmt: skip
    (folder / "first_steps.json").write_text(json.dumps(report))
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        text = script("readme_numbers").first_steps(tmp_path)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert text.startswith("15.0 minutes on 2 cores, load 0.5; torch 2.13.0.\n")
    assert "| `make search` | 15.0 min, of which 3.0 for setting up |" in text
    assert "| `git clone x` | 0.4 s |" in text
