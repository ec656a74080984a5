"""Kernels of linear attention with decay: one sum, forwards and backwards in time, is all four passes of it.

    LA(a, b, c)_t = sum over s <= t of exp(-rate (t - s)) (a_t . b_s) c_s

out = LA(q, k, v), dq = LA(do, v, k); with time reversed dv = LA(k, q, do) and dk = LA(v, do, q). A program walks the
chunks of one head in order and keeps the state, the sum of b_s c_s^T that everything before the chunk has left, in
registers: memory sees the inputs and the output. A head's tokens may be split into segments, whose states are first
found (``attend`` without an output), then carried on (``carry``), so that few heads fill a device.

Everything is summed in float32. Needs triton alone, and reads nothing of evonas, so that it can be compiled as it is
for a device that is not here. Arguments are values of Triton's language, which has no Python types.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(ptr, at, columns, tokens, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Rows ``at`` of a head, zero beyond the last token and beyond SIZE columns."""
    where = ptr + at.to(tl.int64)[:, None] * stride + columns[None, :]
    live = (at < tokens)[:, None]
    if SIZE % BLOCK:
        live = live & (columns < SIZE)[None, :]
    return tl.load(where, mask=live, other=0.0)


@triton.jit
def _part(ptr, at, columns, tokens, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr, PART: tl.constexpr):
    """As ``_load``, columns of one of several parts."""
    where = ptr + PART * BLOCK + at.to(tl.int64)[:, None] * stride + columns[None, :]
    live = (at < tokens)[:, None]
    if SIZE - PART * BLOCK < BLOCK:
        live = live & (columns < SIZE - PART * BLOCK)[None, :]
    return tl.load(where, mask=live, other=0.0)


@triton.jit
def _store(ptr, value, at, columns, tokens, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    where = ptr + at.to(tl.int64)[:, None] * stride + columns[None, :]
    live = (at < tokens)[:, None]
    if SIZE % BLOCK:
        live = live & (columns < SIZE)[None, :]
    tl.store(where, value.to(ptr.dtype.element_ty), mask=live)


@triton.jit
def _product(x, y, OPERANDS: tl.constexpr, PRECISION: tl.constexpr):
    """x @ y in float32, both of the dtype of the tensors."""
    if OPERANDS == "emulated":
        return tl.dot(x.to(tl.float32), y.to(tl.float32))
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _mixed(x, y, OPERANDS: tl.constexpr, PRECISION: tl.constexpr):
    """x @ y in float32, where one is a float32 sum and the other of the dtype of the tensors.

    OPERANDS: ``own``, the sum is rounded to the tensors' dtype; ``wide``, the tensor is widened instead, because sums
    over many tokens leave the range of float16; ``emulated``, as ``own`` for an interpreter that cannot multiply
    bfloat16: rounded, and then widened.
    """
    if OPERANDS == "wide":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision=PRECISION)
    if x.dtype == tl.float32:
        return _product(x.to(y.dtype), y, OPERANDS, PRECISION)
    return _product(x, y.to(x.dtype), OPERANDS, PRECISION)


@triton.jit
def _fade(rate, steps):
    """exp(-rate steps)"""
    return tl.exp2(-rate * _LOG2E * steps)


@triton.jit
def _triangle(rate, order):
    """exp(-rate (i - j)) where i is not before j, else 0. The exponent is never positive, so that nothing overflows."""
    gap = order[:, None] - order[None, :]
    return tl.where(gap >= 0, _fade(rate, tl.maximum(gap, 0).to(tl.float32)), 0.0)


@triton.jit(do_not_specialize=["heads", "tokens", "segment"])
def attend(
    a_ptr, b_ptr, c_ptr, out_ptr, rate_ptr, state_ptr,
    heads, tokens, segment,
    a_batch, a_head, a_token, b_batch, b_head, b_token, c_batch, c_head, c_token, out_batch, out_head, out_token,
    state_head, state_segment, state_row, state_column,
    N: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
    PARTS: tl.constexpr, REVERSE: tl.constexpr, OUTPUT: tl.constexpr, CARRIED: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """LA(a, b, c) of one block of columns of one segment of one head.

    a, b: (batch, heads, tokens, N), c, out: (batch, heads, tokens, M), any strides, the last 1. rate: (heads,).
    segment: tokens of a segment, a multiple of CHUNK. CARRIED: begin with the segment's state, else with zero.
    OUTPUT: write out; else write the state after the segment, and read neither a nor out. PARTS: of BLOCK_N features,
    one after the other: a product over all of a large head takes more registers in float32 than there are.
    Grid: (batch * heads * blocks of columns, segments).
    """
    blocks: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    pid = tl.program_id(0)
    part = tl.program_id(1)
    head = pid // blocks
    batch = (head // heads).to(tl.int64)
    of_batch = (head % heads).to(tl.int64)  # times a stride of heads it may leave the range of int32
    rate = tl.load(rate_ptr + of_batch)
    rows = tl.arange(0, BLOCK_N)
    columns = (pid % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = tl.arange(0, CHUNK)
    order = CHUNK - 1 - inside if REVERSE else inside  # in the order of the sum
    since = _fade(rate, (order + 1).to(tl.float32))  # from the end of the chunk before
    until = _fade(rate, (CHUNK - 1 - order).to(tl.float32))  # to the end of this chunk
    whole = _fade(rate, CHUNK * 1.0)
    b_ptr += batch * b_batch + of_batch * b_head
    c_ptr += batch * c_batch + of_batch * c_head
    state_ptr += head.to(tl.int64) * state_head + part.to(tl.int64) * state_segment
    state = ()
    for i in tl.static_range(PARTS):
        one = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        if CARRIED:
            at_state = state_ptr + (i * BLOCK_N + rows)[:, None] * state_row + columns[None, :] * state_column
            if N - i * BLOCK_N < BLOCK_N or M % BLOCK_M:
                live = (rows < N - i * BLOCK_N)[:, None] & (columns < M)[None, :]
                one = tl.load(at_state, mask=live, other=0.0)
            else:
                one = tl.load(at_state)
        state = state + (one,)  # noqa: RUF005 (Triton has no unpacking)
    if OUTPUT:
        a_ptr += batch * a_batch + of_batch * a_head
        out_ptr += batch * out_batch + of_batch * out_head
        mask = _triangle(rate, order)
    first = part * segment
    chunks = tl.cdiv(tl.minimum(segment, tokens - first), CHUNK)
    for n in range(chunks):
        m = chunks - 1 - n if REVERSE else n
        at = first + m * CHUNK + inside
        c = _load(c_ptr, at, columns, tokens, c_token, M, BLOCK_M)
        faded = (c * until[:, None]).to(c.dtype)
        scores = tl.zeros((CHUNK, CHUNK), tl.float32)
        out = tl.zeros((CHUNK, BLOCK_M), tl.float32)
        next_state = ()
        for i in tl.static_range(PARTS):
            b = _part(b_ptr, at, rows, tokens, b_token, N, BLOCK_N, i)
            if OUTPUT:
                a = _part(a_ptr, at, rows, tokens, a_token, N, BLOCK_N, i)
                scores += _product(a, tl.trans(b), OPERANDS, PRECISION)
                out += _mixed(a, state[i], OPERANDS, PRECISION)
            next_state = next_state + (state[i] * whole + _product(tl.trans(b), faded, OPERANDS, PRECISION),)  # noqa: RUF005
        state = next_state
        if OUTPUT:
            out = out * since[:, None] + _mixed(scores * mask, c, OPERANDS, PRECISION)
            _store(out_ptr, out, at, columns, tokens, out_token, M, BLOCK_M)
    if not OUTPUT:
        for i in tl.static_range(PARTS):
            at_state = state_ptr + (i * BLOCK_N + rows)[:, None] * state_row + columns[None, :] * state_column
            if N - i * BLOCK_N < BLOCK_N or M % BLOCK_M:
                live = (rows < N - i * BLOCK_N)[:, None] & (columns < M)[None, :]
                tl.store(at_state, state[i], mask=live)
            else:
                tl.store(at_state, state[i])


@triton.jit(do_not_specialize=["heads", "segments", "segment", "size"])
def carry(
    state_ptr, rate_ptr, heads, segments, segment, size, state_head, state_segment,
    BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace the state that each segment has left by the one that it begins with, in place.

    state: float32, ``size`` numbers per segment in a row. Grid: (batch * heads, blocks of ``size``).
    """
    head = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = at < size
    state_ptr += head.to(tl.int64) * state_head
    whole = _fade(tl.load(rate_ptr + head % heads), segment.to(tl.float32))
    carried = tl.zeros((BLOCK,), tl.float32)
    for n in range(segments):
        m = segments - 1 - n if REVERSE else n
        here = state_ptr + m * state_segment + at
        left = tl.load(here, mask=live, other=0.0)
        tl.store(here, carried, mask=live)
        carried = carried * whole + left


@triton.jit(do_not_specialize=["heads", "tokens", "segment"])
def attend_pair(
    a_ptr, b_ptr, c_ptr, g_ptr, db_ptr, dc_ptr, rate_ptr, state_ptr,
    heads, tokens, segment,
    a_batch, a_head, a_token, b_batch, b_head, b_token, c_batch, c_head, c_token, g_batch, g_head, g_token,
    db_batch, db_head, db_token, dc_batch, dc_head, dc_token,
    state_head, state_segment, state_row, state_column,
    N: tl.constexpr, M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
    REVERSE: tl.constexpr, CARRIED: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dc = LA(b, a, g) and db = LA(c, g, a) in one sweep: the state of one is the other's, transposed.

    a, b, db: (batch, heads, tokens, N), c, g, dc: (batch, heads, tokens, M). Grid: (batch * heads, segments); the
    other arguments as in ``attend``.
    """
    head = tl.program_id(0)
    part = tl.program_id(1)
    batch = (head // heads).to(tl.int64)
    of_batch = (head % heads).to(tl.int64)  # times a stride of heads it may leave the range of int32
    rate = tl.load(rate_ptr + of_batch)
    rows = tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_M)
    inside = tl.arange(0, CHUNK)
    order = CHUNK - 1 - inside if REVERSE else inside
    since = _fade(rate, (order + 1).to(tl.float32))
    until = _fade(rate, (CHUNK - 1 - order).to(tl.float32))
    whole = _fade(rate, CHUNK * 1.0)
    mask = _triangle(rate, order)
    a_ptr += batch * a_batch + of_batch * a_head
    b_ptr += batch * b_batch + of_batch * b_head
    c_ptr += batch * c_batch + of_batch * c_head
    g_ptr += batch * g_batch + of_batch * g_head
    db_ptr += batch * db_batch + of_batch * db_head
    dc_ptr += batch * dc_batch + of_batch * dc_head
    state = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if CARRIED:
        at_state = head.to(tl.int64) * state_head + part.to(tl.int64) * state_segment
        at_state += rows[:, None] * state_row + columns[None, :] * state_column
        live = (rows < N)[:, None] & (columns < M)[None, :]
        state = tl.load(state_ptr + at_state, mask=live, other=0.0)
    first = part * segment
    chunks = tl.cdiv(tl.minimum(segment, tokens - first), CHUNK)
    for n in range(chunks):
        m = chunks - 1 - n if REVERSE else n
        at = first + m * CHUNK + inside
        a = _load(a_ptr, at, rows, tokens, a_token, N, BLOCK_N)
        g = _load(g_ptr, at, columns, tokens, g_token, M, BLOCK_M)
        b = _load(b_ptr, at, rows, tokens, b_token, N, BLOCK_N)
        dc = _mixed(b, state, OPERANDS, PRECISION) * since[:, None]
        dc += _mixed(_product(b, tl.trans(a), OPERANDS, PRECISION) * mask, g, OPERANDS, PRECISION)
        _store(dc_ptr, dc, at, columns, tokens, dc_token, M, BLOCK_M)
        c = _load(c_ptr, at, columns, tokens, c_token, M, BLOCK_M)
        db = _mixed(c, tl.trans(state), OPERANDS, PRECISION) * since[:, None]
        db += _mixed(_product(c, tl.trans(g), OPERANDS, PRECISION) * mask, a, OPERANDS, PRECISION)
        _store(db_ptr, db, at, rows, tokens, db_token, N, BLOCK_N)
        faded = (g * until[:, None]).to(g.dtype)
        state = state * whole + _product(tl.trans(a), faded, OPERANDS, PRECISION)
