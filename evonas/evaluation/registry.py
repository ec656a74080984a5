"""Evaluators by name. ``proxies`` is the real one; a plug-in may add its own with ``@evaluator``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evonas.errors import unknown_name
from evonas.evaluation.protocol import Evaluator, EvaluatorSpec

Factory = Callable[..., Evaluator]


@dataclass(frozen=True, slots=True)
class Registration:
    """A factory and what a process may load once before it forks the slots that call the factory."""

    factory: Factory
    imports: tuple[str, ...]
    preload: Callable[[Mapping[str, Any]], None] | None


_FACTORIES: dict[str, Registration] = {}


def evaluator(
    name: str,
    *,
    imports: Sequence[str] = ("torch",),
    preload: Callable[[Mapping[str, Any]], None] | None = None,
) -> Callable[[Factory], Factory]:
    """Register a factory ``f(**options) -> Evaluator``. Idempotent: the last registration counts.

    Slots are forked from a process that has loaded the modules ``imports`` and called
    ``preload(options)`` once, so that all slots share that memory. Neither may start a thread or run
    a torch operation: a process with threads is not forked, its slots are spawned instead and each of
    them loads everything anew. An evaluator without torch names ``imports=()``.
    """

    def register(factory: Factory) -> Factory:
        _FACTORIES[name] = Registration(factory, tuple(imports), preload)
        return factory

    return register


def find_evaluator(spec: EvaluatorSpec) -> Registration:
    """Load the plug-ins of ``spec`` and what is installed for formulas to name; look its evaluator up.

    Raises:
        PluginError: a plug-in cannot be loaded or differs from its digest.
        UsageError: no evaluator has this name.
    """
    from evonas.plugins import load_all_plugins, load_entry_points

    load_all_plugins(spec.plugins)
    if spec.name == "proxies" and "proxies" not in _FACTORIES:
        import evonas.evaluation.funnel  # noqa: F401  (registers it; imports torch)
    if spec.name not in _FACTORIES:
        load_entry_points("evonas.evaluators")
    if spec.name not in _FACTORIES:
        raise unknown_name("evaluator", spec.name, {*_FACTORIES, "proxies"})
    return _FACTORIES[spec.name]


def build_evaluator(spec: EvaluatorSpec) -> Evaluator:
    """Load the plug-ins of ``spec`` and build its evaluator in this process."""
    return find_evaluator(spec).factory(**dict(spec.options))
