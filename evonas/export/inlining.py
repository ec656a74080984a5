"""The source of a primitive that evonas has no spelling for, rewritten to need torch alone.

A primitive is written in terms of ``xp``, the array namespace. Its function is copied, ``xp.abs`` becomes
``torch.abs`` and so on. That works for a plain function that uses its arguments, ``xp`` and ``math``; anything else
(a closure, another module, a lambda) has no meaning outside of the process that it was defined in.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap

from evonas.errors import PluginError
from evonas.primitives import Primitive

#: Names of the namespace that torch calls differently.
_RENAMED = {"at_least": "clamp_min"}
_NAMES = {
    "abs", "at_least", "copysign", "cumsum", "erf", "exp", "log", "maximum", "minimum", "sigmoid", "sign",
    "sqrt", "tanh", "where",
}  # fmt: skip


class _ToTorch(ast.NodeTransformer):
    def __init__(self, namespace: str, fail: str) -> None:
        self.namespace = namespace
        self.fail = fail

    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = node.func
        if self._ours(function) and function.attr == "mean":  # type: ignore[attr-defined]
            value, axes = (self.visit(a) for a in node.args)
            made = ast.parse("torch.mean(0, dim=tuple(0), keepdim=True)", mode="eval").body
            assert isinstance(made, ast.Call)
            made.args = [value]
            made.keywords[0].value.args = [axes]  # type: ignore[attr-defined]
            return made
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if self._ours(node):
            if node.attr not in _NAMES:
                raise PluginError(f"{self.fail}: xp.{node.attr} has no counterpart in an exported file")
            return ast.Attribute(
                ast.Name("torch", ast.Load()), _RENAMED.get(node.attr, node.attr), ast.Load()
            )
        return self.generic_visit(node)

    def _ours(self, node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == self.namespace
        )


def inlined(primitive: Primitive, name: str) -> str:
    """The definition of a function ``name(*arrays, [dims,] [eps])`` on torch tensors.

    Raises:
        PluginError: the source cannot be read, or it uses more than its arguments, ``xp`` and ``math``.
    """
    fail = f"primitive {primitive.name!r} cannot be exported"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(primitive.eager)))
    except (OSError, TypeError, SyntaxError) as error:
        raise PluginError(f"{fail}: its source cannot be read ({error})", hint=_HINT) from None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise PluginError(f"{fail}: it is not a plain function", hint=_HINT)
    definition = tree.body[0]
    arguments = definition.args
    if not arguments.args or arguments.vararg or arguments.kwarg:
        raise PluginError(f"{fail}: it does not list its arguments", hint=_HINT)
    namespace = arguments.args[0].arg
    used = {n.id for n in ast.walk(ast.Module(definition.body, [])) if isinstance(n, ast.Name)}
    stored = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known = {a.arg for a in (*arguments.args, *arguments.kwonlyargs)} | stored | {"math"} | set(dir(builtins))
    if used - known:
        raise PluginError(f"{fail}: it uses {', '.join(sorted(used - known))}", hint=_HINT)
    if any(
        isinstance(n, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal) for n in ast.walk(definition)
    ):
        raise PluginError(f"{fail}: it imports modules or writes globals", hint=_HINT)
    arguments.args = arguments.args[1:]
    for argument in (*arguments.args, *arguments.kwonlyargs):
        argument.annotation = ast.Name("Tensor", ast.Load())
        if argument.arg == "eps":
            argument.annotation = ast.Name("float", ast.Load())
        elif primitive.kind == "moment" and argument is arguments.args[-1] and len(arguments.args) > 1:
            argument.annotation = ast.parse("tuple[int, ...]", mode="eval").body
    # eps is always given: a default may be a name of another module
    arguments.defaults, arguments.kw_defaults = [], [None] * len(arguments.kwonlyargs)
    definition.decorator_list = []
    definition.name = name
    definition.returns = ast.Name("Tensor", ast.Load())
    body = [_ToTorch(namespace, fail).visit(statement) for statement in definition.body]
    definition.body = body
    return "\n" + ast.unparse(ast.fix_missing_locations(definition)) + "\n"


_HINT = "write it as a function (not a lambda) of xp, its arguments and math alone"
