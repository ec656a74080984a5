"""Element-wise primitives: the twelve of EvoNorm's Table 1, then sub, min, erf, rsqrt and the constant one.

Singular points. Liu et al. (2020) give signed sqrt and log and say that an epsilon is added where needed;
the placement is ours and is stated at each definition. The rule: values away from the singular point stay
exact where that is possible, the function is the one that is differentiated (no masked gradients), and
every gradient is finite for finite arguments.
"""

from __future__ import annotations

import math
from typing import Any

from evonas.primitives.definition import EPS, Ops
from evonas.primitives.namespace import Namespace
from evonas.primitives.registry import define

A = Any
EVONORM = "Liu et al. 2020, Table 1"
OURS = "evonas"


@define("add", arity=2, commutative=True, precedence=10, formula="{0} + {1}", latex="{0} + {1}",
        triton="{0} + {1}", source=EVONORM,
        gradient=lambda ops, g, y, a, b: (g, g))  # fmt: skip
def add(xp: Namespace, a: A, b: A) -> A:
    """Sum."""
    return a + b


@define("mul", arity=2, commutative=True, precedence=20, formula="{0} * {1}", latex=r"{0} \cdot {1}",
        triton="{0} * {1}", source=EVONORM,
        gradient=lambda ops, g, y, a, b: (ops.mul(g, b), ops.mul(g, a)))  # fmt: skip
def mul(xp: Namespace, a: A, b: A) -> A:
    """Product."""
    return a * b


def _grad_div(ops: Ops, g: A, y: A, a: A, b: A) -> tuple[A, A]:
    live = ops.step(ops.sub(ops.abs(b), ops.const(ops.eps)))
    return ops.div(g, b), ops.neg(ops.mul(ops.div(ops.mul(g, y), b), live))


@define("div", arity=2, precedence=20, formula="{0} / {1}", latex=r"\frac{{{0}}}{{{1}}}", uses_eps=True,
        triton="{0} / tl.where({1} < 0, -tl.maximum(tl.abs({1}), {eps}), tl.maximum(tl.abs({1}), {eps}))",
        source=EVONORM, gradient=_grad_div,
        singular="denominators in (-eps, 0) become -eps, in [0, eps) eps, -0 counts as 0; exact elsewhere")  # fmt: skip
def div(xp: Namespace, a: A, b: A, *, eps: float = EPS) -> A:
    """Quotient with a guarded denominator."""
    size = xp.at_least(xp.abs(b), eps)
    return a / xp.where(b < 0, -size, size)


@define("max", arity=2, commutative=True, formula="max({0}, {1})", latex=r"\max\left({0}, {1}\right)",
        triton="tl.maximum({0}, {1})", source=EVONORM,
        singular="at a tie each argument gets half of the gradient",
        gradient=lambda ops, g, y, a, b: (
            ops.mul(g, ops.step(ops.sub(a, b))), ops.mul(g, ops.step(ops.sub(b, a)))))  # fmt: skip
def maximum(xp: Namespace, a: A, b: A) -> A:
    """Larger of two."""
    return xp.maximum(a, b)


@define("neg", precedence=30, formula="-{0}", latex="-{0}", triton="-{0}", source=EVONORM,
        gradient=lambda ops, g, y, a: ops.neg(g))  # fmt: skip
def neg(xp: Namespace, a: A) -> A:
    """Negative."""
    return -a


@define("sigmoid", latex=r"\sigma\left({0}\right)", triton="tl.sigmoid({0})", source=EVONORM, flops=4,
        gradient=lambda ops, g, y, a: ops.mul(g, ops.mul(y, ops.sub(ops.const(1.0), y))))  # fmt: skip
def sigmoid(xp: Namespace, a: A) -> A:
    """1 / (1 + exp(-a))."""
    return xp.sigmoid(a)


@define("tanh", latex=r"\tanh\left({0}\right)", triton="2 * tl.sigmoid(2 * {0}) - 1", source=EVONORM, flops=5,
        gradient=lambda ops, g, y, a: ops.mul(g, ops.sub(ops.const(1.0), ops.square(y))))  # fmt: skip
def tanh(xp: Namespace, a: A) -> A:
    """Hyperbolic tangent."""
    return xp.tanh(a)


@define("exp", latex=r"\exp\left({0}\right)", triton="tl.exp({0})", source=EVONORM,
        gradient=lambda ops, g, y, a: ops.mul(g, y))  # fmt: skip
def exp(xp: Namespace, a: A) -> A:
    """Exponential; overflows to infinity, which the numeric probe rejects."""
    return xp.exp(a)


def _grad_log(ops: Ops, g: A, y: A, a: A) -> A:
    return ops.mul(ops.abs(ops.sign(a)), ops.div(g, ops.add(ops.abs(a), ops.const(ops.eps))))


@define("log", uses_eps=True, latex=r"\operatorname{{sgn}}\log\left|{0}\right|", flops=3,
        triton="tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0)) * tl.log(tl.abs({0}) + {eps})",
        source=EVONORM, gradient=_grad_log,
        singular="log(|a| + eps): at most |log eps| in size; value and gradient are 0 at a = 0")  # fmt: skip
def log(xp: Namespace, a: A, *, eps: float = EPS) -> A:
    """sign(a) * ln(|a| + eps)."""
    return xp.sign(a) * xp.log(xp.abs(a) + eps)


@define("abs", formula="abs({0})", latex=r"\left|{0}\right|", triton="tl.abs({0})", source=EVONORM,
        singular="gradient 0 at a = 0",
        gradient=lambda ops, g, y, a: ops.mul(g, ops.sign(a)))  # fmt: skip
def absolute(xp: Namespace, a: A) -> A:
    """Absolute value."""
    return xp.abs(a)


@define("square", latex=r"\left({0}\right)^{{2}}", triton="{0} * {0}", source=EVONORM,
        gradient=lambda ops, g, y, a: ops.mul(g, ops.mul(ops.const(2.0), a)))  # fmt: skip
def square(xp: Namespace, a: A) -> A:
    """a * a."""
    return a * a


def _grad_sqrt(ops: Ops, g: A, y: A, a: A) -> A:
    size = ops.abs(a)
    root = ops.rsqrt(a)  # 1 / sqrt(|a| + eps)
    inner = ops.add(ops.mul(ops.const(0.5), size), ops.const(ops.eps))
    return ops.mul(g, ops.mul(inner, ops.mul(root, ops.square(root))))


@define("sqrt", uses_eps=True, latex=r"\operatorname{{sgn}}\sqrt{{\left|{0}\right|}}", flops=3,
        triton="{0} * tl.rsqrt(tl.abs({0}) + {eps})", source=EVONORM, gradient=_grad_sqrt,
        singular="a / sqrt(|a| + eps): slope 1 / sqrt(eps) at 0, relative error eps / (2|a|) elsewhere")  # fmt: skip
def sqrt(xp: Namespace, a: A, *, eps: float = EPS) -> A:
    """sign(a) * sqrt(|a|), smoothed at zero."""
    return a / xp.sqrt(xp.abs(a) + eps)


@define("sub", arity=2, precedence=10, formula="{0} - {1}", latex="{0} - {1}", triton="{0} - {1}", source=OURS,
        gradient=lambda ops, g, y, a, b: (g, ops.neg(g)))  # fmt: skip
def sub(xp: Namespace, a: A, b: A) -> A:
    """Difference."""
    return a - b


@define("min", arity=2, commutative=True, formula="min({0}, {1})", latex=r"\min\left({0}, {1}\right)",
        triton="tl.minimum({0}, {1})", source=OURS,
        singular="at a tie each argument gets half of the gradient",
        gradient=lambda ops, g, y, a, b: (
            ops.mul(g, ops.step(ops.sub(b, a))), ops.mul(g, ops.step(ops.sub(a, b)))))  # fmt: skip
def minimum(xp: Namespace, a: A, b: A) -> A:
    """Smaller of two."""
    return xp.minimum(a, b)


@define("erf", latex=r"\operatorname{{erf}}\left({0}\right)", triton="tl.erf({0})", flops=8,
        source="Derf, arXiv 2512.10938",
        gradient=lambda ops, g, y, a: ops.mul(
            g, ops.mul(ops.const(2.0 / math.sqrt(math.pi)), ops.exp(ops.neg(ops.square(a))))))  # fmt: skip
def erf(xp: Namespace, a: A) -> A:
    """Gauss error function."""
    return xp.erf(a)


def _grad_rsqrt(ops: Ops, g: A, y: A, a: A) -> A:
    return ops.mul(ops.mul(ops.const(-0.5), ops.mul(g, ops.sign(a))), ops.mul(y, ops.square(y)))


@define("rsqrt", uses_eps=True, latex=r"\left(\left|{0}\right|\right)^{{-1/2}}", flops=2,
        triton="tl.rsqrt(tl.abs({0}) + {eps})", source=OURS, gradient=_grad_rsqrt,
        singular="1 / sqrt(|a| + eps): even, at most 1 / sqrt(eps), gradient 0 at a = 0")  # fmt: skip
def rsqrt(xp: Namespace, a: A, *, eps: float = EPS) -> A:
    """1 / sqrt(|a| + eps)."""
    return 1.0 / xp.sqrt(xp.abs(a) + eps)


@define("one", arity=0, kind="constant", formula="1", latex="1", triton="1.0", source="Liu et al. 2020, Figure 1 (v1)",
        flops=0, gradient=lambda ops, g, y: ())  # fmt: skip
def one(xp: Namespace) -> float:
    """The constant one."""
    return 1.0
