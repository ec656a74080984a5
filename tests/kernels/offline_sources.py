"""Kernels that the tests compile. Imported by compilers alone: importing it imports triton."""

import triton
import triton.language as tl


@triton.jit
def layer_norm(x_ptr, w_ptr, b_ptr, y_ptr, rows, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    live = at < cols
    x = tl.load(x_ptr + row * cols + at, mask=live, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / cols
    d = tl.where(live, x - mean, 0.0)
    var = tl.sum(d * d, 0) / cols
    w = tl.load(w_ptr + at, mask=live, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + at, mask=live, other=0.0).to(tl.float32)
    y = d * tl.rsqrt(var + eps) * w + b
    tl.store(y_ptr + row * cols + at, y.to(tl.bfloat16), mask=live)


@triton.jit
def swish(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (x * tl.sigmoid(x)).to(tl.bfloat16), mask=at < n)


@triton.jit
def reciprocal(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Its division is exact: the assembler calls a subroutine in rare cases."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=1.0)
    tl.store(y_ptr + at, tl.div_rn(1.0, x), mask=at < n)


@triton.jit
def rows_of_swish(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    """A program loops over rows and adds them up: the shape of a backward kernel."""
    at = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        x = tl.load(x_ptr + row * cols + at, mask=at < cols, other=0.0).to(tl.float32)
        y = x * tl.sigmoid(x)
        total += y
        tl.store(y_ptr + row * cols + at, y.to(tl.bfloat16), mask=at < cols)
    tl.store(y_ptr + rows * cols + at, total.to(tl.bfloat16), mask=at < cols)


@triton.jit
def add_one(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """A loop so short that the assembler unrolls it."""
    at = tl.arange(0, BLOCK)
    for start in range(0, n, BLOCK):
        tl.store(y_ptr + start + at, tl.load(x_ptr + start + at) + 1.0)


@triton.jit(do_not_specialize=["seed"])
def everything(
    x_ptr, y_ptr, none_ptr, rows, stride, odd, big, seed, scale, flag, eps: tl.float32, BLOCK: tl.constexpr
):
    """One argument of each kind that a launch treats in its own way."""
    at = tl.arange(0, BLOCK) * stride + odd + seed + big
    x = tl.load(x_ptr + at, mask=at < rows, other=0.0)
    if none_ptr is not None:
        x += tl.load(none_ptr)
    y = tl.where(flag, x * scale, x + eps)
    tl.store(y_ptr + at, y, mask=at < rows)


@triton.jit
def wrong(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), tl.zeros((BLOCK + 1,), tl.float32))
