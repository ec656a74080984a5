"""Formula <-> graph.

The syntax is a subset of Python's expression grammar, read with ``ast`` and never evaluated::

    x * sigmoid(v1 * x) / std[w,h,c/g](x)
    (n := (x - mean[b,w,h](x)) / std[b,w,h](x)) * sigmoid(n)

Operators + - * / and unary minus stand for add, sub, mul, div, neg; every other primitive is called by its
name, a moment with its index set in brackets. ``(name := expression)`` shares a sub-expression. Printing a
parsed formula and parsing it again gives the same graph, and printing is stable.
"""

from __future__ import annotations

import ast

from evonas import primitives
from evonas.errors import EvonasError, FormulaError, unknown_name
from evonas.graph.graph import PARAMETER_LEAVES, Graph, GraphBuilder, literal_name
from evonas.graph.layout import IndexSet, canonical_index

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_INPUTS = ("x", *PARAMETER_LEAVES)
_EXAMPLE = "write for example: x * sigmoid(v1 * x) / std[w,h,c/g](x)"
_MAX_NODES = 512


def parse_formula(text: str) -> Graph:
    """The graph of a formula.

    Raises:
        FormulaError: not an expression, a construct outside the subset, a name used before its definition;
            the message points at the column.
        UsageError: an unknown primitive, with the nearest known name.
    """
    if not isinstance(text, str) or not text.strip():
        raise FormulaError("the formula is empty", hint=_EXAMPLE)
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = getattr(error, "offset", None) or 1
        raise FormulaError(
            f"cannot read the formula at column {at}: {getattr(error, 'msg', error)}\n  {text}\n  {' ' * (at - 1)}^",
            hint=_EXAMPLE,
        ) from None
    try:
        reader = _Reader(text)
        output = reader.read(tree)
    except RecursionError:
        raise FormulaError(
            "the formula is nested too deeply", hint="share parts with (name := ...)"
        ) from None
    graph = reader.builder.build(output)
    if len(graph) > _MAX_NODES:
        raise FormulaError(
            f"the formula has {len(graph)} operations, at most {_MAX_NODES} are read",
            hint="share parts with (name := ...)",
        )
    return graph.active()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.builder = GraphBuilder()
        self.bound: dict[str, object] = {}

    def fail(self, node: ast.AST, message: str, hint: str | None = _EXAMPLE) -> EvonasError:
        column = getattr(node, "col_offset", 0)
        return FormulaError(f"{message} (column {column + 1})\n  {self.text}\n  {' ' * column}^", hint=hint)

    def read(self, node: ast.expr) -> object:
        if isinstance(node, ast.Constant):
            return self.constant(node, node.value)
        if isinstance(node, ast.Name):
            if node.id in _INPUTS:
                return self.builder.leaf(node.id)
            if node.id in self.bound:
                return self.bound[node.id]
            raise self.fail(
                node, f"unknown input {node.id!r}", f"inputs are {', '.join(_INPUTS)} and numbers"
            )
        if isinstance(node, ast.NamedExpr):
            name = node.target.id
            if name in _INPUTS or name in self.bound:
                raise self.fail(node, f"{name!r} is already taken", "give each shared part a name of its own")
            value = self.read(node.value)
            self.bound[name] = value
            return value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if isinstance(node.operand, ast.Constant):
                return self.constant(node, node.operand.value, negative=True)
            return self.builder.node("neg", (self.read(node.operand),))
        if isinstance(node, ast.BinOp):
            op = _BINARY.get(type(node.op))
            if op is None:
                raise self.fail(
                    node, "this operator is not part of the formula language", "use + - * / or a function"
                )
            return self.builder.node(op, (self.read(node.left), self.read(node.right)))
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.fail(node, f"{type(node).__name__} is not part of the formula language")

    def constant(self, node: ast.expr, value: object, negative: bool = False) -> object:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or value != value
            or abs(value) > 1e30
        ):
            raise self.fail(node, f"{value!r} is not a finite number")
        return self.builder.leaf(literal_name(-value if negative else value))

    def call(self, node: ast.Call) -> object:
        if node.keywords:
            raise self.fail(node, "arguments are given by position")
        function, index = node.func, None
        if isinstance(function, ast.Subscript):
            index = self.index_set(function.slice)
            function = function.value
        if not isinstance(function, ast.Name):
            raise self.fail(node, "only a primitive can be called")
        if function.id not in primitives.names():
            raise unknown_name(
                "primitive", function.id, primitives.names(), hint="`evonas list primitives` shows all"
            )
        primitive = primitives.get(function.id)
        if primitive.kind == "moment" and index is None:
            raise self.fail(node, f"{function.id} needs an index set", f"write {function.id}[w,h](x)")
        if primitive.kind != "moment" and index is not None:
            raise self.fail(node, f"{function.id} takes no index set", f"write {function.id}(x)")
        if len(node.args) != primitive.arity:
            raise self.fail(
                node, f"{function.id} takes {primitive.arity} argument(s), {len(node.args)} given"
            )
        if primitive.arity == 0:
            return self.builder.leaf("1")
        return self.builder.node(function.id, [self.read(a) for a in node.args], index)

    def index_set(self, node: ast.expr) -> IndexSet:
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        return canonical_index("".join(ast.unparse(p).split()) for p in parts)


def format_formula(graph: Graph) -> str:
    """The formula of a graph; inactive parts do not show. Parsing it gives ``graph.active()`` up to node order."""
    graph = graph.active()
    first = len(graph.leaves)
    uses = [0] * (first + len(graph))
    size = [0] * first
    for _, node in graph.operations():
        size.append(1 + sum(size[a] for a in node.args))
        for a in node.args:
            uses[a] += 1
    names: dict[int, str] = {}
    atom = 100

    def text(i: int) -> tuple[str, int]:
        if i < first:
            leaf = graph.leaves[i]
            return leaf, 25 if leaf.startswith("-") else atom
        if i in names:
            return names[i], atom
        op, args, index = graph.nodes[i - first]
        primitive = primitives.get(op)
        level = primitive.precedence or atom
        if op == "neg" and args[0] < first and graph.leaves[args[0]][0].isdigit():
            return f"neg({graph.leaves[args[0]]})", atom  # -2 would be the literal
        parts = []
        for position, a in enumerate(args):
            part, strength = text(a)
            needed = level + (1 if position else 0) if primitive.precedence else 0
            parts.append(f"({part})" if strength < needed else part)
        result = primitive.formula.format(*parts, I=",".join(index or ()))
        if uses[i] > 1 and size[i] > 2:
            names[i] = f"t{len(names) + 1}"
            return f"({names[i]} := {result})", atom
        return result, level

    shown, _ = text(graph.output)
    return shown
