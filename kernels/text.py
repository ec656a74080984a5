"""Scalar operations of the IR as Triton text, and the small functions that generated kernels call.

The fast spellings (approximate: a few units in the last place, more for powers and logarithms of large numbers) are
what keeps a bf16 kernel below the issue limit of the machine. The interpreter has neither libdevice nor inline
assembly, so it gets plain spellings of the same functions; the kernels' own text is the same.
"""

from __future__ import annotations

import re

# precedence: 0 atom, 1 unary, 2 product, 3 sum, 4 comparison
ATOM, UNARY, PRODUCT, SUM, COMPARISON = range(5)
_INFIX = {
    "add": ("+", SUM, SUM, PRODUCT), "sub": ("-", SUM, SUM, PRODUCT), "mul": ("*", PRODUCT, PRODUCT, UNARY),
    "lt": ("<", COMPARISON, SUM, SUM), "gt": (">", COMPARISON, SUM, SUM),
}  # fmt: skip
_CALLS = {
    "max": "tl.maximum", "min": "tl.minimum", "abs": "tl.abs", "where": "tl.where", "erf": "tl.erf", "sqrt": "sqrt",
    "rsqrt": "rsqrt", "exp": "exp", "log": "log", "recip": "reciprocal", "div": "divide", "sigmoid": "sigmoid",
    "tanh": "tanh",
}  # fmt: skip
#: Functions that are defined at the top of a generated file when it calls them; each calls none after it.
HELPERS = (
    "exp", "log", "sqrt", "rsqrt", "reciprocal", "divide", "tanh", "sigmoid", "quotient", "meet", "nothing", "afresh",
)  # fmt: skip
# Division as in hardware, but without its subroutine for exotic arguments: it would cost a stack frame.
_QUOTIENT = """\
inverse = 1.0 / b
    q = a * inverse
    return tl.where(tl.abs(q) < 1e38, q + tl.fma(-q, b, a) * inverse, q)"""
# What no compiler can see through: bits of a number that is not known earlier, and none of them left by an argument
# that is zero, as only the caller knows.
_NOTHING = "return after.to(tl.int32, bitcast=True) & zero"
_AFRESH = "return (a.to(tl.int32, bitcast=True) ^ zero).to(tl.float32, bitcast=True)"
_MEET = """\
tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")
    while tl.atomic_add(counter, 0, sem="acquire") < target:
        pass
    tl.debug_barrier()"""

# Near zero 1 - 2 / (1 + exp(2 a)) loses all digits; the polynomial is that of Cephes' tanhf.
_TANH = """\
s = a * a
    p = -5.70498872745e-3 * s + 2.06390887954e-2
    p = ((p * s - 5.37397155531e-2) * s + 1.33314422036e-1) * s - 3.33332819422e-1
    return tl.where(s < 0.390625, a + a * s * p, 1.0 - {})"""

_PLAIN = {
    "exp": "return tl.exp(a)",
    "log": "return tl.log(a)",
    "sqrt": "return tl.sqrt(a)",
    "rsqrt": "return tl.rsqrt(a)",
    "reciprocal": "return 1.0 / a",
    "divide": "return a / b",
    "sigmoid": "return 1.0 / (1.0 + tl.exp(-a))",
    "tanh": _TANH.format("2.0 / (1.0 + tl.exp(2.0 * a))"),
    "quotient": _QUOTIENT,
    "meet": _MEET,
    "nothing": _NOTHING,
    "afresh": _AFRESH,
}


def _ptx(instruction: str, *arguments: str) -> str:
    """A call of one machine instruction. Triton's own spellings of the same come from a library, and reading that costs
    a kernel 30 ms of its compilation."""
    places = ", ".join(f"${n}" for n in range(len(arguments) + 1))
    kinds = ",".join(["=f", *["f" for _ in arguments]])
    return (
        "tl.inline_asm_elementwise(\n"
        f'        "{instruction} {places};", "{kinds}", [{", ".join(arguments)}], dtype=tl.float32, is_pure=True, '
        "pack=1\n    )"
    )


#: For CUDA. Flushing denormals saves four instructions.
_FAST = _PLAIN | {
    "exp": f"return {_ptx('ex2.approx.ftz.f32', 'a * 1.4426950408889634')}",
    "log": f"return {_ptx('lg2.approx.ftz.f32', 'a')} * 0.6931471805599453",
    "sqrt": f"return {_ptx('sqrt.approx.ftz.f32', 'a')}",
    "rsqrt": f"return {_ptx('rsqrt.approx.ftz.f32', 'a')}",
    "reciprocal": f"return {_ptx('rcp.approx.ftz.f32', 'a')}",
    "divide": f"return {_ptx('div.approx.ftz.f32', 'a', 'b')}",
    "sigmoid": "return reciprocal(1.0 + exp(-a))",
    "tanh": _TANH.format("2.0 * reciprocal(1.0 + exp(2.0 * a))"),
}
#: tanh.approx is off by up to 2^-11 of its value, half a unit in the last place of bfloat16; the sigmoid made of it by
#: up to 2^-12 in all, which is nothing of a layer's output unless the sigmoid is divided by or its logarithm taken.
_HALF = _FAST | {
    "tanh": f"return {_ptx('tanh.approx.f32', 'a')}",
    "sigmoid": "return 0.5 * tanh(0.5 * a) + 0.5",
}
#: For AMD.
_HIP = _PLAIN | {
    "exp": "return tl.exp2(a * 1.4426950408889634)",
    "log": "return tl.log2(a) * 0.6931471805599453",
    "reciprocal": "return libdevice.fast_dividef(1.0, a)",
    "divide": "return libdevice.fast_dividef(a, b)",
    "sigmoid": "return libdevice.fast_dividef(1.0, 1.0 + tl.exp2(a * -1.4426950408889634))",
    "tanh": _TANH.format("libdevice.fast_dividef(2.0, 1.0 + tl.exp2(a * 2.8853900817779268))"),
}
_TABLES = {"plain": _PLAIN, "fast": _FAST, "half": _HALF, "hip": _HIP}
_ARGUMENTS = {
    "divide": "a, b",
    "quotient": "a, b",
    "meet": "counter, target",
    "nothing": "after, zero",
    "afresh": "a, zero",
}
_WORDS = {
    "exp": "e to the power of a",
    "log": "The natural logarithm.",
    "sqrt": "The square root.",
    "rsqrt": "1 / sqrt(a)",
    "reciprocal": "1 / a",
    "divide": "a / b",
    "sigmoid": "1 / (1 + exp(-a))",
    "tanh": "The hyperbolic tangent.",
    "quotient": "a / b, rounded once, for a count b.",
    "nothing": "Zero, but not before ``after`` is known.",
    "afresh": "a itself; as the compiler cannot tell, it makes what follows from it again instead of keeping it.",
    "meet": "Wait until the counter has reached the target: then every member has stored its parts.",
}


def operation(op: str, args: list[tuple[str, int]]) -> tuple[str, int]:
    """The text of a scalar operation and its precedence, from those of its arguments."""
    if op == "neg":
        return f"-{_inside(args[0], ATOM)}", UNARY
    if op in _INFIX:
        sign, own, left, right = _INFIX[op]
        return f"{_inside(args[0], left)} {sign} {_inside(args[1], right)}", own
    # torch passes NaN on, and so does the check for a diverged training
    more = ", propagate_nan=tl.PropagateNan.ALL" if op in ("max", "min") else ""
    return f"{_CALLS[op]}({', '.join(text for text, _ in args)}{more})", ATOM


def _inside(part: tuple[str, int], most: int) -> str:
    text, precedence = part
    return text if precedence <= most else f"({text})"


def called(op: str) -> str | None:
    """The helper that an operation calls, if any."""
    name = _CALLS.get(op)
    return name if name in HELPERS else None


def helper_texts(names: set[str], maths: str) -> list[str]:
    """Definitions of those helpers, and of what they call, in an order in which they can stand in a file.

    maths: "plain" for the interpreter; "fast"; "half" when all tensors are bfloat16 and the target is CUDA;
    "hip" for AMD.
    """
    table = _TABLES[maths]
    wanted = set(names)
    for name in reversed(HELPERS):
        if name in wanted:
            wanted |= {other for other in HELPERS if re.search(rf"\b(?<!\.){other}\(", table[name])}
    return [
        f"@triton.jit\ndef {name}({_ARGUMENTS.get(name, 'a')}):\n"
        f'    """{_WORDS[name].rstrip(".")}."""\n    {table[name]}\n'
        for name in HELPERS
        if name in wanted
    ]
