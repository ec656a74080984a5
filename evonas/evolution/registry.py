"""Strategies by name, with options as plain values (from a configuration file or the command line)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from evonas.errors import unknown_name
from evonas.evolution._base import BaseStrategy, need_choice
from evonas.evolution._protocol import GenotypeSpace
from evonas.evolution.ageing import PRESETS, AgeingEvolution, AgeingOptions
from evonas.evolution.nsga2 import NSGA2, NSGA2Options
from evonas.evolution.random_search import RandomOptions, RandomSearch

_KNOWN: dict[str, tuple[Any, Any]] = {
    "ageing": (AgeingEvolution, AgeingOptions),
    "nsga2": (NSGA2, NSGA2Options),
    "random": (RandomSearch, RandomOptions),
}


def strategy_names() -> list[str]:
    """``ageing``, ``nsga2``, ``random``."""
    return sorted(_KNOWN)


def strategy_options(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of a strategy with their defaults filled in; ``ageing`` also takes ``preset``.

    Raises ``UsageError`` for an unknown strategy or option (with the nearest name) or a value out of range.
    """
    return asdict(_resolve(name, options))


def make_strategy(
    name: str,
    space: GenotypeSpace,
    seed: int,
    arm: str,
    options: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[bytes] = (),
) -> BaseStrategy:
    """A strategy in its initial state.

    ``seed`` and ``arm`` key its randomness; ``seeds`` are the genotypes of the first candidate ids.
    Raises ``UsageError`` as ``strategy_options`` does.
    """
    resolved = _resolve(name, options)
    strategy: BaseStrategy = _KNOWN[name][0](space, seed, arm, resolved, seeds=seeds)
    return strategy


def _resolve(name: str, options: Mapping[str, Any] | None) -> Any:
    if name not in _KNOWN:
        raise unknown_name("strategy", name, _KNOWN)
    kind = _KNOWN[name][1]
    given = dict(options or {})
    values: dict[str, Any] = {}
    known = {f.name for f in fields(kind)}
    if name == "ageing":
        known.add("preset")
        preset = given.pop("preset", "scaled")
        need_choice("preset", preset, PRESETS)
        values = asdict(PRESETS[preset])
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"option of strategy {name!r}", key, known)
        values[key] = value
    return kind(**values)
