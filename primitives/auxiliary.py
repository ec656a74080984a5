"""Primitives that gradients need and that no built-in space draws. Their own gradient is zero."""

from __future__ import annotations

from typing import Any

from evonas.primitives.namespace import Namespace
from evonas.primitives.registry import define

A = Any


@define("sign", latex=r"\operatorname{{sgn}}\left({0}\right)", source="evonas",
        triton="tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
        singular="0 at a = 0; gradient 0 everywhere",
        gradient=lambda ops, g, y, a: ops.mul(ops.const(0.0), g))  # fmt: skip
def sign(xp: Namespace, a: A) -> A:
    """-1, 0 or 1."""
    return xp.sign(a)


@define("step", latex=r"\mathrm{{step}}\left({0}\right)", source="evonas",
        triton="tl.where({0} > 0, 1.0, tl.where({0} < 0, 0.0, 0.5))",
        singular="1/2 at a = 0, which is what splits the gradient of max and min at a tie; gradient 0 everywhere",
        gradient=lambda ops, g, y, a: ops.mul(ops.const(0.0), g))  # fmt: skip
def step(xp: Namespace, a: A) -> A:
    """Heaviside step with 1/2 at zero."""
    return 0.5 * xp.sign(a) + 0.5


@define("like", arity=2, latex=r"{0}\big|_{{{1}}}", source="evonas",
        singular="the second argument gives the shape alone; its gradient is 0",
        gradient=lambda ops, g, y, a, b: (g, ops.mul(ops.const(0.0), g)))  # fmt: skip
def like(xp: Namespace, a: A, b: A) -> A:
    """The first argument, repeated to the shape of both."""
    return xp.where(b == b, a, a)
