"""The index has a package ``kernels``, and transformers imports it: ours must not be in its way."""

from __future__ import annotations

from pathlib import Path

import pytest
from package_installs import ROOT, install, python

LOOK = "import kernels, evonas.kernels; print(kernels.__file__); print(evonas.kernels.__file__)"


def look(site: Path, cwd: Path) -> list[Path]:
    return [Path(line) for line in python("-c", LOOK, cwd=cwd, path=site).splitlines()]


def stand_in(target: Path) -> None:
    """A package of the same import name."""
    (target / "kernels").mkdir(parents=True)
    (target / "kernels" / "__init__.py").write_text("")


def test_the_installed_wheel_leaves_the_name_alone(wheel: Path, tmp_path: Path) -> None:
    stand_in(tmp_path)
    install(tmp_path, str(wheel))
    theirs, ours = look(tmp_path, cwd=tmp_path)
    assert theirs == tmp_path / "kernels" / "__init__.py"
    assert ours == tmp_path / "evonas" / "kernels" / "__init__.py"


def test_the_editable_install_leaves_the_name_alone(tmp_path: Path) -> None:
    stand_in(tmp_path / "site")
    theirs, ours = look(tmp_path / "site", cwd=tmp_path)
    assert theirs == tmp_path / "site" / "kernels" / "__init__.py"
    assert ours == ROOT / "kernels" / "__init__.py"


def test_the_common_names_belong_to_nobody(site: Path, tmp_path: Path) -> None:
    for name in ("primitives", "search_spaces"):
        code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        assert python("-c", code, cwd=tmp_path, path=site).strip() == "None"
        assert python("-c", code, cwd=tmp_path).strip() == "None"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["wheel", "editable"])
def test_beside_the_package_of_the_index(where: str, wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "kernels", *([str(wheel)] if where == "wheel" else []))
    assert list(site.glob("kernels-*.dist-info")), "the index's own distribution"
    # imported with its own dependencies absent, the package may fail: its place is what counts
    code = (
        "import importlib.util, evonas.kernels\n"
        "print(importlib.util.find_spec('kernels').origin)\nprint(evonas.kernels.__file__)"
    )
    theirs, ours = python("-c", code, cwd=tmp_path, path=site).splitlines()
    assert Path(theirs) == site / "kernels" / "__init__.py"
    assert Path(ours) == (site / "evonas" if where == "wheel" else ROOT) / "kernels" / "__init__.py"
