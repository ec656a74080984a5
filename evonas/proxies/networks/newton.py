"""The Newton inverse of SOFT (Lu et al. 2021, arXiv 2110.11945): matrix products alone, a gradient of its own.

Twenty iterations, as published, are not enough for every kernel: landmarks that are alike make it nearly singular,
and the iteration doubles its correct digits only after about log2(condition^2) steps. So it goes on until it is
within a tolerance, a bounded number of times, and says what was left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: added to the diagonal before the inverse, as in the released code.
RIDGE = 0.01


def newton(
    matrix: Tensor, *, steps: int = 20, tolerance: float = 1e-3, limit: int = 60
) -> tuple[Tensor, Tensor, int]:
    """Inverse of ``matrix`` (..., n, n), symmetric and positive definite, by ``V <- V (2 - M V)``.

    Begins from ``V = 1.8 / r^2 M`` with r the largest row sum of the absolute values, which converges for every matrix
    whose norm is at most r. ``steps`` iterations are always made; more, up to ``limit``, until the residual is at most
    ``tolerance``.

    Returns:
        the inverse; the residual ``norm(M V - 1) / sqrt(n)`` of every matrix, (...); and the iterations made.
    """
    n = matrix.shape[-1]
    identity = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    rows = matrix.abs().sum(-1).amax(-1)[..., None, None]
    found = matrix * (1.8 / rows.square())
    made = 0

    def left() -> Tensor:
        return (matrix @ found - identity).flatten(-2).norm(dim=-1) / n**0.5

    while True:
        for _ in range(steps if made == 0 else min(10, limit - made)):
            found = 2 * found - found @ matrix @ found
            made += 1
        residual = left()
        # not finite: more steps change nothing
        if made >= limit or bool((~(residual > tolerance)).all()):
            return found, residual, made


def inverse(matrix: Tensor, *, steps: int = 20, tolerance: float = 1e-3, limit: int = 60) -> Tensor:
    """The inverse of ``matrix + 0.01``, (..., n, n), differentiable any number of times.

    The matrix holds values of a Gaussian kernel: symmetric, ones on the diagonal, between 0 and 1 elsewhere.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    made: Tensor = _Inverse.apply(matrix + RIDGE * identity, steps, tolerance, limit)
    return made


class _Inverse(torch.autograd.Function):
    """``newton`` with the gradient of an inverse, ``-V^T G V^T``, by the V of the forward pass: nothing is unrolled.
    V is the output, which autograd follows, so there is a second derivative too."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, steps: int, tolerance: float, limit: int) -> Tensor:
        found, _, _ = newton(matrix, steps=steps, tolerance=tolerance, limit=limit)
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (found,) = ctx.saved_tensors
        turned = found.transpose(-2, -1)
        return -turned @ gradients[0] @ turned, None, None, None
