"""The contract of a primitive, as a suite of checks that run on built-ins and plug-ins alike.

``check_primitive`` runs at registration by ``evonas.primitive``; authors put the same checks into their own test
suite, one test each, with ``PrimitiveContract``::

    class TestAcmeSwish(evonas.testing.PrimitiveContract):
        primitive = acme_swish
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evonas.errors import EvonasError, PluginError
from evonas.primitives import Primitive, registry
from evonas.testing import _declaration, _gradients, _values
from evonas.testing._subject import Subject, explain

#: Name -> check. Each yields one sentence per violation: what was given, what was needed.
CHECKS: dict[str, Callable[[Subject], Iterator[str]]] = {
    "declaration": _declaration.declaration,
    "formula": _declaration.formula,
    "latex": _declaration.latex,
    "triton syntax": _declaration.triton_syntax,
    "shapes and types": _values.shapes_and_types,
    "same values on numpy and torch": _values.numpy_equals_torch,
    "pure and deterministic": _values.pure_and_deterministic,
    "defined everywhere": _values.defined_everywhere,
    "commutative": _values.commutative,
    "adjoints": _gradients.adjoints,
    "gradient against finite differences": _gradients.finite_differences,
    "gradient against autograd": _gradients.autograd,
    "symbolic gradient": _gradients.symbolic,
    "gradients are finite": _gradients.finite,
    "second derivatives are finite": _gradients.double_backward,
}


def primitive_violations(primitive: Primitive) -> list[str]:
    """Every way in which a primitive breaks the contract, one sentence each; empty if it keeps it.

    The primitive need not be registered. Nothing that it does escapes as an exception. The first check that
    its eager function cannot even run ends the suite, because all others would say the same.
    """
    found: list[str] = []
    with _registered(primitive, found):
        subject = Subject(primitive)
        for name, check in CHECKS.items():
            if found and name in ("formula", "shapes and types"):
                continue  # the declaration is unusable
            broken = _run(check, subject)
            found += [f"{name}: {sentence}" for sentence in broken]
            if broken and name in ("declaration", "shapes and types"):
                break
    return found


def check_primitive(primitive: Primitive) -> None:
    """Raise ``PluginError`` with every violation of the contract; return nothing if there is none."""
    broken = primitive_violations(primitive)
    if broken:
        raise PluginError(
            f"primitive {primitive.name!r} breaks the contract of primitives:\n"
            + "\n".join(f"  - {sentence}" for sentence in broken),
            hint="run it alone with evonas.testing.check_primitive(...) while you repair it",
        )


class PrimitiveContract:
    """Base class of a pytest class: set ``primitive`` as an attribute, get one test per group of checks."""

    primitive: Primitive

    def _holds(self, name: str) -> None:
        found: list[str] = []
        with _registered(self.primitive, found):
            found += _run(CHECKS[name], Subject(self.primitive))
        assert not found, "\n".join(found)

    def test_declaration(self) -> None:
        """Name, arity, kind, source and operation count are usable."""
        self._holds("declaration")

    def test_formula(self) -> None:
        """Printing and parsing give the same graph."""
        self._holds("formula")

    def test_latex(self) -> None:
        """LaTeX has balanced braces and every argument."""
        self._holds("latex")

    def test_triton_syntax(self) -> None:
        """The Triton expression is one expression over the declared operands."""
        self._holds("triton syntax")

    def test_shapes_and_types(self) -> None:
        """Broadcast shape or reduced axes of size one; the dtype stays."""
        self._holds("shapes and types")

    def test_numpy_equals_torch(self) -> None:
        """One definition, the same values."""
        self._holds("same values on numpy and torch")

    def test_pure_and_deterministic(self) -> None:
        """Twice the same result, arguments untouched."""
        self._holds("pure and deterministic")

    def test_defined_everywhere(self) -> None:
        """No NaN for finite arguments."""
        self._holds("defined everywhere")

    def test_commutative(self) -> None:
        """What is declared commutative is."""
        self._holds("commutative")

    def test_gradient(self) -> None:
        """Adjoints equal finite differences, autograd and their own symbolic form, and stay finite."""
        for name in ("adjoints", *(n for n in CHECKS if "gradient" in n)):
            self._holds(name)

    def test_double_backward(self) -> None:
        """Second derivatives through torch are finite."""
        self._holds("second derivatives are finite")


def _run(check: Callable[[Subject], Iterator[str]], subject: Subject) -> list[str]:
    try:
        return list(check(subject))
    except Exception as error:
        return [explain(error)]


@contextmanager
def _registered(primitive: Primitive, found: list[str]) -> Iterator[None]:
    """Formulas and gradients look primitives up by name: enter this one for as long as it is checked."""
    before = registry.find(primitive.name)
    if before is primitive:
        yield
        return
    try:
        registry.register(primitive)
    except EvonasError as error:
        found.append(f"declaration: {error}")
        yield
        return
    try:
        yield
    finally:
        registry.unregister(primitive.name)
        if before is not None:
            registry.register(before)
