"""User code that adds primitives, spaces, proxies, data sets or evaluators.

Two ways in: a file that the user names (``--plugin file.py``), which travels to every process together
with its digest, and installed packages with entry points in one of ``GROUPS``. Loading is idempotent:
every process does it, possibly more than once.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evonas.errors import EvonasError, PluginError

GROUPS = (
    "evonas.primitives", "evonas.spaces", "evonas.layers", "evonas.proxies", "evonas.datasets", "evonas.evaluators",
)  # fmt: skip

#: Those whose operations and layers a formula may name.
FORMULA_GROUPS = ("evonas.primitives", "evonas.spaces", "evonas.layers")

#: Allow-list of entry points by name, separated by commas; empty: none; not set: all.
ALLOW_VARIABLE = "EVONAS_PLUGINS"


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """An entry point that was found and not loaded, with the reason."""

    group: str
    name: str
    distribution: str
    reason: str


_ENTRY_POINTS: dict[tuple[str, str | None], dict[str, Any]] = {}
_BROKEN: dict[tuple[str, str, str], BrokenPlugin] = {}


def describe_plugins(paths: Sequence[str | Path]) -> tuple[dict[str, str], ...]:
    """``{"path", "sha256"}`` of each file: absolute path and the digest of its bytes.

    Raises:
        PluginError: a file cannot be read.
    """
    return tuple(
        {"path": str(Path(path).expanduser().resolve()), "sha256": _digest(read_plugin(path))}
        for path in paths
    )


def read_plugin(path: str | Path) -> bytes:
    """The bytes of a plug-in file, or a ``PluginError`` that says why there are none."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise PluginError(
            f"cannot read the plug-in {str(path)!r}: {error.strerror or error}",
            hint="give the path of a Python file, --plugin path/to/file.py",
        ) from None


def load_plugins(plugins: Sequence[Mapping[str, str]]) -> tuple[ModuleType, ...]:
    """Import each ``{"path", "sha256"}``, once per process, under a name made of its stem and digest.

    Raises:
        PluginError: unreadable, a digest that differs from the one recorded, or an exception in the
            file; the message names file, line and exception.
    """
    return tuple(_load_file(p["path"], p["sha256"]) for p in plugins)


def load_all_plugins(plugins: Sequence[Mapping[str, str]]) -> None:
    """The files that the user named, then what installed packages add to formulas.

    Raises:
        PluginError: as ``load_plugins``.
    """
    load_plugins(plugins)
    for group in FORMULA_GROUPS:
        load_entry_points(group)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _VerifiedLoader(importlib.machinery.SourceFileLoader):
    """Runs exactly the bytes whose digest was checked; neither reads nor writes byte code."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_data(self, path: str) -> bytes:
        if path != self.path:
            raise OSError(path)
        return self._source

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        return None


def _load_file(path: str, sha256: str) -> ModuleType:
    stem = re.sub(r"\W", "_", Path(path).stem)
    name = f"evonas_plugin_{stem}_{sha256[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    source = read_plugin(path)
    if _digest(source) != sha256:
        raise PluginError(
            f"the plug-in {path} is not the file that the run names: sha256 {_digest(source)[:12]}..., "
            f"needed {sha256[:12]}...",
            hint="restore the file, or start a new run with the changed one",
        )
    loader = _VerifiedLoader(name, path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise PluginError(f"cannot import the plug-in {path}", hint="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _explain(path, error) from error
    return module


def _explain(path: str, error: BaseException) -> PluginError:
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == path else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == path:
            line = frame.lineno
    where = f"{path}:{line}" if line else path
    if isinstance(error, EvonasError):
        return PluginError(f"plug-in {where}: {error.message}", hint=error.hint)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return PluginError(
        f"plug-in {where} raised {type(error).__name__}: {text}",
        hint=f"see that it imports by itself: python {path}",
    )


def load_entry_points(group: str) -> dict[str, Any]:
    """Name -> loaded object of every installed entry point of ``group`` that the allow-list admits.

    One that raises, and names that two distributions claim, are left out and listed by
    ``broken_plugins``; they do not break the others.
    """
    allow = os.environ.get(ALLOW_VARIABLE)
    key = (group, allow)
    if key in _ENTRY_POINTS:
        return _ENTRY_POINTS[key]
    allowed = _allowed()
    claims: dict[str, dict[tuple[str, str], importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=group):
        if allowed is None or point.name in allowed:
            claims.setdefault(point.name, {})[_distribution(point), point.value] = point
    loaded: dict[str, Any] = {}
    for name, points in sorted(claims.items()):
        owners = " and ".join(sorted(owner for owner, _ in points))
        if len(points) > 1:
            _report(group, name, owners, f"the name {name!r} is claimed by {owners}; uninstall one of them")
            continue
        try:
            loaded[name] = next(iter(points.values())).load()
        except (Exception, SystemExit) as error:
            _report(group, name, owners, f"{type(error).__name__}: {error}")
    _ENTRY_POINTS[key] = loaded
    return loaded


def entry_point_names(group: str) -> list[str]:
    """Names of the installed entry points of ``group`` that the allow-list admits; imports nothing."""
    allowed = _allowed()
    points = importlib.metadata.entry_points(group=group)
    return sorted({p.name for p in points if allowed is None or p.name in allowed})


def load_entry_point(group: str, name: str) -> Any | None:
    """The object of one admitted entry point; None if there is none of that name.

    Raises:
        PluginError: it is installed and admitted, and cannot be used.
    """
    if name not in entry_point_names(group):
        return None
    loaded = load_entry_points(group)
    if name in loaded:
        return loaded[name]
    reasons = "; ".join(
        f"{b.distribution}: {b.reason}" for b in broken_plugins() if (b.group, b.name) == (group, name)
    )
    raise PluginError(
        f"the installed plug-in {name!r} of group {group!r} cannot be used: {reasons}",
        hint=f"repair or uninstall it, or leave it out: {ALLOW_VARIABLE}=name,name lists those to load",
    )


def origin(thing: Any) -> str:
    """Where a registered function or class was defined, "module:qualified name"."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def check_registration(kind: str, name: str, new: Any, old: Any) -> None:
    """Admit ``new`` under a name that ``old`` has, if both are the same definition.

    The same definition: equal qualified names in the same module, or in the same source file, which a
    script and a plug-in file may both be.

    Raises:
        PluginError: two definitions; the message names both.
    """
    if origin(new) == origin(old):
        return
    source = _source(new)
    if source is not None and source == _source(old):
        return
    raise PluginError(
        f"the {kind} {name!r} is registered twice: by {origin(old)} and by {origin(new)}",
        hint="rename one of them, for example with a prefix of your own",
    )


def _source(thing: Any) -> tuple[str, str] | None:
    code = getattr(thing, "__code__", None)
    return None if code is None else (os.path.realpath(code.co_filename), thing.__qualname__)


def _allowed() -> set[str] | None:
    allow = os.environ.get(ALLOW_VARIABLE)
    return None if allow is None else {n.strip() for n in allow.split(",") if n.strip()}


def broken_plugins() -> tuple[BrokenPlugin, ...]:
    """Every entry point that was found and could not be used, so far in this process."""
    return tuple(_BROKEN.values())


def _report(group: str, name: str, owners: str, reason: str) -> None:
    _BROKEN[group, name, owners] = BrokenPlugin(group, name, owners, reason)


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed distribution"
