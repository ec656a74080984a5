"""Algebra on the IR, applied as values are made.

Beside the usual identities: a division by something of lower rank becomes a product with its reciprocal, whatever
does not vary over the axes of a mean is pulled out of it, and a mean of squared deviations becomes a variance. A
product with the constant zero is zero, also where the other factor would not be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from evonas.kernels.ir import IR, NOWHERE, Axes

_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "max": max, "min": min, "neg": lambda a: -a, "abs": abs, "exp": math.exp, "log": math.log, "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a), "recip": lambda a: 1 / a, "tanh": math.tanh, "erf": math.erf,
    "sigmoid": lambda a: 0.5 + 0.5 * math.tanh(0.5 * a),
    "lt": lambda a, b: float(a < b), "gt": lambda a, b: float(a > b), "where": lambda c, a, b: a if c else b,
}  # fmt: skip


def simplify(ir: IR, op: str, args: tuple[int, ...]) -> int | None:
    """The id of something equal and simpler, or None."""
    if all(ir.is_constant(a) for a in args):
        try:
            value = _FOLD[op](*(ir[a].constant for a in args))
        except (ArithmeticError, ValueError):
            return None
        return ir.constant(value) if math.isfinite(value) else None
    rule = _RULES.get(op)
    return rule(ir, *args) if rule else None


def _negated(ir: IR, a: int) -> int | None:
    """b where a is -b."""
    return ir[a].args[0] if ir[a].op == "neg" else None


def _add(ir: IR, a: int, b: int) -> int | None:
    for p, q in ((a, b), (b, a)):
        if ir.is_constant(p, 0.0):
            return q
        minus = _negated(ir, p)
        if minus is not None:
            return ir.apply("sub", q, minus)
    return ir.apply("mul", ir.constant(2.0), a) if a == b else None


def _sub(ir: IR, a: int, b: int) -> int | None:
    if a == b:
        return ir.constant(0.0)
    if ir.is_constant(b, 0.0):
        return a
    if ir.is_constant(a, 0.0):
        return ir.apply("neg", b)
    minus = _negated(ir, b)
    if minus is not None:
        return ir.apply("add", a, minus)
    if ir[a].op == ir[b].op == "add":
        # (c + p) - (c + q), as the mean of a sum leaves it: digits that c takes are lost for nothing
        for p, c in (ir[a].args, ir[a].args[::-1]):
            for q, d in (ir[b].args, ir[b].args[::-1]):
                if c == d:
                    return ir.apply("sub", p, q)
    return _tanh(ir, a) if ir.is_constant(b, 1.0) else None


def _tanh(ir: IR, a: int) -> int | None:
    """tanh(u / 2) where a is 2 * sigmoid(u) and 1 is taken off it: near zero that loses all digits."""
    if ir[a].op == "mul" and ir.is_constant(ir[a].args[0], 2.0) and ir[ir[a].args[1]].op == "sigmoid":
        return ir.apply("tanh", ir.apply("mul", ir.constant(0.5), ir[ir[a].args[1]].args[0]))
    return None


def _mul(ir: IR, a: int, b: int) -> int | None:
    for p, q in ((a, b), (b, a)):
        if ir.is_constant(p, 0.0):
            return p
        if ir.is_constant(p, 1.0):
            return q
        if ir.is_constant(p, -1.0):
            return ir.apply("neg", q)
        minus = _negated(ir, p)
        if minus is not None:
            return ir.apply("neg", ir.apply("mul", minus, q))
        if ir.is_constant(p) and ir[q].op == "mul" and ir.is_constant(ir[q].args[0]):
            inner, rest = ir[q].args
            return ir.apply("mul", ir.apply("mul", p, inner), rest)
        # constants outwards, then what varies least: so that vectors meet vectors before they meet tensors
        if not ir.is_constant(p) and ir[q].op == "mul" and ir[p].op != "mul":
            inner, rest = ir[q].args
            if ir.is_constant(inner):
                return ir.apply("mul", inner, ir.apply("mul", p, rest))
            for one, other in ((inner, rest), (rest, inner)):
                if ir[p].varies | ir[one].varies < ir[other].varies:
                    return ir.apply("mul", other, ir.apply("mul", p, one))
    if (ir[a].op == "recip" and ir[a].args[0] == b) or (ir[b].op == "recip" and ir[b].args[0] == a):
        return ir.constant(1.0)
    return None


def _div(ir: IR, a: int, b: int) -> int | None:
    if ir.is_constant(b) and ir[b].constant != 0.0:
        return ir.apply("mul", ir.constant(1.0 / ir[b].constant), a)
    if ir.is_constant(a, 0.0):
        return a
    if a == b and (ir[b].low > 0 or ir[b].high < 0):
        return ir.constant(1.0)
    if ir[b].varies < ir[a].varies or ir.is_constant(a, 1.0):
        return ir.apply("mul", a, ir.apply("recip", b))
    minus = _negated(ir, a)
    if minus is not None:
        return ir.apply("neg", ir.apply("div", minus, b))
    return None


def _neg(ir: IR, a: int) -> int | None:
    if ir[a].op == "neg":
        return ir[a].args[0]
    if ir[a].op == "sub":
        return ir.apply("sub", ir[a].args[1], ir[a].args[0])
    if ir[a].op == "mul" and ir.is_constant(ir[a].args[0]):
        factor, rest = ir[a].args
        return ir.apply("mul", ir.constant(-ir[factor].constant), rest)
    return None


def _abs(ir: IR, a: int) -> int | None:
    if ir[a].low >= 0:
        return a
    if ir[a].op in ("neg", "abs"):
        return ir.apply("abs", ir[a].args[0])
    return None


def _extreme(larger: bool) -> Callable[[IR, int, int], int | None]:
    def rule(ir: IR, a: int, b: int) -> int | None:
        if a == b:
            return a
        for p, q in ((a, b), (b, a)):
            if ir[p].low >= ir[q].high:
                return p if larger else q
        return None

    return rule


def _compare(less: bool) -> Callable[[IR, int, int], int | None]:
    def rule(ir: IR, a: int, b: int) -> int | None:
        small, large = (a, b) if less else (b, a)
        if ir[small].high < ir[large].low:
            return ir.constant(1.0)
        if ir[small].low >= ir[large].high or a == b:
            return ir.constant(0.0)
        if ir[a].op == "sub" and ir.is_constant(b, 0.0):
            return ir.apply("lt" if less else "gt", *ir[a].args)
        return None

    return rule


def _where(ir: IR, condition: int, a: int, b: int) -> int | None:
    if ir.is_constant(condition):
        return a if ir[condition].constant else b
    return a if a == b else None


def _recip(ir: IR, a: int) -> int | None:
    if ir[a].op == "sqrt":
        return ir.apply("rsqrt", ir[a].args[0])
    if ir[a].op == "rsqrt":
        return ir.apply("sqrt", ir[a].args[0])
    return ir[a].args[0] if ir[a].op == "recip" else None


_RULES: dict[str, Callable[..., int | None]] = {
    "add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "abs": _abs, "max": _extreme(True),
    "min": _extreme(False), "lt": _compare(True), "gt": _compare(False), "where": _where, "recip": _recip,
}  # fmt: skip


def simplify_mean(ir: IR, a: int, over: Axes) -> int:
    """The mean of ``a`` over axes all of which it varies over, invariants pulled out."""
    value = ir[a]
    there = ir.existing("mean", (a,), over)
    if there is not None:
        return there
    if value.op == "neg":
        return ir.apply("neg", ir.mean(value.args[0], over))
    if value.op in ("add", "sub"):
        p, q = value.args
        if not ir[p].varies & over or not ir[q].varies & over:
            return ir.apply(value.op, ir.mean(p, over), ir.mean(q, over))
    if value.op == "mul":
        centred = _squared_deviation(ir, a, over)
        if centred is not None:
            return _variance(ir, centred, over)
    if value.op in ("mul", "div"):
        return _mean_of_product(ir, a, over)
    if value.op == "mean" and not ir.split_means:
        return ir.mean(value.args[0], over | value.over)
    return ir.raw("mean", (a,), over)


def _squared_deviation(ir: IR, a: int, over: Axes) -> int | None:
    """z where a is (z - mean of z over the axes) squared."""
    p, q = ir[a].args
    if p == q and ir[p].op == "sub":
        z, centre = ir[p].args
        if not ir[centre].varies & over and ir.mean(z, over) == centre:
            return z
    return None


def _variance(ir: IR, z: int, over: Axes) -> int:
    """The variance over axes, to which what does not vary along them adds nothing."""
    if ir[z].op in ("add", "sub"):
        for kept, other in (ir[z].args, ir[z].args[::-1]):
            if not ir[other].varies & over:
                return _variance(ir, kept, over)
    return ir.raw("var", (z, ir.mean(z, over)), over)


def _mean_of_product(ir: IR, a: int, over: Axes) -> int:
    """The mean of a product or quotient: what does not vary is pulled out, and where means may be split, factors that
    vary over fewer of the axes than the rest weigh partial means."""
    inner = ir[a].varies & over
    parts = list(_factors(ir, a, inner))
    outside = [part for part in parts if not ir[part[0]].varies & over]
    inside = [part for part in parts if ir[part[0]].varies & over]
    if ir.split_means:
        narrow = [f for f, below in inside if not below and ir[f].varies & over != inner]
        kept = NOWHERE.union(*(ir[f].varies for f in narrow)) & over
        wide = [part for part in inside if part[0] not in narrow]
        if narrow and wide and kept != inner:
            partial = ir.mean(_quotient(ir, wide), inner - kept)
            found = ir.mean(_product(ir, [*narrow, partial]), kept)
            return ir.apply("mul", _quotient(ir, outside), found) if outside else found
    if not outside:
        return ir.raw("mean", (a,), over)
    return ir.apply("mul", _quotient(ir, outside), ir.mean(_quotient(ir, inside), over))


def _factors(ir: IR, a: int, inner: Axes) -> Iterator[tuple[int, bool]]:
    """Factors of a value that varies over the axes ``inner``, and whether each is a denominator.

    A quotient is taken apart only if that sets something free that varies less than it does; and, where means are not
    split, if nothing else stands above the line: with the rest it may be wanted elsewhere, too.
    """
    for f in ir.factors(a):
        if ir[f].op == "div":
            above, under = ir[f].args
            parts = list(_factors(ir, above, inner))
            free = [p for p, _ in parts if ir[p].op != "const" and ir[p].varies & inner != inner]
            if free and (ir.split_means or len(free) == len(parts)):
                yield from parts
                yield under, True
                continue
        yield f, False


def _quotient(ir: IR, parts: Sequence[tuple[int, bool]]) -> int:
    """Factors put together again."""
    above = [f for f, below in parts if not below]
    result = _product(ir, above) if above else ir.constant(1.0)
    for f in (f for f, below in parts if below):
        result = ir.apply("div", result, f)
    return result


def _product(ir: IR, factors: list[int]) -> int:
    """The product, things that vary over few axes first."""
    ordered = sorted(factors, key=lambda f: (len(ir[f].varies), f))
    result = ordered[0]
    for f in ordered[1:]:
        result = ir.apply("mul", result, f)
    return result
