"""The kernel that runs the programs of ``vm_program``: one program instance per candidate, graphs as data.

The tile of a candidate is its whole probe tensor, (batch, group, channel of a group, position), each axis padded
to a power of two; statistics over the batch are therefore sums within one instance. Registers are tiles that
the loop carries, so operands are picked by selects and never leave the register file. What an instruction
computes are the primitives' eager definitions: the same guards, eps inside the root, variances in two passes,
NaN and Inf passed on.

Importing this imports triton. Arguments are values of Triton's language, which has no Python types.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl
from evonas.kernels.vm_program import OPCODES

# A kernel may read globals only if they are marked as constants.
_LOAD = tl.constexpr(OPCODES["load"])
_CONST = tl.constexpr(OPCODES["const"])
_NEG = tl.constexpr(OPCODES["neg"])
_SIGMOID = tl.constexpr(OPCODES["sigmoid"])
_TANH = tl.constexpr(OPCODES["tanh"])
_EXP = tl.constexpr(OPCODES["exp"])
_LOG = tl.constexpr(OPCODES["log"])
_ABS = tl.constexpr(OPCODES["abs"])
_SQUARE = tl.constexpr(OPCODES["square"])
_SQRT = tl.constexpr(OPCODES["sqrt"])
_ERF = tl.constexpr(OPCODES["erf"])
_RSQRT = tl.constexpr(OPCODES["rsqrt"])
_SIGN = tl.constexpr(OPCODES["sign"])
_ADD = tl.constexpr(OPCODES["add"])
_SUB = tl.constexpr(OPCODES["sub"])
_MUL = tl.constexpr(OPCODES["mul"])
_DIV = tl.constexpr(OPCODES["div"])
_MAX = tl.constexpr(OPCODES["max"])
_MEAN = tl.constexpr(OPCODES["mean"])
_STD = tl.constexpr(OPCODES["std"])


@triton.jit
def _sign(a):
    """-1, 0 or 1; NaN for NaN, as numpy has it."""
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, a * 0.0)).to(a.dtype)


@triton.jit
def _root(a):
    # the rounded root exists for float32 alone; tl.sqrt is approximate there and exact in float64
    return tl.sqrt_rn(a) if a.dtype == tl.float32 else tl.sqrt(a)


@triton.jit
def _quotient(a, b):
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def _tanh(a):
    """Two formulas, each where its relative error is a few roundings: 1 - 2 / (exp(2a) + 1) cancels near 0."""
    size = tl.abs(a)
    z = a * a
    if a.dtype == tl.float32:
        # minimax polynomial of Cephes' tanhf for |a| < 0.625
        low = -5.70498872745e-3 * z + 2.06390887954e-2
        low = low * z - 5.37397155531e-2
        low = low * z + 1.33314422036e-1
        low = low * z - 3.33332819422e-1
        low = low * z * a + a
        cut = 0.625
    else:
        # Taylor series: the error at the cut is 2e-16, that of the other formula 1e-14
        low = -1382.0 / 155925.0 * z + 62.0 / 2835.0
        low = low * z - 17.0 / 315.0
        low = low * z + 2.0 / 15.0
        low = low * z - 1.0 / 3.0
        low = low * z * a + a
        cut = 0.02
    high = 1.0 - _quotient(tl.full(a.shape, 2.0, a.dtype), tl.exp(2.0 * size) + 1.0)
    high = tl.where(a < 0, -high, high)
    return tl.where(size < cut, low, high)


@triton.jit
def _unary(op, a, eps):
    # a tree of scalar branches: all threads take the same one
    t = a
    if op < _SQUARE:
        if op == _NEG:
            t = -a
        elif op == _SIGMOID:
            one = tl.full(a.shape, 1.0, a.dtype)
            t = _quotient(one, 1.0 + tl.exp(-a))
        elif op == _TANH:
            t = _tanh(a)
        elif op == _EXP:
            t = tl.exp(a)
        elif op == _LOG:
            t = _sign(a) * tl.log(tl.abs(a) + eps)
        else:
            t = tl.abs(a)
    elif op == _SQUARE:
        t = a * a
    elif op == _SQRT:
        t = _quotient(a, _root(tl.abs(a) + eps))
    elif op == _ERF:
        t = tl.erf(a)
    elif op == _RSQRT:
        one = tl.full(a.shape, 1.0, a.dtype)
        t = _quotient(one, _root(tl.abs(a) + eps))
    elif op == _SIGN:
        t = _sign(a)
    else:
        t = 0.5 * _sign(a) + 0.5
    return t


@triton.jit
def _binary(op, a, b, eps):
    t = a
    if op == _ADD:
        t = a + b
    elif op == _SUB:
        t = a - b
    elif op == _MUL:
        t = a * b
    elif op == _DIV:
        size = tl.maximum(tl.abs(b), eps, propagate_nan=tl.PropagateNan.ALL)
        t = _quotient(a, tl.where(b < 0, -size, size))
    elif op == _MAX:
        t = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    else:
        t = tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    return t


@triton.jit
def _mean(a, axes, live, n_b, n_g, n_k, n_p):
    """Mean over a set of axes given as bits, expanded again."""
    s = tl.where(live, a, 0.0).to(a.dtype)
    count = n_b * 0 + 1
    if (axes & 1) != 0:
        s = tl.broadcast_to(tl.sum(s, axis=0, keep_dims=True), a.shape)
        count = count * n_b
    if (axes & 2) != 0:
        s = tl.broadcast_to(tl.sum(s, axis=1, keep_dims=True), a.shape)
        count = count * n_g
    if (axes & 4) != 0:
        s = tl.broadcast_to(tl.sum(s, axis=2, keep_dims=True), a.shape)
        count = count * n_k
    if (axes & 8) != 0:
        s = tl.broadcast_to(tl.sum(s, axis=3, keep_dims=True), a.shape)
        count = count * n_p
    return s / count.to(a.dtype)


@triton.jit
def _moment(op, a, axes, live, eps, n_b, n_g, n_k, n_p):
    t = a
    if op == _STD:
        t = a - _mean(a, axes, live, n_b, n_g, n_k, n_p)
    if op != _MEAN:
        t = t * t
    t = _mean(t, axes, live, n_b, n_g, n_k, n_p)
    if op != _MEAN:
        t = _root(t + eps)
    return t


@triton.jit
def _pick(i, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, REGISTERS: tl.constexpr):
    r = tl.where(i == 1, r1, r0)
    r = tl.where(i == 2, r2, r)
    r = tl.where(i == 3, r3, r)
    if REGISTERS >= 8:
        r = tl.where(i == 4, r4, r)
        r = tl.where(i == 5, r5, r)
        r = tl.where(i == 6, r6, r)
        r = tl.where(i == 7, r7, r)
    if REGISTERS >= 12:
        r = tl.where(i == 8, r8, r)
        r = tl.where(i == 9, r9, r)
        r = tl.where(i == 10, r10, r)
        r = tl.where(i == 11, r11, r)
    return r


_SIZES = (
    "n_b",
    "n_g",
    "n_k",
    "n_p",
    "s_b",
    "s_g",
    "s_k",
    "s_p",
    "step_x",
    "step_g",
    "longest",
    "width",
    "numel",
)


@triton.jit(do_not_specialize=_SIZES)
def vm_forward(
    y, x, v0, v1, g, code, constants, lengths,
    n_b, n_g, n_k, n_p, s_b, s_g, s_k, s_p, step_x, step_g, longest, width, numel,
    B: tl.constexpr, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr, REGISTERS: tl.constexpr,
):  # fmt: skip
    """y[candidate] = the program of that candidate on x, v0, v1, g; grid: one instance per candidate.

    x, g: of one dtype, with strides s_* within a candidate and step_* from one candidate to the next (0 if all
    share them), y (candidates, numel) in the same order, v0 and v1 (groups * channels of a group). code int32
    (candidates, longest, 4), constants (candidates, width) in the dtype of x, lengths int32 (candidates,).
    n_*: sizes of the tile's axes, B, G, K, P: the powers of two above them.
    """
    candidate = tl.program_id(0).to(tl.int64)
    code += candidate * longest * 4
    constants += candidate * width
    x += candidate * step_x
    g += candidate * step_g
    eps = tl.load(constants)
    i_b = tl.arange(0, B)[:, None, None, None]
    i_g = tl.arange(0, G)[None, :, None, None]
    i_k = tl.arange(0, K)[None, None, :, None]
    i_p = tl.arange(0, P)[None, None, None, :]
    live = (i_b < n_b) & (i_g < n_g) & (i_k < n_k) & (i_p < n_p)
    at = i_b * s_b + i_g * s_g + i_k * s_k + i_p * s_p
    channel = i_g * n_k + i_k + (i_b + i_p) * 0
    zero = tl.zeros((B, G, K, P), x.dtype.element_ty)
    r0, r1, r2, r3 = zero, zero, zero, zero
    r4, r5, r6, r7 = zero, zero, zero, zero
    r8, r9, r10, r11 = zero, zero, zero, zero
    steps = tl.load(lengths + candidate)
    for step in range(steps):
        op = tl.load(code + step * 4)
        to = tl.load(code + step * 4 + 1)
        i = tl.load(code + step * 4 + 2)
        j = tl.load(code + step * 4 + 3)
        t = zero
        if op == _LOAD:
            if i == 0:
                t = tl.load(x + at, mask=live, other=0.0)
            elif i == 1:
                t = tl.load(v0 + channel, mask=live, other=0.0)
            elif i == 2:
                t = tl.load(v1 + channel, mask=live, other=0.0)
            else:
                t = tl.load(g + at, mask=live, other=0.0)
        elif op == _CONST:
            t = zero + tl.load(constants + i)
        else:
            a = _pick(i, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, REGISTERS)
            if op < _ADD:
                t = _unary(op, a, eps)
            elif op < _MEAN:
                b = _pick(j, r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, REGISTERS)
                t = _binary(op, a, b, eps)
            else:
                t = _moment(op, a, j, live, eps, n_b, n_g, n_k, n_p)
        r0 = tl.where(to == 0, t, r0)
        r1 = tl.where(to == 1, t, r1)
        r2 = tl.where(to == 2, t, r2)
        r3 = tl.where(to == 3, t, r3)
        if REGISTERS >= 8:
            r4 = tl.where(to == 4, t, r4)
            r5 = tl.where(to == 5, t, r5)
            r6 = tl.where(to == 6, t, r6)
            r7 = tl.where(to == 7, t, r7)
        if REGISTERS >= 12:
            r8 = tl.where(to == 8, t, r8)
            r9 = tl.where(to == 9, t, r9)
            r10 = tl.where(to == 10, t, r10)
            r11 = tl.where(to == 11, t, r11)
    tl.store(y + candidate * numel + at, r0, mask=live)
