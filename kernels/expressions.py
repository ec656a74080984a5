"""Triton expressions of primitives, read into the IR.

A definition's ``triton`` string is parsed once with ``ast`` and never evaluated: arithmetic, two-sided comparisons, the
functions of ``FUNCTIONS``, and ``rmean`` for the mean over a moment's index set.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import lru_cache

from evonas.kernels.ir import IR, SCALAR, Axes
from evonas.primitives import Primitive

from evonas.errors import UsageError

FUNCTIONS = {
    "tl.sigmoid": "sigmoid", "tl.exp": "exp", "tl.log": "log", "tl.sqrt": "sqrt", "tl.rsqrt": "rsqrt",
    "tl.abs": "abs", "tl.erf": "erf", "tl.maximum": "max", "tl.minimum": "min", "tl.where": "where",
}  # fmt: skip
_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_COMPARE = {ast.Lt: "lt", ast.Gt: "gt"}


@lru_cache(maxsize=1024)
def _parse(text: str, arity: int) -> ast.expr:
    names = [f"({{{i}}})".format(*[f"a{j}" for j in range(arity)]) for i in range(arity)]
    return ast.parse(text.format(*names, eps="eps"), mode="eval").body


def lower(ir: IR, primitive: Primitive, args: Sequence[int], over: Axes, eps: float) -> int:
    """The value of a primitive on values of the IR; ``over`` is a moment's set of axes.

    Raises:
        UsageError: no Triton expression, or one that uses something the compiler does not know.
    """
    if primitive.triton is None:
        raise UsageError(
            f"primitive {primitive.name!r} has no Triton expression, so no kernel can be generated",
            hint="use backend='eager', or give the primitive triton=",
        )
    try:
        tree = _parse(primitive.triton, primitive.arity)
    except (SyntaxError, IndexError, KeyError, ValueError) as error:
        raise _unusable(primitive, str(error)) from None

    def read(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return ir.constant(node.value)
        if isinstance(node, ast.Name):
            if node.id == "eps":
                return ir.constant(eps)
            if node.id[0] == "a" and node.id[1:].isdigit():
                return args[int(node.id[1:])]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return ir.apply("neg", read(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return ir.apply(_BINARY[type(node.op)], read(node.left), read(node.right))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
            return ir.apply(_COMPARE[type(node.ops[0])], read(node.left), read(node.comparators[0]))
        if isinstance(node, ast.Call) and not node.keywords:
            name = ast.unparse(node.func)
            if name == "rmean" and len(node.args) == 1 and primitive.kind == "moment":
                return ir.mean(read(node.args[0]), over)
            if name in FUNCTIONS and len(node.args) == SCALAR[FUNCTIONS[name]]:
                return ir.apply(FUNCTIONS[name], *[read(a) for a in node.args])
        raise _unusable(primitive, ast.unparse(node))

    return read(tree)


def _unusable(primitive: Primitive, what: str) -> UsageError:
    return UsageError(
        f"the Triton expression of primitive {primitive.name!r}, {primitive.triton!r}, cannot be compiled: {what}",
        hint=f"use + - * / < > with {', '.join(FUNCTIONS)} and, in a moment, rmean",
    )
