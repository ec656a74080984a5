"""Text of one C function for one pass of a layer: float32 tensors, sizes as arguments, one thread.

``int <name>(const float *x, ..., float *y, ..., long n_b, ...)`` returns 0, or 1 if it got no memory. Sums run over
the lanes of a vector for at most ``PENDING`` blocks and are then added up in float64, in a fixed order, so equal inputs
give equal bits; variances take a sweep for the mean and one for the squared deviations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evonas.kernels.c_schedule import Nest, Schedule
from evonas.kernels.c_text import HEAD, MASK, NUMBER, VECTOR, Text, helpers, number, operation, vector
from evonas.kernels.programs import Program, Total


@dataclass(frozen=True)
class CFunction:
    """A function definition. inputs, outputs: buffers in the order of its arguments; sizes: axes, after them."""

    name: str
    text: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[str, ...]
    helpers: frozenset[str]


def c_function(name: str, program: Program, known: Mapping[int, str] | None = None) -> CFunction:
    """The function that runs a pass. known: values that are given in buffers: the statistics that forward saved."""
    return _Function(name, Schedule(program, known or {})).write()


def c_file(title: str, functions: Iterable[CFunction]) -> str:
    """A file with those functions and what they call."""
    made = list(functions)
    used: set[str] = set().union(*(f.helpers for f in made))
    plain = title.replace("*/", "* /").replace("\\", "/")
    return "\n\n".join([f"/* {plain} */\n{HEAD}{helpers(used)}", *(f.text for f in made)])


class _Body:
    """Lines of one loop nest by depth: before loop d + 1 opens and after it has closed; ``inner`` goes inside all."""

    def __init__(self, depth: int) -> None:
        self.before: list[list[str]] = [[] for _ in range(depth + 1)]
        self.after: list[list[str]] = [[] for _ in range(depth + 1)]
        self.inner: list[str] = []
        self.flush: list[str] = []
        self.names: dict[int, Text] = {}


class _Function:
    def __init__(self, name: str, schedule: Schedule) -> None:
        self.name = name
        self.plan = schedule
        self.ir = schedule.ir
        self.program = schedule.program
        self.lines: list[str] = []
        #: arrays to allocate: element type, name, number of elements
        self.memory: list[tuple[str, str, str]] = []
        self.inverses: dict[str, str] = {}
        self.reads: dict[str, None] = {}
        self.used: set[str] = set()
        #: values at hand: name of a number, or of an array over ``Schedule.over``
        self.numbers: dict[int, str] = {}
        self.arrays: dict[int, str] = {}

    def write(self) -> CFunction:
        plan, program = self.plan, self.program
        body = self._instance()
        outputs = [*program.tensors, *(t.name for t in program.totals), *program.statistics]
        inputs = list(self.reads)
        arguments = [f"const float *restrict {n}" for n in inputs] + [f"float *restrict {n}" for n in outputs]
        arguments += [f"long n_{a}" for a in plan.axes]
        out = [f"int {self.name}({', '.join(arguments)}) {{"]
        out.append(f"  const long length = {_product(f'n_{a}' for a in plan.run)}, padded = PAD(length);")
        out += [f"  const double {name} = 1.0 / (double)({text});" for text, name in self.inverses.items()]
        out += self._allocate()
        indent = "  "
        for a in plan.outer:
            out.append(f"{indent}for (long i_{a} = 0; i_{a} < n_{a}; i_{a}++) {{")
            indent += "  "
        out += [indent + line for line in body]
        for _ in plan.outer:
            indent = indent[:-2]
            out.append(f"{indent}}}")
        channels = _product(f"n_{a}" for a in plan.channels)
        for total in program.totals:
            out.append(f"  for (long c = 0; c < {channels}; c++) {total.name}[c] = (float)t_{total.name}[c];")
        if self.memory:
            out.append("  __builtin_free(memory);")
        out += ["  return 0;", "}"]
        return CFunction(
            self.name, "\n".join(out) + "\n", tuple(inputs), tuple(outputs), plan.axes, frozenset(self.used)
        )

    # memory

    def _allocate(self) -> list[str]:
        if not self.memory:
            return []
        lines = ["char *at_memory, *memory;", "long bytes = 64;"]
        sizes = [(kind, name, f"PAD({size}) * (long)sizeof({kind})") for kind, name, size in self.memory]
        lines += [f"bytes += {size};" for _, _, size in sizes]
        lines += [
            "memory = __builtin_calloc(bytes, 1);  /* zeros in what pads a row: denormals there would be slow */",
            "if (!memory) return 1;",
            "at_memory = memory + 64 - (unsigned long)memory % 64;  /* whole cache lines */",
        ]
        for kind, name, size in sizes:
            lines.append(f"{kind} *{name} = ({kind} *)at_memory; at_memory += {size};")
        return ["  " + line for line in lines]

    def _new_array(self, kind: str, name: str, axes: Iterable[str]) -> None:
        self.memory.append((kind, name, self._extent(axes)))

    def _extent(self, axes: Iterable[str]) -> str:
        """Elements of an array over those axes, the run padded."""
        plan = self.plan
        kept = list(axes)
        parts = [f"n_{a}" for a in kept if a not in plan.run]
        return _product([*parts, "padded"] if set(kept) & set(plan.run) else parts)

    def _array_at(self, axes: Iterable[str], run: str = "at") -> str:
        """Index into an array over those axes at the coordinates of the open loops."""
        kept = list(axes)
        terms = [(f"i_{a}", f"n_{a}") for a in kept if a not in self.plan.run]
        if set(kept) & set(self.plan.run):
            terms.append((run, "padded"))
        return _horner(terms)

    def _buffer_at(self, varies: Iterable[str]) -> str:
        """Index into a buffer that varies over those axes, compact in memory order; the run whole or not at all."""
        plan, kept = self.plan, set(varies)
        terms = [(f"i_{a}", f"n_{a}") for a in plan.axes if a in kept and a not in plan.run]
        if kept & set(plan.run):
            terms.append(("at", "length"))
        return _horner(terms)

    def _buffer(self, i: int) -> str:
        name = self.plan.known.get(i, self.ir[i].name)
        self.reads.setdefault(name)
        return name

    def _partial(self, i: int) -> bool:
        """Whether it varies over one half of a run of two axes."""
        inside = self.ir[i].varies & set(self.plan.run)
        return bool(inside) and len(inside) < len(self.plan.run)

    # one instance

    def _instance(self) -> list[str]:
        plan = self.plan
        for i in plan.needed:
            if plan.given(i) and self.ir[i].op != "const" and self._partial(i):
                self._expand(i)
        channels = _product(f"n_{a}" for a in plan.channels)
        for total in self.program.totals:
            self.memory.append(("double", f"t_{total.name}", channels))
        for nest in plan.nests:
            self._nest(nest)
        for name, value in self.program.statistics.items():
            self._store_statistic(name, value)
        return self.lines

    def _expand(self, i: int) -> None:
        """A buffer over one half of the run, copied to an array over all of it."""
        name, axes = f"full{i}", self.plan.over(i)
        self._new_array("float", name, axes)
        loops = [a for a in axes if a not in self.plan.run]
        first, second = self.plan.run
        half = f"at / n_{second}" if first in self.ir[i].varies else f"at % n_{second}"
        terms = [(f"i_{a}", f"n_{a}") for a in self.plan.axes if a in self.ir[i].varies - set(self.plan.run)]
        kept = first if first in self.ir[i].varies else second
        where = _horner([*terms, (half, f"n_{kept}")])
        self._loops(loops, [
            f"for (long at = 0; at < length; at++) {name}[{self._array_at(axes)}] = {self._buffer(i)}[{where}];"
        ])  # fmt: skip
        self.arrays[i] = name

    def _loops(self, axes: Iterable[str], body: list[str]) -> None:
        indent = ""
        for a in axes:
            self.lines.append(f"{indent}for (long i_{a} = 0; i_{a} < n_{a}; i_{a}++) {{")
            indent += "  "
        self.lines += [indent + line for line in body]
        while indent:
            indent = indent[:-2]
            self.lines.append(f"{indent}}}")

    def _store_statistic(self, name: str, i: int) -> None:
        plan, value = self.plan, self.ir[i]
        loops = [a for a in plan.swept if a in value.varies]
        target = _horner([(f"i_{a}", f"n_{a}") for a in plan.axes if a in value.varies])
        run = _horner([(f"i_{a}" if a in value.varies else "0", f"n_{a}") for a in plan.run])
        if value.op == "const":
            text = number(value.constant)
        elif i in self.numbers:
            text = self.numbers[i]
        elif i in self.arrays:
            text = f"{self.arrays[i]}[{self._array_at(plan.over(i), f'({run})')}]"
        else:
            text = f"{self._buffer(i)}[{target}]"
        self._loops(loops, [f"{name}[{target}] = {text};"])

    # nests

    def _nest(self, nest: Nest) -> None:
        plan = self.plan
        loops = [a for a in nest.axes if a not in plan.run]
        blocks = bool(nest.axes) and nest.axes[-1] in plan.run
        body = _Body(len(loops))
        wanted = [*nest.values, *(self.ir[i].args[0] for i in nest.reductions)]
        if nest.last:
            wanted += [*self.program.tensors.values(), *(t.value for t in self.program.totals)]
        wanted += [self.ir[i].args[1] for i in nest.reductions if self.ir[i].op == "var"]
        self._define(wanted, loops, blocks, body)
        for i in nest.values:
            self._keep(i, loops, blocks, body)
        for i in nest.reductions:
            self._reduce(i, loops, blocks, body)
        if nest.last:
            for total in self.program.totals:
                self._add_total(total, loops, body)
            for name, i in self.program.tensors.items():
                where = self._buffer_at(plan.axes)
                body.inner.append(f"store_some({name} + {where}, {vector(body.names[i])}, some);")
        self._assemble(loops, blocks, body)
        for i in nest.values:
            if not nest.axes:
                self.numbers[i] = body.names[i][0]

    def _assemble(self, loops: list[str], blocks: bool, body: _Body) -> None:
        inner = body.inner
        if blocks:
            lines = ["int some = end - at < W ? (int)(end - at) : W;"]
            if any("live" in line for line in inner):
                lines.append("vi live = lanes(some);")
            lines += inner
            if body.flush:
                inner = ["for (long from = 0; from < length; from += CHUNK) {",
                         "  const long end = from + CHUNK < length ? from + CHUNK : length;",
                         "  for (long at = from; at < end; at += W) {",
                         *("    " + line for line in lines),
                         "  }",
                         "  pending += (end - from + W - 1) / W;",
                         "  if (pending >= PENDING) {",
                         *("    " + line for line in body.flush),
                         "    pending = 0;",
                         "  }",
                         "}"]  # fmt: skip
                body.before[0].insert(0, "pending = 0;")
                if "long pending;" not in self.lines:
                    self.lines.insert(0, "long pending;")
            else:
                inner = ["const long end = length;", "for (long at = 0; at < length; at += W) {",
                         *("  " + line for line in lines), "}"]  # fmt: skip
        if blocks and not loops:
            inner = ["{", *("  " + line for line in inner), "}"]
        indent = ""
        for d, a in enumerate(loops):
            self.lines += [indent + line for line in body.before[d]]
            self.lines.append(f"{indent}for (long i_{a} = 0; i_{a} < n_{a}; i_{a}++) {{")
            indent += "  "
        self.lines += [indent + line for line in [*body.before[-1], *inner, *body.after[-1]]]
        for d in range(len(loops) - 1, -1, -1):
            indent = indent[:-2]
            self.lines.append(f"{indent}}}")
            self.lines += [indent + line for line in body.after[d]]

    def _define(self, wanted: list[int], loops: list[str], blocks: bool, body: _Body) -> None:
        """Statements that give every wanted value, and whatever it needs, a name in the nest."""
        needed: set[int] = set()
        stack = list(wanted)
        while stack:
            i = stack.pop()
            if i not in needed:
                needed.add(i)
                if not self._at_hand(i):
                    stack.extend(self.ir[i].args)
        for i in sorted(needed):
            value = self.ir[i]
            if value.op == "const":
                body.names[i] = (number(value.constant), NUMBER)
            elif i in self.numbers:
                body.names[i] = (self.numbers[i], NUMBER)
            elif self._at_hand(i):
                body.names[i] = self._load(i, loops, body)
            else:
                text, kind = operation(value.op, [body.names[a] for a in value.args], self.used)
                name = f"{value.op}{i}"
                form = {NUMBER: "float", VECTOR: "vf", MASK: "vi"}[kind]
                body.inner.append(f"const {form} {name} = {text};")
                body.names[i] = (name, kind)

    def _at_hand(self, i: int) -> bool:
        return self.plan.given(i) or i in self.numbers or i in self.arrays

    def _load(self, i: int, loops: list[str], body: _Body) -> Text:
        """A value from its buffer or array: a block of it, or one number as far out as its loops allow."""
        axes = self.plan.over(i)
        name = f"{self.arrays[i]}_" if i in self.arrays else f"{self._buffer(i)}_"
        if set(axes) & set(self.plan.run):
            if i in self.arrays:
                text = f"load({self.arrays[i]} + {self._array_at(axes)})"
            else:
                text = f"load_some({self._buffer(i)} + {self._buffer_at(self.ir[i].varies)}, some)"
            body.inner.append(f"const vf {name} = {text};")
            return name, VECTOR
        if i in self.arrays:
            text = f"{self.arrays[i]}[{self._array_at(axes)}]"
        else:
            text = f"{self._buffer(i)}[{self._buffer_at(self.ir[i].varies)}]"
        depth = max((loops.index(a) + 1 for a in axes), default=0)
        if depth == 0:  # the nest's own lines are not a scope of their own there
            name = f"{name}{len(self.lines)}"
        body.before[depth].append(f"const float {name} = {text};")
        return name, NUMBER

    def _keep(self, i: int, loops: list[str], blocks: bool, body: _Body) -> None:
        """Store a value of the nest in an array; without loops its name is enough."""
        axes = self.plan.over(i)
        if not axes:
            return
        name = f"kept{i}"
        self._new_array("float", name, axes)
        where = self._array_at(axes)
        if blocks:
            body.inner.append(f"store({name} + {where}, {vector(body.names[i])});")
        else:
            body.inner.append(f"{name}[{where}] = {body.names[i][0]};")
        self.arrays[i] = name

    # sums

    def _reduce(self, i: int, loops: list[str], blocks: bool, body: _Body) -> None:
        plan, value = self.plan, self.ir[i]
        run = set(plan.run)
        kept_run = value.varies & run
        whole = set(value.over)
        if blocks and (self.ir[value.args[0]].varies & run):
            whole |= run - kept_run  # copies of one value along the run count as often as they are added
        inverse = self._inverse(whole)
        text, kind = body.names[value.args[0]]
        if value.op == "var":
            away = f"away{i}"
            mean = body.names[value.args[1]]
            difference = f"{text} - {mean[0]}"
            body.inner.append(f"const {'vf' if blocks else 'float'} {away} = {difference};")
            text, kind = f"{away} * {away}", VECTOR if blocks else NUMBER
        if blocks:
            text = vector((text, kind))
        result = f"{value.op}{i}"
        axes = plan.over(i)
        if blocks and kept_run:
            self._sum_by_lane(i, f"{text}", loops, body, inverse, axes)
            return
        kept = [a for a in loops if a in value.varies]
        target = f"{result}[{self._array_at(axes)}]"
        if kept:
            self._new_array("float", result, axes)
            self.arrays[i] = result
        else:
            self.numbers[i] = result
        if kept == loops[: len(kept)]:
            sum_ = self._accumulate(f"sum{i}", text, len(kept), blocks, body)
            form = "" if kept else "const float "
            body.after[len(kept)].append(f"{form}{target if kept else result} = (float)({sum_} * {inverse});")
            return
        wide = f"wide{i}"
        self._new_array("double", wide, kept)
        body.before[0].append(f"__builtin_memset({wide}, 0, {self._extent(kept)} * sizeof(double));")
        sum_ = self._accumulate(f"sum{i}", text, len(loops), blocks, body)
        body.after[-1].append(f"{wide}[{self._array_at(kept)}] += {sum_};")
        flat = self._extent(kept)
        body.after[0].append(
            f"for (long j = 0; j < {flat}; j++) {result}[j] = (float)({wide}[j] * {inverse});"
        )

    def _accumulate(self, name: str, text: str, depth: int, blocks: bool, body: _Body) -> str:
        """A sum that starts when ``depth`` loops are open; returns the text of its total when they close."""
        body.before[depth].append(f"double {name} = 0.0;")
        if not blocks:
            body.inner.append(f"{name} += {text};")
            return name
        body.before[depth].append(f"vf {name}_lanes = {{0}};")
        body.inner.append(f"{name}_lanes += keep(live, {text});")
        body.flush += [f"{name} += total_seldom({name}_lanes);", f"{name}_lanes = (vf){{0}};"]
        return f"({name} + total({name}_lanes))"

    def _sum_by_lane(
        self, i: int, text: str, loops: list[str], body: _Body, inverse: str, axes: tuple[str, ...]
    ) -> None:
        """A sum that is kept along the run: one float64 per lane, halves of the run folded afterwards."""
        value, result, wide = self.ir[i], f"{self.ir[i].op}{i}", f"wide{i}"
        self._new_array("float", result, axes)
        self._new_array("double", wide, axes)
        self.arrays[i] = result
        extent = self._extent(axes)
        body.before[0].append(f"__builtin_memset({wide}, 0, {extent} * sizeof(double));")
        body.inner.append(f"add_wide({wide} + {self._array_at(axes)}, keep(live, {text}));")
        after = body.after[0]
        if not self._partial(i):
            after.append(f"for (long j = 0; j < {extent}; j++) {result}[j] = (float)({wide}[j] * {inverse});")
            return
        first, second = self.plan.run
        outer, inner = (first, second) if first in value.varies else (second, first)
        step, stride = (f"n_{second}", "1") if outer == first else ("1", f"n_{second}")
        after += [
            f"for (long j = 0; j < {extent}; j += padded)",
            f"  for (long o = 0; o < n_{outer}; o++) {{",
            "    double sum = 0.0;",
            f"    for (long q = 0; q < n_{inner}; q++) sum += {wide}[j + o * {step} + q * {stride}];",
            f"    for (long q = 0; q < n_{inner}; q++) {result}[j + o * {step} + q * {stride}] = "
            f"(float)(sum * {inverse});",
            "  }",
        ]

    def _add_total(self, total: Total, loops: list[str], body: _Body) -> None:
        """A vector gradient's share of this instance."""
        channels = self.plan.channels
        text = vector(body.names[total.value])
        if set(self.plan.run) <= set(channels):
            body.inner.append(f"add_wide(t_{total.name} + at, keep(live, {text}));")
            return
        kept = [a for a in loops if a in channels]
        depth = len(kept) if kept == loops[: len(kept)] else len(loops)
        sum_ = self._accumulate(f"sum_{total.name}", text, depth, True, body)
        where = _horner([(f"i_{a}", f"n_{a}") for a in channels])
        body.after[depth].append(f"t_{total.name}[{where}] += {sum_};")

    def _inverse(self, axes: set[str]) -> str:
        ordered = [a for a in self.plan.axes if a in axes]
        return self.inverses.setdefault(_product(f"n_{a}" for a in ordered), f"inverse_{''.join(ordered)}")


def _product(parts: Iterable[str]) -> str:
    return " * ".join(parts) or "1"


def _horner(terms: list[tuple[str, str]]) -> str:
    """Row-major index from (coordinate, size) pairs, outermost first."""
    text = "0"
    for n, (coordinate, size) in enumerate(terms):
        text = coordinate if n == 0 else f"({text} * {size} + {coordinate})"
    return text
