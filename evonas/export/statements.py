"""A graph as Python statements, with names that say what a value is."""

from __future__ import annotations

from dataclasses import dataclass, field

from evonas import primitives
from evonas.export.forms import Form, is_parameter
from evonas.export.inlining import inlined
from evonas.export.spelling import CALL, HELPERS, SPELLINGS, Spelling
from evonas.graph import Graph
from evonas.graph.graph import literal

#: From so many characters on an expression gets a name and a line of its own.
_LONG = 48
_DOMAINS = {
    "w,h": "instance", "w,h,c": "layer", "w,h,c/g": "group", "c": "channel", "c/g": "group", "t": "time",
}  # fmt: skip
_CONSTANTS = {"0": "zero", "1": "one", "2": "two", "0.5": "half", "-1": "minus_one"}
_RUNNING = {"std": "running_var", "rms": "running_mean_square"}
_INITIAL = {"mean": 0.0}
#: Never negative; and never below eps, as long as eps is at most one.
_POSITIVE = ("abs", "square", "exp", "sigmoid", "std", "rms", "cstd", "crms", "rsqrt")
_RESERVED = frozenset({"x", "y", "self", "torch", "math", "nn", "Tensor", "abs", "min", "max", "sum"})


@dataclass(frozen=True)
class Statistic:
    """A running average: the buffer's name, what it averages, its size and initial value.

    key: of the same buffer in a module of evonas. size: "channels", "groups" or "1".
    """

    name: str
    op: str
    key: str
    size: str
    initial: float


@dataclass
class Program:
    """lines: of the method that computes y from x; functions: definitions that they call, in order."""

    lines: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    statistics: list[Statistic] = field(default_factory=list)
    parameters: tuple[str, ...] = ()


def program(graph: Graph, form: Form) -> Program:
    """The statements of a graph on tensors of that form.

    Raises:
        PluginError: a primitive whose source cannot be copied.
    """
    return _Writer(graph.active(), form).write()


class _Writer:
    def __init__(self, graph: Graph, form: Form) -> None:
        self.graph = graph
        self.form = form
        self.first = len(graph.leaves)
        self.made = Program()
        self.taken = set(_RESERVED) | set(graph.leaves) | set(HELPERS)
        self.texts: dict[int, tuple[str, int]] = {}
        self.constants: dict[tuple[str, bool], str] = {}
        self.uses = [0] * (self.first + len(graph))
        for _, node in graph.operations():
            for a in set(node.args):
                self.uses[a] += node.args.count(a)
        self.moments = [node.op for _, node in graph.operations() if node.index]

    # the graph

    def op(self, i: int) -> str | None:
        return self.graph.nodes[i - self.first].op if i >= self.first else None

    def args(self, i: int) -> tuple[int, ...]:
        return self.graph.nodes[i - self.first].args if i >= self.first else ()

    def value(self, i: int) -> float | None:
        """Of a constant."""
        leaf = self.graph.leaves[i] if i < self.first else None
        return None if leaf is None or is_parameter(leaf) or leaf == "x" else literal(leaf)

    def not_negative(self, i: int) -> bool:
        value = self.value(i)
        if value is not None:
            return value >= 0
        if self.op(i) in ("add", "mul", "min"):
            return all(self.not_negative(a) for a in self.args(i))
        if self.op(i) == "max":
            return any(self.not_negative(a) for a in self.args(i))
        return self.op(i) in _POSITIVE

    def at_least_eps(self, i: int) -> bool:
        """Whether a denominator needs no guard, for every eps from 0 to 1."""
        value = self.value(i)
        if value is not None:
            return value >= 1
        args, op = self.args(i), self.op(i)
        if op == "max":
            return any(self.at_least_eps(a) for a in args)
        if op == "add":
            return any(self.at_least_eps(a) and self.not_negative(b) for a, b in (args, args[::-1]))
        if op == "abs":
            return self.at_least_eps(args[0])
        return op in ("std", "rms", "cstd", "crms")

    # writing

    def write(self) -> Program:
        graph, form = self.graph, self.form
        self.made.parameters = tuple(leaf for leaf in graph.leaves if is_parameter(leaf))
        if form.grouped:
            self._split()
        for i, leaf in enumerate(graph.leaves):
            self.texts[i] = (leaf, 30 if leaf.startswith("-") else CALL)
            if is_parameter(leaf):
                scalar = leaf.startswith("s")
                shape = form.scalar if scalar else form.vector
                view = f".view({shape})" if shape and not (scalar and form.name == "last") else ""
                self.made.lines.append(f"{leaf} = self.{leaf}.to(x.dtype){view}")
        for i, _ in graph.operations():
            self._node(i)
        self._end()
        return self.made

    def _split(self) -> None:
        shape = {
            "nchw": ["batch, channels, height, width = x.shape",
                     "x = x.reshape(batch, self.groups, channels // self.groups, height, width)"],
            "btc": ["batch, tokens, channels = x.shape",
                    "x = x.reshape(batch, tokens, self.groups, channels // self.groups)"],
            "last": ["x = x.unflatten(-1, (self.groups, -1))"],
        }  # fmt: skip
        self.taken |= {"batch", "channels", "height", "width", "tokens"}
        self.made.lines += shape[self.form.name]

    def _end(self) -> None:
        graph = self.graph
        text = self.texts[graph.output][0]
        if self.value(graph.output) is not None:
            text = f"torch.full_like(x, {text})"
        elif not self._full(graph.output):
            text = f"torch.broadcast_to({text}, x.shape)"
        lines = self.made.lines
        if not self.form.grouped:
            lines.append(f"return {text}")
            return
        back = {
            "nchw": "reshape(batch, channels, height, width)",
            "btc": "reshape(batch, tokens, channels)",
            "last": "flatten(-2)",
        }
        lines += [f"y = {text}", f"return y.{back[self.form.name]}"]

    def _full(self, i: int) -> bool:
        """Whether a value certainly has the shape of x."""
        if i < self.first:
            return self.graph.leaves[i] == "x"
        node = self.graph.nodes[i - self.first]
        return node.index is None and any(self._full(a) for a in node.args)

    def _node(self, i: int) -> None:
        op, args, index = self.graph.nodes[i - self.first]
        spelling = self._spelling(op)
        if op == "div" and self.at_least_eps(args[1]):
            spelling = Spelling("{0} / {1}", 20, "ratio")
        elif op in SPELLINGS:
            for helper in spelling.helpers:
                self.made.functions.setdefault(helper, HELPERS[helper])
        infix = spelling.precedence < CALL
        parts = [self._argument(i, position, infix) for position in range(len(args))]
        shown = []
        for position, (part, strength) in enumerate(parts):
            needed = spelling.precedence + (1 if position else 0) if infix else 0
            if op == "mean" and strength < CALL:
                needed = CALL
            shown.append(f"({part})" if strength < needed else part)
        dims = self.form.over(index) if index else ()
        text = spelling.text.format(
            *shown, dims=f"({', '.join(map(str, dims))}{',' if len(dims) == 1 else ''})"
        )
        if index and "b" in index:
            self._batch(i, text, dims)
        elif i != self.graph.output and (index or self.uses[i] > 1 or op == "sigmoid" or len(text) > _LONG):
            name = self.fresh(self._title(i))
            self.made.lines.append(f"{name} = {text}")
            self.texts[i] = (name, CALL)
        else:
            self.texts[i] = (text, spelling.precedence)

    def _spelling(self, op: str) -> Spelling:
        if op in SPELLINGS:
            return SPELLINGS[op]
        primitive = primitives.get(op)
        helper = f"{op}_of"
        if helper not in self.made.functions:
            self.made.functions[helper] = inlined(primitive, helper)
        given = [f"{{{n}}}" for n in range(primitive.arity)]
        if primitive.kind == "moment":
            given += ["{dims}", "eps=self.eps"]
        elif primitive.uses_eps:
            given.append("eps=self.eps")
        return Spelling(f"{helper}({', '.join(given)})", CALL, op)

    def _argument(self, i: int, position: int, infix: bool) -> tuple[str, int]:
        """Text of an argument: constants are tensors where torch takes nothing else."""
        op, args, index = self.graph.nodes[i - self.first]
        a = args[position]
        if self.value(a) is None:
            return self.texts[a]
        others = [b for n, b in enumerate(args) if n != position]
        if infix and any(self.value(b) is None for b in others):
            return self.texts[a]
        if op == "div" and position == 0 and self.value(args[1]) is None:
            return self.texts[a]
        return self._constant(self.graph.leaves[a], index is not None), CALL

    def _constant(self, leaf: str, ranked: bool) -> str:
        if (leaf, ranked) not in self.constants:
            name = self.fresh(_CONSTANTS.get(leaf, "constant"))
            shape = "(1,) * x.dim()" if ranked else "()"
            self.made.lines.append(f"{name} = x.new_full({shape}, {leaf})")
            self.constants[leaf, ranked] = name
        return self.constants[leaf, ranked]

    def _batch(self, i: int, text: str, dims: tuple[int, ...]) -> None:
        """A statistic over the batch: its own in training, the running average in evaluation."""
        op, _, index = self.graph.nodes[i - self.first]
        assert index is not None
        form, lines = self.form, self.made.lines
        name = self.fresh(self._title(i))
        base = _RUNNING.get(op, f"running_{op}")
        names = [s.name for s in self.made.statistics]
        count = sum(n.startswith(base) for n in names)
        running = base if base not in names else f"{base}_{count + 1}"
        size, view = "channels", form.vector
        if "c" in index:
            size, view = "1", form.scalar
        elif "c/g" in index:
            size, view = "groups", form.group
        key = f"statistics.{len(self.made.statistics)}.running"
        self.made.statistics.append(Statistic(running, op, key, size, _INITIAL.get(op, 1.0)))
        square = op in _RUNNING
        seen = f"{name} * {name} - self.eps" if square else name
        inner = {d for axis, ds in form.dims.items() if axis not in ("b", "c", "c/g") for d in ds}
        spread = tuple(sorted(inner - set(dims)))
        if spread:
            given = f"({seen})" if square else seen
            seen = f"{given}.mean(({', '.join(map(str, spread))}{',' if len(spread) == 1 else ''}), keepdim=True)"
        kept = f"self.{running}.to(x.dtype).view({view})"
        lines += [
            "if self.training:",
            f"    {name} = {text}",
            f"    self._average(self.{running}, {seen}, ({view}))",
            "else:",
            f"    {name} = torch.sqrt({kept} + self.eps)" if square else f"    {name} = {kept}",
        ]
        self.texts[i] = (name, CALL)

    # names

    def fresh(self, base: str) -> str:
        """A name that is not taken."""
        name, n = base, 1
        while name in self.taken:
            n += 1
            name = f"{base}{n}"
        self.taken.add(name)
        return name

    def _title(self, i: int) -> str:
        op, args, index = self.graph.nodes[i - self.first]
        name = SPELLINGS[op].name if op in SPELLINGS else op
        if index is not None:
            if "b" in index:
                return f"batch_{name}"
            prefix = _DOMAINS.get(",".join(index)) if self.moments.count(op) > 1 else None
            return f"{prefix}_{name}" if prefix else name
        kinds = [self.op(a) for a in args]
        leaves = [self.graph.leaves[a] for a in args if a < self.first]
        if op == "sub" and kinds[1] == "mean" and self.args(args[1])[0] == args[0]:
            return "centred"
        if op == "div" and kinds[1] in ("std", "rms"):
            return "normalized"
        if op == "mul" and "sigmoid" in kinds:
            return "gated"
        if op == "mul" and any(is_parameter(leaf) for leaf in leaves):
            return "scaled"
        if op in ("add", "sub") and any(is_parameter(leaf) for leaf in leaves):
            return "shifted"
        return name
