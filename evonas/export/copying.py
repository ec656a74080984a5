"""The source of a class, with all that it uses, rewritten to need torch and the standard library alone.

A layer with state is a class that somebody wrote, so an exported file holds that very text: functions and classes
that it uses come along, names from torch and the standard library become imports, ``UsageError`` becomes
``ValueError``. What has no meaning in another process (a value made while a module ran, another library) is refused.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import re
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from evonas.errors import PluginError, UsageError

Edit = tuple[int, int, str]
#: Decorators that say something to evonas alone.
_REGISTERING = ("stateful_layer",)


class Copier:
    """Copies definitions one after the other: ``texts``, each after what it needs, and ``imports``, as lines.

    home: the class that is copied, of whose package functions and classes may be. taken: names that the file has
    already -> what they are there. contract: a name and a text, what stands in a class body in the place of its
    assignment to that name; replaced: whether that was done.
    """

    def __init__(self, what: str, home: type, taken: Mapping[str, Any], contract: tuple[str, str]) -> None:
        self.fail = f"{what} cannot be exported"
        self.contract = contract
        self.replaced = False
        self.imports: set[str] = set()
        self.texts: list[str] = []
        self._roots = ("evonas", _root(home))
        self._seen = dict(taken)

    def add(self, thing: type | FunctionType) -> None:
        """Copy a class or function, after all that it uses."""
        self._once(thing.__name__, thing)
        text = self.rewritten(self._source(thing))
        self._resolve(text, self._globals(thing))
        self.texts.append(text)

    def method(self, owner: type, name: str) -> str:
        """The text of one method, at no indentation; what it uses is copied or imported."""
        function = vars(owner)[name]
        text = self.rewritten(self._source(function))
        self._resolve(text, self._globals(function))
        return text

    def rewritten(self, text: str) -> str:
        """The text without decorators and contract, its errors as ``ValueError``.

        Raises:
            PluginError: it reads its contract, or more of its layout than the name.
        """
        tree = ast.parse(text).body[0]
        assert isinstance(tree, ast.ClassDef | ast.FunctionDef)
        edits: list[Edit] = []
        at = _positions(text)
        for decorator in tree.decorator_list:
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _last(function) in _REGISTERING:
                edits.append((at(decorator.lineno, 0), at((decorator.end_lineno or 0) + 1, 0), ""))
        attribute, instead = self.contract
        for statement in tree.body if isinstance(tree, ast.ClassDef) else ():
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets = [statement.target]
            if any(_last(target) == attribute for target in targets):
                edits.append((*_span(at, statement), instead))
                self.replaced = True
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last(node.func) == "UsageError":
                edits += _as_value_error(node, at)
        for start, end, put in sorted(edits, reverse=True):
            text = text[:start] + put + text[end:]
        text = re.sub(r"\b(\w+)\.layout\.name\b", r"\1.layout", text)
        text = text.replace("All of it is in ``contract``.", "The top of this file has it all.")
        text = text.replace("UsageError:", "ValueError:").strip("\n") + "\n"
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Attribute):
                continue
            if isinstance(node.value, ast.Attribute) and node.value.attr == "layout":
                raise PluginError(f"{self.fail}: it uses layout.{node.attr}", hint=_HINT)
            if (
                node.attr == attribute
                and isinstance(node.ctx, ast.Load)
                and _last(node.value) in ("self", "cls")
            ):
                raise PluginError(f"{self.fail}: it reads its {attribute}", hint=_HINT)
        return text

    def _source(self, thing: Any) -> str:
        try:
            return textwrap.dedent(inspect.getsource(thing))
        except (OSError, TypeError) as error:
            raise PluginError(f"{self.fail}: its source cannot be read ({error})", hint=_HINT) from None

    def _globals(self, thing: Any) -> Mapping[str, Any]:
        module = sys.modules.get(thing.__module__)
        if module is None:
            raise PluginError(f"{self.fail}: the module {thing.__module__} is not loaded", hint=_HINT)
        return vars(module)

    def _resolve(self, text: str, scope: Mapping[str, Any]) -> None:
        """Copy or import every name that the text takes from its module."""
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Global):
                raise PluginError(f"{self.fail}: it imports modules or writes globals", hint=_HINT)
        for name in dict.fromkeys(_globals_in(symtable.symtable(text, "layer", "exec"))):
            if name in scope:
                self._take(name, scope[name])
            elif name not in self._seen and not hasattr(builtins, name):
                raise PluginError(f"{self.fail}: it uses {name}, which its module does not have", hint=_HINT)

    def _take(self, name: str, value: Any) -> None:
        if name in self._seen and self._seen[name] is value:
            return
        line = import_of(name, value)
        if line is not None:
            self._once(name, value)
            self.imports.add(line)
        elif (
            isinstance(value, type | FunctionType) and value is not UsageError and _root(value) in self._roots
        ):
            if value.__name__ != name:
                raise PluginError(f"{self.fail}: {value.__name__} has another name there, {name}", hint=_HINT)
            self.add(value)
        elif _plain(value):
            self._once(name, value)
            self.texts.append(f"{name} = {literal(value)}\n")
        else:
            where = f" of {value.__module__}" if isinstance(value, type | FunctionType) else ""
            raise PluginError(f"{self.fail}: it uses {name}, a {type(value).__name__}{where}", hint=_HINT)

    def _once(self, name: str, value: Any) -> None:
        if self._seen.setdefault(name, value) is not value:
            raise PluginError(f"{self.fail}: two different things are called {name}", hint=_HINT)


def _globals_in(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that a scope and those inside it take from the module, or from the builtins."""
    for symbol in table.get_symbols():
        outside = symbol.is_global() if table.get_type() != "module" else not symbol.is_assigned()
        if outside and symbol.is_referenced():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals_in(child)


def _as_value_error(call: ast.Call, at: Callable[[int | None, int | None], int]) -> list[Edit]:
    """``UsageError(message, hint=...)`` as ``ValueError(message)``; the message itself is not touched."""
    start, end = _span(at, call)
    message = next((k.value for k in call.keywords if k.arg == "message"), None)
    message = call.args[0] if call.args else message
    if message is None:
        return [(start, end, "ValueError()")]
    inner = _span(at, message)
    return [(start, inner[0], "ValueError("), (inner[1], end, ")")]


def import_of(name: str, value: Any) -> str | None:
    """The line that imports a name from torch or the standard library, None for anything else."""
    if isinstance(value, ModuleType):
        if not _allowed(value.__name__):
            return None
        parent, _, last = value.__name__.rpartition(".")
        start = f"from {parent} import {last}" if parent else f"import {last}"
        return start if last == name else f"{start} as {name}"
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or not _allowed(module) or module == "builtins":
        return None
    places = ["torch", module] if module.startswith("torch") else ["collections.abc", module]
    for place in places:
        if getattr(sys.modules.get(place), name, None) is value:
            return f"from {place} import {name}"
    return None


def _allowed(module: str) -> bool:
    root = module.partition(".")[0]
    return root == "torch" or root in sys.stdlib_module_names


def _plain(value: Any) -> bool:
    import torch

    if isinstance(value, tuple):
        return all(_plain(one) for one in value)
    return value is None or isinstance(
        value, bool | int | float | str | torch.dtype | torch.layout | torch.memory_format
    )


def literal(value: Any) -> str:
    """A plain value as Python reads it: ``repr`` of an infinity is the name of nothing."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _root(thing: Any) -> str:
    """The package that a class or function is of."""
    return str(thing.__module__).partition(".")[0]


def _last(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _positions(text: str) -> Callable[[int | None, int | None], int]:
    """From line (from 1) and column in bytes to a place in the text."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def at(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        if line > len(lines):
            return len(text)
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    return at


def _span(at: Callable[[int | None, int | None], int], node: ast.expr | ast.stmt) -> tuple[int, int]:
    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


def imports(lines: set[str]) -> str:
    """Import lines in order: plain ones first, those of one module on one line, torch after the standard library."""
    plain = sorted(line for line in lines if line.startswith("import "))
    taken: dict[str, set[str]] = {}
    for line in lines - set(plain):
        found = re.fullmatch(r"from (\S+) import (.+)", line)
        assert found is not None
        taken.setdefault(found[1], set()).add(found[2])
    grouped = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(taken.items())]
    blocks = [[line for line in [*plain, *grouped] if (line.split()[1].startswith("torch")) is torch]
              for torch in (False, True)]  # fmt: skip
    return "\n\n".join("\n".join(block) for block in blocks if block)


_HINT = (
    "write the layer with its arguments, torch, the standard library, and functions, classes and numbers of its own "
    "module alone"
)
