"""What is in the wheel, and that it works from a folder that knows nothing of the source tree."""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path

import pytest
from package_installs import FOLDERS, ROOT, python, run

from evonas.run._toml import tomllib


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_every_package_of_the_source_tree_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join((FOLDERS[folder], *init.parent.relative_to(ROOT / folder).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(declared) == sorted(found)


def test_the_wheel_holds_every_module_under_evonas_and_nothing_else(names: list[str]) -> None:
    expected = {
        str(Path(FOLDERS[folder].replace(".", "/"), module.relative_to(ROOT / folder)))
        for folder in FOLDERS
        for module in (ROOT / folder).rglob("*.py")
    }
    assert {n for n in names if n.endswith(".py")} == expected
    assert {n.split("/")[0] for n in names} == {
        "evonas",
        f"evonas-{importlib.metadata.version('evonas')}.dist-info",
    }


def test_the_wheel_holds_the_data_the_types_marker_and_all_licences(names: list[str]) -> None:
    data = ROOT / "evonas" / "data" / "fashion_mnist"
    files = {f"evonas/data/fashion_mnist/{p.name}" for p in data.iterdir() if p.is_file()}
    assert {"evonas/data/fashion_mnist/images.png", "evonas/data/fashion_mnist/labels.bin"} <= files
    text = {f"evonas/data/sotu_moby/{name}" for name in ("text.xz", "source.json", "LICENSE.txt")}
    assert files | text | {"evonas/py.typed"} <= set(names)
    licences = [n for n in names if ".dist-info/licenses/" in n]
    assert [Path(n).name for n in sorted(licences)] == ["LICENSE", "LICENSE.txt", "LICENSE.txt"]


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "License-Expression: Apache-2.0 AND MIT AND PDDL-1.0 AND CC0-1.0" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "Requires-Dist: torch<2.14,>=2.8" in metadata
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert not [line for line in needed if "extra ==" not in line and ("pytest" in line or "ruff" in line)]


def test_the_installed_wheel_finds_its_own_rooms(site: Path, tmp_path: Path) -> None:
    code = "; ".join(f"import {name}; print({name}.__file__)" for name in FOLDERS.values())
    files = python("-c", code, cwd=tmp_path, path=site).split()
    assert files == [str(site / name.replace(".", "/") / "__init__.py") for name in FOLDERS.values()]


def test_the_installed_wheel_trains_on_its_data(site: Path, tmp_path: Path) -> None:
    code = (
        "import evonas; from evonas import data, proxies\n"
        "made = proxies.get('resnet', steps=2, batch=8, depth=(1, 1, 1, 1))\n"
        "layer = evonas.layer('evonorm_s0')\n"
        "result = proxies.train(made, lambda c: layer.module(c, groups=4))\n"
        "print(data.__file__, result.steps, len(made.data.train))"
    )
    file, steps, images = python("-c", code, cwd=tmp_path, path=site).split()
    assert file.startswith(str(site))
    assert (steps, images) == ("2", "4000")


def test_the_command_of_the_installed_wheel(site: Path, tmp_path: Path) -> None:
    shown = run(str(site / "bin" / "evonas"), "--help", cwd=tmp_path, path=site)
    assert shown.returncode == 0, shown.stderr
    assert "search" in shown.stdout
    assert "replay" in shown.stdout
    version = run(str(site / "bin" / "evonas"), "--version", cwd=tmp_path, path=site)
    assert importlib.metadata.version("evonas") in version.stdout


@pytest.mark.parametrize("where", ["wheel", "editable"])
def test_worker_processes_find_the_rooms(where: str, site: Path, tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import importlib, multiprocessing, sys\n"
        "def where(name):\n"
        "    return importlib.import_module(name).__file__\n"
        "if __name__ == '__main__':\n"
        "    for method in ('spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            print(*pool.map(where, sys.argv[1:]))\n"
    )
    used = site if where == "wheel" else None
    lines = python(str(script), *FOLDERS.values(), cwd=tmp_path, path=used).splitlines()
    wheel = [site / name.replace(".", "/") / "__init__.py" for name in FOLDERS.values()]
    source = [ROOT / folder / "__init__.py" for folder in FOLDERS]
    assert lines == [" ".join(map(str, wheel if where == "wheel" else source))] * 2
