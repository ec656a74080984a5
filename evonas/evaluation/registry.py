"""Evaluators by name. ``proxies`` is the real one; a plug-in may add its own with ``@evaluator``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evonas.errors import unknown_name
from evonas.evaluation.protocol import Evaluator, EvaluatorSpec

_FACTORIES: dict[str, Callable[..., Evaluator]] = {}


def evaluator(name: str) -> Callable[[Callable[..., Evaluator]], Callable[..., Evaluator]]:
    """Register a factory ``f(**options) -> Evaluator``. Idempotent for the same qualified name."""

    def register(factory: Callable[..., Evaluator]) -> Callable[..., Evaluator]:
        _FACTORIES[name] = factory
        return factory

    return register


def build_evaluator(spec: EvaluatorSpec) -> Evaluator:
    """Load the plug-ins of ``spec`` and build its evaluator in this process."""
    from evonas.plugins import load_plugins

    load_plugins(spec.plugins)
    options: dict[str, Any] = dict(spec.options)
    if spec.name == "proxies" and "proxies" not in _FACTORIES:
        import evonas.evaluation.funnel  # noqa: F401  (registers it; imports torch)
    if spec.name not in _FACTORIES:
        raise unknown_name("evaluator", spec.name, {*_FACTORIES, "proxies"})
    return _FACTORIES[spec.name](**options)
