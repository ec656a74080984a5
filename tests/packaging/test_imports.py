"""Which modules may import which, and what importing them costs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_installs import FOLDERS, ROOT, python

#: In the order in which data flows: a room imports rooms to its left only.
ORDER = (
    "errors", "rng", "plugins", "primitives", "graph", "testing", "search_spaces", "kernels", "layers", "data",
    "proxies", "evolution", "evaluation", "run", "export", "report", "swapping", "comparing", "cli",
)  # fmt: skip
HEAVY = ("torch", "ray", "triton", "optuna", "networkx", "pandas", "matplotlib")
LIGHT = ("numpy", "pyarrow", "moocore", *HEAVY)


def modules() -> Iterator[tuple[str, Path]]:
    for folder, name in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (*name.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts)
            yield parts[1], path


def imported(path: Path) -> Iterator[str]:
    """What a module imports when it is itself imported."""
    statements: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        statements += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def test_dependencies_run_one_way() -> None:
    wrong = []
    for room, path in modules():
        if room == "__init__":
            continue
        for name in imported(path):
            parts = name.split(".")
            inside = parts[0] == "evonas" and len(parts) > 1 and parts[1] in ORDER
            if inside and ORDER.index(parts[1]) > ORDER.index(room):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_every_room_is_in_the_order() -> None:
    assert {room for room, _ in modules()} - {"__init__"} == set(ORDER)


def test_no_file_is_longer_than_one_idea() -> None:
    sizes = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for _, path in modules()
    }
    assert not {path: size for path, size in sizes.items() if size > 600}


@pytest.mark.parametrize(
    ("names", "forbidden"),
    [
        ("evonas", LIGHT),
        ("evonas.errors evonas.plugins evonas.cli.main", LIGHT),
        ("evonas.primitives evonas.graph evonas.search_spaces evonas.evolution evonas.layers", HEAVY),
        ("evonas.proxies evonas.data evonas.evaluation.screening", HEAVY),
        ("evonas.comparing.api evonas.comparing.picture evonas.cli.compare", HEAVY),
        ("evonas.export evonas.export.bundle", HEAVY),
        ("evonas.run.conductor evonas.run.settings evonas.run.session evonas.run.run evonas.run.api", HEAVY),
    ],
)
def test_what_an_import_brings_in(names: str, forbidden: tuple[str, ...], tmp_path: Path) -> None:
    code = "".join(f"import {name}\n" for name in names.split())
    loaded = set(python("-c", f"{code}import sys; print(*sys.modules)", cwd=tmp_path).split())
    assert not loaded & set(forbidden)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["search", "--help"], ["compare", "--help"], ["list", "--help"]]
)
def test_help_brings_in_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from evonas.cli.main import main\n"
        f"sys.argv = ['evonas', *{arguments}]\n"
        "try:\n    status = main()\nexcept SystemExit as end:\n    status = end.code\n"
        "assert not status, status\n"
        "print('LOADED', *sys.modules)"
    )
    loaded = python("-c", code, cwd=tmp_path).split("LOADED")[1].split()
    assert not set(loaded) & set(LIGHT)
