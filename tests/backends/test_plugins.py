"""Plug-in files and entry points."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from evonas import data, plugins, proxies
from evonas.errors import PluginError, UsageError


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


def install(folder, name, points, group="evonas.primitives"):
    """A distribution as pip leaves it: metadata and the modules that its entry points name."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{key} = {value}" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")


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


@pytest.mark.parametrize("kind", ["proxies", "datasets"])
def test_the_allow_list_holds_for_proxies_and_data_sets(tmp_path, monkeypatch, kind):
    registry = {"proxies": proxies.registry, "datasets": data.registry}[kind]
    lookup = {"proxies": proxies.registry._entry, "datasets": data.registry._loader}[kind]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_ENTRY_POINTS", {})
    monkeypatch.setattr(plugins, "_BROKEN", {})
    module = f"evonas_test_allowed_{kind}"
    write(tmp_path, "def made(*arguments, **options):\n    raise RuntimeError\n", f"{module}.py")
    names = {f"{module}_fine": f"{module}:made", f"{module}_bad": f"{module}:absent"}
    install(tmp_path, "gamma", names, f"evonas.{kind}")
    importlib.invalidate_caches()
    monkeypatch.setenv(plugins.ALLOW_VARIABLE, "another")
    assert not set(names) & set(registry.names())
    with pytest.raises(UsageError, match="unknown"):
        lookup(f"{module}_fine")
    assert module not in sys.modules
    monkeypatch.delenv(plugins.ALLOW_VARIABLE)
    assert set(names) <= set(registry.names())
    lookup(f"{module}_fine")
    assert module in sys.modules
    with pytest.raises(PluginError, match="gamma: AttributeError"):
        lookup(f"{module}_bad")


def test_a_script_and_the_same_file_as_a_plugin_are_one_definition(tmp_path):
    path = write(tmp_path, "def thing():\n    return 1\n", "evonas_test_same.py")
    first, second = (importlib.util.spec_from_file_location(n, path) for n in ("one", "two"))
    made = []
    for spec in (first, second):
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made.append(module.thing)
    plugins.check_registration("proxy", "thing", made[1], made[0])
    with pytest.raises(PluginError, match="one:thing and by"):
        plugins.check_registration("proxy", "thing", write, made[0])
