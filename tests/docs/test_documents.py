"""The README and the documentation do what they say."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from document_runner import Block, blocks

from evonas.run._toml import tomllib
from evonas.run.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "runs/README.md", *DOCS]
RUNNER = str(Path(__file__).with_name("document_runner.py"))
READERS = ("pandas", "polars", "duckdb")
#: What a block may be left out for: it takes long, needs a network, a second machine, or a package we do not need.
LONG_OR_EXTERNAL = re.compile(
    r"^\s*(\$ )?(make|git|pip|sudo|ray|pre-commit|python -m pip|\.ci/run|python benchmarks/|PIP_ARGS)|--address"
    r"|import (pandas|polars|duckdb|timm)|--workers 64|--seeds [3-9]|cifar|image_folder|entry-points|\.arrows", re.M
)  # fmt: skip


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def runnable(page: str) -> list[Block]:
    languages = ("python", "bash", "sh", "console")
    return [b for b in blocks(text(page)) if b.language in languages and not b.mark.startswith("skip")]


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)])
def test_every_block_of_the_page_runs(page: str, tmp_path: Path, reader: Callable[..., str]) -> None:
    absent = [name for name in READERS if importlib.util.find_spec(name) is None]
    copy = tmp_path / "page.md"
    copy.write_text(without(text(page), absent))
    reader(RUNNER, str(copy))


def without(page: str, absent: list[str]) -> str:
    """The page without the blocks that read a run with a package that is not installed."""
    for block in blocks(page):
        if any(f"import {name}" in block.text for name in absent):
            page = page.replace(f"```{block.language}\n{block.text}", f"```text\n{block.text}", 1)
    return page


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_left_out_for_a_reason_only(page: str) -> None:
    for block in blocks(text(page)):
        if block.mark:
            assert re.fullmatch(r"skip \(.{5,}\)", block.mark), f"{page}:{block.line}"
            assert LONG_OR_EXTERNAL.search(block.text), f"{page}:{block.line} could be run"


@pytest.mark.parametrize("page", PAGES)
def test_toml_blocks_are_settings(page: str) -> None:
    for block in blocks(text(page)):
        if block.language == "toml" and not block.mark:
            Settings.from_dict(tomllib.loads(block.text))


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "benchmarks/README.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    prose = re.sub(r"^```.*?^```$|^ {4}.*$|`[^`\n]*`", "", text(page), flags=re.S | re.M)
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", prose)
    assert not [link for link in links if not (folder / link).exists()]


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("docs/index.md")))
    assert linked == {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_the_makefile_has_the_targets_that_pages_name() -> None:
    makefile = text("Makefile")
    named = {name for page in PAGES for name in re.findall(r"(?:`|^\$ |^)make ([a-z-]+)", text(page), re.M)}
    assert {"search", "test"} <= named
    assert not [name for name in named if not re.search(rf"^{name}:.*## ", makefile, re.M)]
