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
TINY = {"search_from_python": " --candidates 1 --steps 2", "train_a_layer": " --steps 2"}


def named_commands(example: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    joined = docstring.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r" {4}(evonas|python) ", line)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_command_of_the_example_runs(example: Path, tmp_path: Path, reader: Callable[..., str]) -> None:
    found = named_commands(example)
    assert f"python examples/{example.name}" in found
    lines = [f"$ {c}{TINY.get(example.stem, '') if c.startswith('python') else ''}\n" for c in found]
    page = tmp_path / "page.md"
    page.write_text("```console\n" + "".join(lines) + "```\n")
    assert len(blocks(page.read_text())) == 1
    reader(RUNNER, str(page))


def test_the_settings_of_make_search_fit() -> None:
    settings, origins = resolve(file=ROOT / "examples" / "search.toml")
    assert settings.search.max_time_s <= 12 * 60
    assert settings.evaluation.proxies == ("resnet", "mobilenet", "efficientnet")
    assert {"bn_relu", "gn_silu", "gn_relu", "evonorm_b0", "evonorm_s0", "relu"} <= set(
        settings.search.baselines
    )
    assert settings.search.control == "random"
    assert settings.search.seeds == ()
    assert all(origin.startswith("file ") for origin in origins.values())
