"""What a primitive is: one definition from which everything else about the operation follows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

#: Default of the small positive number that guards moments and singular points. Liu et al. (2020) add
#: an epsilon "where needed"; their released layers use 1e-5 inside the square root of a variance.
EPS = 1e-5

Kind = Literal["elementwise", "moment", "constant"]
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Ops(Protocol):
    """What a gradient is written in: ``ops.<primitive>(...)`` for any registered primitive.

    The same gradient runs on graph nodes (symbolic differentiation) and on arrays (numeric adjoint), so
    it may use nothing else. A moment takes its index set second: ``ops.mean(g, index)``.
    """

    eps: float

    def const(self, value: float, /) -> Any: ...

    def __getattr__(self, name: str, /) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True)
class Primitive:
    """One operation of the search space.

    eager: ``f(xp, *args)``, for a moment ``f(xp, a, axes, eps)``, with ``eps`` as keyword also for an
        element-wise primitive that declares ``uses_eps``. Arguments broadcast; the result has their
        broadcast shape, a moment keeps its reduced axes with size one.
    gradient: ``f(ops, g, y, *args)``, for a moment ``f(ops, g, y, a, index)``: the adjoints of the
        arguments, one per argument, from the adjoint ``g`` and the value ``y`` of the output. All
        values count as expanded to the full shape of x, so the adjoint of a mean is the mean of the
        adjoint, and no gradient has to undo a broadcast.
    triton: a Triton expression with {0}, {1} for fp32 operands and {eps}; a moment names the combination
        of ``rmean`` (the mean over its index set) that the lowering expands.
    formula: how it prints, with {0}, {1}; infix when ``precedence`` is given.
    latex: the same in LaTeX; {I} stands for the index set.
    singular: the declared treatment of singular points, in words.
    causal: a moment whose value at a token depends on that token and the ones before it. Its index set must have ``t``
        and must not have ``b``; ``t``, the first of the axes, keeps its size, the others are reduced.
    step: of a causal moment, one token at a time: ``f(xp, a, axes, state, eps)`` with ``a`` of size one along time
        gives the value there and the state for the next token; the state is a tuple of arrays, None at the start.
    flops: floating-point operations per element of the output, one for a transcendental function too.
    """

    name: str
    arity: int
    eager: Callable[..., Any]
    gradient: Callable[..., tuple[Any, ...]]
    triton: str | None
    formula: str
    latex: str
    source: str
    kind: Kind = "elementwise"
    commutative: bool = False
    uses_eps: bool = False
    precedence: int | None = None
    singular: str = "none"
    causal: bool = False
    step: Callable[..., tuple[Any, tuple[Any, ...]]] | None = None
    flops: int = 1
    origin: str = "evonas"

    @property
    def summary(self) -> str:
        """The first line of the definition's docstring."""
        return (self.eager.__doc__ or "").strip().splitlines()[0] if self.eager.__doc__ else ""
