"""A graph as a short program for a machine with a few tile registers. No torch, no triton.

One instruction is four integers ``(operation, destination, a, b)``: a and b are registers, but for ``load`` a is
the number of a leaf, for ``const`` a is the number of a constant, and for a moment b is the set of axes to
reduce. The last instruction writes register 0, which is the result. A value that is needed no more gives its
register back; leaves can be loaded again, so they make room first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from evonas.primitives import EPS

from evonas import primitives
from evonas.errors import UsageError
from evonas.graph.graph import SCALAR_LEAVES, Graph, literal
from evonas.graph.layout import Layout

#: Sizes of the register file that the kernel is built with; a batch takes the smallest that does.
REGISTER_FILES = (4, 8, 12)
REGISTERS = REGISTER_FILES[-1]
#: Leaves that ``load`` knows, by number. x and g vary over every axis, v0 and v1 over the channels.
LEAVES = ("x", "v0", "v1", "g")
UNARY = ("neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt", "erf", "rsqrt", "sign", "step")
BINARY = ("add", "sub", "mul", "div", "max", "min")
MOMENTS = ("mean", "rms", "std")
#: Numbers of the operations: unary ones, then binary ones, then moments, so that a range tells the kind.
OPCODES = {name: code for code, name in enumerate(("load", "const", *UNARY, *BINARY, *MOMENTS))}
#: Bits of a set of axes of the kernel's tile (batch, group, channel of a group, position).
AXIS_BITS = {"b": 1, "g": 2, "k": 4, "p": 8}
#: Constant number 0 of every program is eps, in the precision of the tile.
EPS_SLOT = 0

_ALL = frozenset(AXIS_BITS)
_LEAF_VARIES = {"x": _ALL, "g": _ALL, "v0": frozenset({"g", "k"}), "v1": frozenset({"g", "k"})}
_POSITIONS = {"nchw": frozenset({"h", "w"}), "btc": frozenset({"t"})}

Instruction = tuple[int, int, int, int]


class NotExpressible(UsageError):
    """A graph that the machine has no program for; the message says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """``constants`` does not hold eps; ``registers`` is how many registers are written, always the first ones."""

    code: tuple[Instruction, ...]
    constants: tuple[float, ...]
    registers: int


def compile_program(graph: Graph, layout: Layout, registers: int = REGISTERS) -> Program:
    """The program of the output of a graph; inactive nodes are left out.

    Args:
        graph: over x, v0, v1, constants and, for gradient graphs, g.
        layout: "nchw" or "btc"; height and width count as one axis of positions.
        registers: how many there are, at least 2.

    Raises:
        NotExpressible: a primitive that is not built in, an input s0 or s1, a moment over height or width alone, or
            more live values than registers.
        FormulaError: an index set that the layout does not have.
    """
    if len(graph.ancestors()) < len(graph.leaves) + len(graph):
        graph = (
            graph.active()
        )  # a third of the time of this function, and most graphs come without inactive nodes
    masks = _masks(graph, layout)
    return _Allocator(graph, masks, registers).run()


def _masks(graph: Graph, layout: Layout) -> dict[int, int]:
    """Per moment the axes over which its argument varies *and* it reduces, as bits.

    The reference keeps what does not vary at size one, so a moment over such an axis is exact there; summing
    equal values of the expanded tile would round.
    """
    positions = _POSITIONS[layout.name]
    for leaf in SCALAR_LEAVES:
        if leaf in graph.leaves:
            raise NotExpressible(f"input {leaf!r} cannot be loaded", hint="run the graph eagerly")
    varies: list[frozenset[str]] = [_LEAF_VARIES.get(leaf, frozenset()) for leaf in graph.leaves]
    masks: dict[int, int] = {}
    for i, (op, args, index) in graph.operations():
        primitive = primitives.get(op)
        if op not in OPCODES or primitive.origin != "evonas":
            raise NotExpressible(f"primitive {op!r} has no instruction", hint="run the graph eagerly")
        over = frozenset().union(*(varies[a] for a in args))
        if index is not None:
            covered = layout.covered(layout.check(index))
            flat = (covered - positions) | ({"p"} if covered & positions else set())
            if "p" in over and 0 < len(covered & positions) < len(positions):
                raise NotExpressible(
                    f"{op}[{','.join(index)}] reduces a part of the positions", hint="run the graph eagerly"
                )
            masks[i] = sum(AXIS_BITS[axis] for axis in sorted(flat & over))
            over -= flat
        varies.append(over)
    return masks


class _Allocator:
    """Linear scan over the nodes in their order; a leaf that has to make room is loaded again later."""

    def __init__(self, graph: Graph, masks: dict[int, int], registers: int) -> None:
        self.graph = graph
        self.masks = masks
        self.uses: dict[int, list[int]] = {}
        for i, node in graph.operations():
            for a in node.args:
                self.uses.setdefault(a, []).append(i)
        self.free = list(range(registers))
        self.place: dict[int, int] = {}
        self.code: list[Instruction] = []
        self.constants: list[float] = []
        self.written: set[int] = set()

    def run(self) -> Program:
        first = len(self.graph.leaves)
        if self.graph.output < first:
            self.load(self.graph.output, 0)
        for i, (op, args, _) in self.graph.operations():
            for a in dict.fromkeys(args):
                if a not in self.place:
                    self.load(a, self.take(i, keep=args))
            a, b = (self.place[args[0]], self.place[args[-1]])
            for value in list(self.place):
                if not self.later(value, i):
                    self.free.append(self.place.pop(value))
            self.free.sort()
            # operands are read before the destination is written, so they need not be kept
            to = 0 if i == self.graph.output else self.take(i, keep=())
            self.place[i] = to
            self.emit(OPCODES[op], to, a, self.masks.get(i, b))
        return Program(tuple(self.code), tuple(self.constants), len(self.written))

    def later(self, value: int, now: int) -> list[int]:
        return [i for i in self.uses.get(value, ()) if i > now]

    def take(self, now: int, keep: Sequence[int]) -> int:
        """A free register, or that of the leaf whose next use is furthest away."""
        if self.free:
            return self.free.pop(0)
        first = len(self.graph.leaves)
        leaves = [v for v in self.place if v < first and v not in keep]
        if not leaves:
            raise NotExpressible(
                f"{len(self.place)} values are live at node {now} of {self.graph}, more than fit",
                hint="run the graph eagerly",
            )
        return self.place.pop(max(leaves, key=lambda v: (self.later(v, now - 1)[0], v)))

    def load(self, leaf: int, to: int) -> None:
        name = self.graph.leaves[leaf]
        value = literal(name)
        if value is None:
            self.emit(OPCODES["load"], to, LEAVES.index(name), 0)
        else:
            if value not in self.constants:
                self.constants.append(value)
            self.emit(OPCODES["const"], to, 1 + self.constants.index(value), 0)
        self.place[leaf] = to

    def emit(self, op: int, to: int, a: int, b: int) -> None:
        self.written.add(to)
        self.code.append((op, to, a, b))


#: What stands in for a graph without a program: its result is NaN everywhere.
NOTHING = Program(((OPCODES["const"], 0, 1, 0),), (float("nan"),), 1)


def encode(programs: Sequence[Program], eps: float = EPS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Programs as tables: instructions, constants, lengths.

    Returns:
        int32 (programs, longest, 4), float64 (programs, 1 + most constants) with eps first, int32 (programs,).
    """
    longest = max((len(p.code) for p in programs), default=1)
    width = 1 + max((len(p.constants) for p in programs), default=0)
    code = np.zeros((len(programs), longest, 4), np.int32)
    constants = np.zeros((len(programs), width))
    lengths = np.zeros(len(programs), np.int32)
    constants[:, EPS_SLOT] = eps
    for row, program in enumerate(programs):
        code[row, : len(program.code)] = program.code
        constants[row, 1 : 1 + len(program.constants)] = program.constants
        lengths[row] = len(program.code)
    return code, constants, lengths
