"""Every example runs, and so does every command that its docstring names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from document_runner import blocks

from evonas.run.settings import resolve

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
RUNNER = str(Path(__file__).with_name("document_runner.py"))
#: Options that make an example take a second or two.
TINY = {
    "own_objective": " --steps 2",
    "search_from_python": " --candidates 1 --steps 2",
    "train_a_layer": " --steps 2",
    "train_exported_layer": " --steps 2",
}


def named_commands(example: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")), clean=False) or ""
    joined = docstring.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r"\s*(evonas|python) ", line)]


def run_all(commands: list[str], folder: Path, reader: Callable[..., str]) -> None:
    page = folder / "page.md"
    page.write_text("```console\n" + "".join(f"$ {command}\n" for command in commands) + "```\n")
    assert len(blocks(page.read_text())) == 1
    reader(RUNNER, str(page))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(example: Path, tmp_path: Path, reader: Callable[..., str]) -> None:
    found = [command for command in named_commands(example) if not command.startswith("evonas search")]
    assert f"python examples/{example.name}" in found
    tiny = TINY.get(example.stem, "")
    run_all([c + tiny if c.startswith("python") else c for c in found], tmp_path, reader)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_searches_that_the_example_names(
    example: Path, tmp_path: Path, reader: Callable[..., str]
) -> None:
    found = [command for command in named_commands(example) if command.startswith("evonas search")]
    assert bool(found) == example.stem.startswith("own_")
    run_all(found, tmp_path, reader)


def test_the_settings_of_make_search_fit() -> None:
    settings, origins = resolve(file=ROOT / "examples" / "search.toml")
    assert settings.search.max_time_s <= 12 * 60
    assert set(settings.evaluation.proxies) == {"resnet", "mobilenet", "efficientnet"}
    assert {"bn_relu", "gn_silu", "gn_relu", "evonorm_b0", "evonorm_s0", "relu"} <= set(
        settings.search.baselines
    )
    assert settings.search.control == "random"
    assert settings.search.seeds == ()
    assert all(origin.startswith("file ") for origin in origins.values())
