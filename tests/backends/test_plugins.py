"""Plug-in files and entry points."""

from __future__ import annotations

import importlib
import sys

import pytest

from evonas import plugins
from evonas.errors import PluginError


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_is_loaded_once_under_a_stable_name(tmp_path):
    described = plugins.describe_plugins([write(tmp_path, "items = []\nitems.append(1)\n", "my-ops.py")])
    (first,) = plugins.load_plugins(described)
    (second,) = plugins.load_plugins(described)
    assert first is second
    assert first.items == [1]
    assert first.__name__ == f"evonas_plugin_my_ops_{described[0]['sha256'][:8]}"
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("x = 1\ny = 1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("def f(:\n", 1, "SyntaxError"),
        ("\n\nimport no_such_module_anywhere\n", 3, "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", 1, "SystemExit"),
    ],
)
def test_an_exception_names_file_line_and_text(tmp_path, source, line, text):
    path = write(tmp_path, source)
    described = plugins.describe_plugins([path])
    with pytest.raises(PluginError) as caught:
        plugins.load_plugins(described)
    assert f"{path}:{line} " in caught.value.message
    assert text in caught.value.message
    assert caught.value.hint
    assert not any(name.startswith("evonas_plugin_mine") for name in sys.modules)


def test_a_changed_or_missing_file_is_refused(tmp_path):
    path = write(tmp_path, "a = 1\n")
    described = plugins.describe_plugins([path])
    path.write_text("a = 2\n")
    with pytest.raises(PluginError, match="not the file that the run names"):
        plugins.load_plugins(described)
    with pytest.raises(PluginError, match="No such file"):
        plugins.describe_plugins([tmp_path / "none.py"])


def install(folder, name, points):
    """A distribution as pip leaves it: metadata and the modules that its entry points name."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{key} = {value}" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[evonas.primitives]\n{lines}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_ENTRY_POINTS", {})
    monkeypatch.setattr(plugins, "_BROKEN", {})
    monkeypatch.delenv(plugins.ALLOW_VARIABLE, raising=False)
    write(tmp_path, "thing = 'good'\n", "evonas_test_good.py")
    write(tmp_path, "raise RuntimeError('cannot start')\n", "evonas_test_bad.py")
    install(tmp_path, "alpha", {"fine": "evonas_test_good:thing", "both": "evonas_test_good:thing"})
    install(tmp_path, "beta", {"bad": "evonas_test_bad:thing", "both": "evonas_test_good:__name__"})
    importlib.invalidate_caches()
    return tmp_path


def test_broken_entry_points_and_collisions_are_reported_and_break_nothing(site):
    assert plugins.load_entry_points("evonas.primitives") == {"fine": "good"}
    reasons = {b.name: b.reason for b in plugins.broken_plugins()}
    assert reasons["bad"] == "RuntimeError: cannot start"
    assert "alpha and beta" in reasons["both"]
    plugins.load_entry_points("evonas.primitives")
    assert len(plugins.broken_plugins()) == 2


@pytest.mark.parametrize(("allow", "names"), [("", set()), ("fine", {"fine"}), (" fine , none ", {"fine"})])
def test_the_allow_list(site, monkeypatch, allow, names):
    monkeypatch.setenv(plugins.ALLOW_VARIABLE, allow)
    assert set(plugins.load_entry_points("evonas.primitives")) == names
    assert plugins.broken_plugins() == ()
