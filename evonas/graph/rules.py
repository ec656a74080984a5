"""Simplification as a table: what equals what, and under which condition.

``a`` and ``b`` stand for any sub-expression, ``I`` for any index set. A rule holds for finite values, for the
value *and* the gradient as the primitives define them at their singular points; the tests check each rule
numerically. Rules that fail only at a point are left out when trainable vectors start exactly there (so
``a / -b`` is not rewritten: a guarded denominator treats 0 and -0 alike).
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """``pattern`` is replaced by ``result``; ``when`` names a condition of ``CONDITIONS``."""

    pattern: str
    result: str
    when: str | None = None


#: Conditions on the parts that a pattern has bound.
CONDITIONS = {
    "a constant over I": "a does not vary over any axis of I",
    "a is not negative": "a is the result of abs, square, exp, sigmoid, rms, std, crms or cstd",
}

RULES: tuple[Rule, ...] = (
    # neutral and absorbing constants
    Rule("a + 0", "a"),
    Rule("a - 0", "a"),
    Rule("0 - a", "-a"),
    Rule("a * 1", "a"),
    Rule("a * 0", "0"),
    Rule("a / 1", "a"),
    Rule("0 / a", "0"),
    Rule("a * -1", "-a"),
    Rule("a - a", "0"),
    # idempotent
    Rule("max(a, a)", "a"),
    Rule("min(a, a)", "a"),
    Rule("abs(a)", "a", "a is not negative"),
    # one spelling for squares and absolute values
    Rule("a * a", "square(a)"),
    Rule("square(abs(a))", "square(a)"),
    Rule("max(a, -a)", "abs(a)"),
    Rule("min(a, -a)", "-abs(a)"),
    # signs move outwards
    Rule("--a", "a"),
    Rule("a + -b", "a - b"),
    Rule("a - -b", "a + b"),
    Rule("-(a - b)", "b - a"),
    Rule("-a * b", "-(a * b)"),
    Rule("-a / b", "-(a / b)"),
    Rule("square(-a)", "square(a)"),
    Rule("abs(-a)", "abs(a)"),
    Rule("tanh(-a)", "-tanh(a)"),
    Rule("erf(-a)", "-erf(a)"),
    Rule("sqrt(-a)", "-sqrt(a)"),
    Rule("log(-a)", "-log(a)"),
    Rule("rsqrt(-a)", "rsqrt(a)"),
    Rule("max(-a, -b)", "-min(a, b)"),
    Rule("min(-a, -b)", "-max(a, b)"),
    # moments
    Rule("mean[I](-a)", "-mean[I](a)"),
    Rule("rms[I](-a)", "rms[I](a)"),
    Rule("std[I](-a)", "std[I](a)"),
    Rule("rms[I](abs(a))", "rms[I](a)"),
    Rule("mean[I](a)", "a", "a constant over I"),
    Rule("std[I](a)", "std[I](0)", "a constant over I"),
    Rule("cmean[I](-a)", "-cmean[I](a)"),
    Rule("crms[I](-a)", "crms[I](a)"),
    Rule("cstd[I](-a)", "cstd[I](a)"),
    Rule("crms[I](abs(a))", "crms[I](a)"),
    Rule("cmean[I](a)", "a", "a constant over I"),
    Rule("cstd[I](a)", "cstd[I](0)", "a constant over I"),
)
