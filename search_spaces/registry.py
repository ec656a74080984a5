"""Spaces by name, and the decorator that plugs in a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.slotted import SlottedSpace
from evonas.search_spaces.space import Space

from evonas.errors import PluginError, unknown_name

Factory = Callable[[Mapping[str, Any]], Space | SlottedSpace]
_SPACES: dict[str, tuple[Factory, str]] = {}


def space(
    name: str, *, layout: str, rows: tuple[str, ...], options: SpaceOptions | None = None, summary: str = ""
) -> None:
    """Register a space: a layout, rows of the sampler's table and default options.

    Entering the same definition twice is allowed; a different one under a known name raises ``PluginError``.
    """
    base = options or SpaceOptions()

    def build(given: Mapping[str, Any]) -> Space | SlottedSpace:
        options = SpaceOptions.make(base, given)
        one = Space(name, layout, rows, replace(options, slots=("all",)))
        return one if options.slots == ("all",) else SlottedSpace(one, options)

    known = _SPACES.get(name)
    if known is not None and known[0]({}).describe() != build({}).describe():
        raise PluginError(f"space {name!r} is defined twice", hint="rename one of them")
    _SPACES[name] = (build, summary)


def get(name: str, **options: Any) -> Space | SlottedSpace:
    """A fresh space of that name with some options changed.

    Raises:
        UsageError, FormulaError: unknown name or option (with the nearest known one), or a value that does not fit.
    """
    if name not in _SPACES:
        raise unknown_name("space", name, _SPACES, hint="`evonas list spaces` shows all")
    return _SPACES[name][0](options)


def names() -> list[str]:
    """Registered names."""
    return list(_SPACES)


def summary(name: str) -> str:
    """One line on a space."""
    return _SPACES[name][1]
