"""The source of a class, with all that it uses, rewritten to need torch and the standard library alone.

A layer with state is a class that somebody wrote, so an exported file holds that very text: functions and classes
that it uses come along, names from torch and the standard library become imports, ``UsageError`` becomes
``ValueError``. What has no meaning in another process (a value made while a module ran, another library) is refused.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from evonas.errors import PluginError, UsageError

Edit = tuple[int, int, str]
#: Decorators that say something to evonas alone.
_REGISTERING = ("stateful_layer",)


@dataclass
class Copied:
    """imports: lines; texts: of everything copied, each after what it needs; names: those that are defined."""

    imports: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


class Copier:
    """Copies definitions one after the other into ``made``.

    known: objects that the file has already, name -> object. contract: a name and a text, what stands in a class body
    in the place of its assignment to that name.
    """

    def __init__(self, what: str, known: Mapping[str, Any], contract: tuple[str, str]) -> None:
        self.fail = f"{what} cannot be exported"
        self.known = dict(known)
        self.contract = contract
        self.made = Copied()
        self._seen: dict[str, Any] = {}

    def add(self, thing: type | FunctionType) -> None:
        """Copy a class or function, after all that it uses."""
        self._once(thing.__name__, thing)
        text = self._source(thing)
        text, tree = self.rewritten(text)
        self._resolve(tree, self._globals(thing))
        self.made.texts.append(text)
        self.made.names.add(thing.__name__)

    def method(self, owner: type, name: str) -> str:
        """The text of one method, at no indentation; what it uses is copied or imported."""
        function = vars(owner)[name]
        text, tree = self.rewritten(self._source(function))
        self._resolve(tree, self._globals(function))
        return text

    def rewritten(self, text: str) -> tuple[str, ast.AST]:
        """The text without decorators and contract, its errors as ``ValueError``; and its tree.

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
        if isinstance(tree, ast.ClassDef):
            for statement in tree.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                if any(isinstance(t, ast.Name) and t.id == attribute for t in targets):
                    start = at(statement.lineno, statement.col_offset)
                    edits.append((start, at(statement.end_lineno, statement.end_col_offset), instead))
        inside: list[ast.AST] = []  # of other edits
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _last(node.func) in ("UsageError", "evonas.errors.UsageError"):
                start = at(node.lineno, node.col_offset)
                given = ast.get_source_segment(text, node.args[0]) if node.args else '""'
                edits.append((start, at(node.end_lineno, node.end_col_offset), f"ValueError({given})"))
                inside += list(ast.walk(node))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Attribute):
                continue
            if _last(node.value) == "layout" and isinstance(node.value.value, ast.Name):
                if node.attr != "name":
                    raise PluginError(f"{self.fail}: it uses layout.{node.attr}", hint=_HINT)
                if node in inside:
                    continue
                edits.append((at(node.value.end_lineno, node.value.end_col_offset),
                              at(node.end_lineno, node.end_col_offset), ""))  # fmt: skip
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == attribute
                and isinstance(node.ctx, ast.Load)
                and _last(node.value) in ("self", "cls")
            ):
                raise PluginError(f"{self.fail}: it reads its {attribute}", hint=_HINT)
        for start, end, put in sorted(edits, reverse=True):
            text = text[:start] + put + text[end:]
        text = text.replace("All of it is in ``contract``.", "The top of this file has it all.")
        text = text.replace("UsageError:", "ValueError:")
        return text.strip("\n") + "\n", ast.parse(text).body[0]

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

    def _resolve(self, tree: ast.AST, scope: Mapping[str, Any]) -> None:
        """Copy or import every name that the tree takes from its module."""
        nodes = list(ast.walk(tree))
        own = {n.arg for n in nodes if isinstance(n, ast.arg)}
        own |= {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        own |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
                raise PluginError(f"{self.fail}: it imports modules or writes globals", hint=_HINT)
        used = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        for name in dict.fromkeys(used):
            if name in own or (name not in scope and hasattr(builtins, name)):
                continue
            if name not in scope:
                raise PluginError(f"{self.fail}: it uses {name}, which its module does not have", hint=_HINT)
            self._take(name, scope[name])

    def _take(self, name: str, value: Any) -> None:
        if name in self.known and self.known[name] is value:
            return
        if name in self._seen and self._seen[name] is value:
            return
        line = _import_of(name, value)
        if line is not None:
            self._once(name, value)
            self.made.imports.add(line)
        elif isinstance(value, type | FunctionType) and value is not UsageError:
            if value.__name__ != name:
                raise PluginError(f"{self.fail}: {value.__name__} has another name there, {name}", hint=_HINT)
            self.add(value)
        elif _plain(value):
            self._once(name, value)
            self.made.texts.append(f"{name} = {value!r}\n")
            self.made.names.add(name)
        else:
            raise PluginError(f"{self.fail}: it uses {name}, a {type(value).__name__}", hint=_HINT)

    def _once(self, name: str, value: Any) -> None:
        if self._seen.setdefault(name, value) is not value:
            raise PluginError(f"{self.fail}: two different things are called {name}", hint=_HINT)


def _import_of(name: str, value: Any) -> str | None:
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
    if isinstance(value, tuple):
        return all(_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str) or repr(value).startswith("torch.")


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
