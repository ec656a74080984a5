"""Primitives by name, and the decorator that plugs in a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from evonas.primitives.definition import NAME, Kind, Primitive

from evonas.errors import PluginError, unknown_name

_REGISTRY: dict[str, Primitive] = {}
#: bumped at each registration, so that caches of compiled graphs know when to forget.
generation = 0


def get(name: str) -> Primitive:
    """The primitive of that name; ``UsageError`` with the nearest name otherwise."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise unknown_name(
            "primitive",
            name,
            _REGISTRY,
            hint="`evonas list primitives` shows all, --plugin FILE adds your own",
        ) from None


def find(name: str) -> Primitive | None:
    """The primitive of that name, None if there is none."""
    return _REGISTRY.get(name)


def names() -> list[str]:
    """All registered names, in registration order."""
    return list(_REGISTRY)


def all_primitives() -> Iterator[Primitive]:
    """All registered primitives, in registration order."""
    yield from _REGISTRY.values()


def register(candidate: Primitive) -> Primitive:
    """Enter a primitive. The same definition may come again (every process loads plug-ins, some twice)."""
    global generation
    if not NAME.match(candidate.name) or candidate.name in {"x", "v0", "v1", "s0", "s1", "g"}:
        raise PluginError(
            f"primitive name {candidate.name!r} cannot be used in a formula",
            hint="lower-case letters, digits and underscores, a letter first; x, v0, v1, s0, s1, g are taken",
        )
    if candidate.kind == "moment" and candidate.arity != 1:
        raise PluginError(f"moment {candidate.name!r} has arity {candidate.arity}, it must be 1")
    if candidate.causal and candidate.kind != "moment":
        raise PluginError(
            f"{candidate.name!r} is causal and of kind {candidate.kind!r}, a causal primitive is a moment"
        )
    if candidate.kind != "constant" and candidate.arity not in (1, 2):
        raise PluginError(f"primitive {candidate.name!r} has arity {candidate.arity}, it must be 1 or 2")
    known = _REGISTRY.get(candidate.name)
    if known is not None and known.origin != candidate.origin:
        raise PluginError(
            f"primitive {candidate.name!r} is defined twice: by {known.origin} and by {candidate.origin}",
            hint="rename one of them, a vendor prefix such as acme_swish is customary",
        )
    _REGISTRY[candidate.name] = candidate
    generation += 1
    return candidate


def unregister(name: str) -> None:
    """Take a primitive out again (for notebooks and tests)."""
    global generation
    _REGISTRY.pop(name, None)
    generation += 1


def define(
    name: str,
    *,
    arity: int = 1,
    gradient: Callable[..., Any],
    triton: str | None = None,
    formula: str | None = None,
    latex: str | None = None,
    source: str,
    kind: Kind = "elementwise",
    commutative: bool = False,
    uses_eps: bool = False,
    precedence: int | None = None,
    singular: str = "none",
    causal: bool = False,
    step: Callable[..., tuple[Any, tuple[Any, ...]]] | None = None,
    flops: int = 1,
    origin: str | None = None,
) -> Callable[[Callable[..., Any]], Primitive]:
    """Turn an eager function into a registered ``Primitive`` without running the contract suite.

    Built-ins use this directly (their contract runs in the tests); users call ``evonas.primitive``.
    """

    def decorate(eager: Callable[..., Any]) -> Primitive:
        slots = ", ".join(f"{{{i}}}" for i in range(arity))
        bracket = "[{I}]" if kind == "moment" else ""
        text = rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"
        subscript = "_{{{I}}}" if kind == "moment" else ""
        made = gradient if callable(gradient) else None
        if made is None:
            raise PluginError(f"primitive {name!r}: gradient must be a function f(ops, g, y, *args)")

        def adjoints(*args: Any) -> tuple[Any, ...]:
            result = made(*args)
            return result if isinstance(result, tuple) else (result,)

        return register(
            Primitive(
                name=name,
                arity=arity,
                eager=eager,
                gradient=adjoints,
                triton=triton,
                formula=formula or f"{name}{bracket}({slots})",
                latex=latex
                or text.replace("{", "{{").replace("}", "}}") + subscript + rf"\left({slots}\right)",
                source=source,
                kind=kind,
                commutative=commutative,
                uses_eps=uses_eps or kind == "moment",
                precedence=precedence,
                singular=singular,
                causal=causal,
                step=step,
                flops=flops,
                origin=origin or getattr(eager, "__module__", "?").split(".")[0],
            )
        )

    return decorate


def primitive(
    name: str, *, check: bool = True, **definition: Any
) -> Callable[[Callable[..., Any]], Primitive]:
    """Plug in an operation: the public decorator ``evonas.primitive``.

    Takes the fields of ``Primitive`` as keywords (``gradient`` and ``source`` are required) and runs the
    contract suite ``evonas.testing.check_primitive`` on the result; a definition that breaks it is not
    registered.

    Raises:
        PluginError: the name is taken or unusable, a field is missing, or the contract is broken; the
            message lists each violation.
    """

    def decorate(eager: Callable[..., Any]) -> Primitive:
        before = _REGISTRY.get(name)
        for field in ("gradient", "source"):
            if field not in definition:
                raise PluginError(
                    f"primitive {name!r} has no {field}=",
                    hint="gradient=lambda ops, g, y, a: (ops.mul(g, ...),) and source='paper or author'",
                )
        origin = definition.pop("origin", None) or f"{eager.__module__}"
        try:
            made = define(name, origin=origin, **definition)(eager)
        except TypeError as error:
            raise PluginError(f"primitive {name!r}: {error}") from None
        if check:
            from evonas.testing.primitives import check_primitive

            try:
                check_primitive(made)
            except Exception:
                unregister(name)
                if before is not None:
                    register(before)
                raise
        return made

    return decorate
