"""From a layer's graph to the IR of its forward and its backward pass.

Differentiation happens here: reverse mode over the graph by each primitive's own gradient definition, run on the
IR, so that forward and backward share every value. Nothing numeric takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod

from evonas.kernels.axes import CHANNELS, KernelAxes, merge_axes
from evonas.kernels.expressions import lower
from evonas.kernels.ir import IR, REDUCTIONS
from evonas.primitives import EPS

from evonas import primitives
from evonas.errors import EvonasError
from evonas.graph.graph import PARAMETER_LEAVES, Graph, literal
from evonas.graph.layout import get_layout

AFFINE = ("weight", "bias")
#: Elements of a domain up to which the mean inside a variance is not saved.
FOUND_AGAIN = 8192


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Everything but sizes and dtypes that a layer's kernels depend on.

    formula: of the active graph. memory: "contiguous" or "channels_last" (NCHW only). affine: y * weight + bias at the
    end. residual: a second tensor is added to x first, and the sum is a second output. training: batch
    statistics are computed; otherwise the nodes over the batch are inputs. eps: of moments and guards.

    With a residual, the leaf x of both programs stands for the sum, rounded to the tensors' dtype: the forward kernels
    load and add two tensors in its place, the backward kernels read what forward stored.
    """

    formula: str
    layout: str = "nchw"
    memory: str = "contiguous"
    affine: bool = True
    residual: bool = False
    training: bool = True
    eps: float = EPS

    @property
    def graph(self) -> Graph:
        return _graph(self.formula)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the parameters, in the order in which kernels' callers give them. Each is one value per channel: s0
        and s1 come expanded, and their gradient is the sum of what comes back."""
        used = tuple(leaf for leaf in PARAMETER_LEAVES if leaf in self.graph.leaves)
        return (*used, *AFFINE) if self.affine else used


@lru_cache(maxsize=1024)
def _graph(formula: str) -> Graph:
    return Graph.parse(formula).active()


@dataclass(frozen=True)
class Total:
    """A vector gradient: the sum of ``value`` over ``over``, by parameter name."""

    name: str
    value: int
    over: frozenset[str]


@dataclass(frozen=True)
class Program:
    """One pass: tensors of full size that it writes (name -> value), vector gradients, and statistics.

    statistics: values of lower rank to store (name -> value): saved for backward, or nodes over the batch.
    """

    ir: IR
    axes: KernelAxes
    tensors: Mapping[str, int]
    totals: tuple[Total, ...] = ()
    statistics: Mapping[str, int] = field(default_factory=dict)

    @property
    def roots(self) -> list[int]:
        return [*self.tensors.values(), *(t.value for t in self.totals), *self.statistics.values()]


@dataclass(frozen=True)
class Passes:
    """Both passes over one IR.

    saved: statistics of the forward pass that the backward pass reads. batch: statistics that are nodes over the batch,
    in graph order, for the running averages.
    """

    forward: Program
    backward: Program
    saved: tuple[str, ...]
    batch: tuple[str, ...]

    @property
    def known(self) -> dict[int, str]:
        """What the backward pass may find in buffers: value -> name."""
        return {self.forward.statistics[name]: name for name in self.saved}

    def saved_on(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """Those of ``saved`` that are worth saving for tensors whose axes have these sizes.

        The mean inside a saved variance is found again where the backward pass has the domain in registers anyway.
        Depends on sizes alone, not on a schedule.
        """
        ir = self.forward.ir
        domain = frozenset[str]().union(*(ir[i].over for i in self.known if ir[i].op in REDUCTIONS))
        if prod(sizes[a] for a in domain) > FOUND_AGAIN:
            return self.saved
        inside = {ir[i].args[1] for i in self.known if ir[i].op == "var"}
        return tuple(name for name in self.saved if self.forward.statistics[name] not in inside)


class _Ops:
    """``ops.<primitive>(...)`` on values of the IR, for gradient definitions."""

    def __init__(self, ir: IR, axes: Callable[[tuple[str, ...]], frozenset[str]], eps: float) -> None:
        self.ir = ir
        self.eps = eps
        self.axes = axes

    def const(self, value: float, /) -> int:
        return self.ir.constant(value)

    def run(self, name: str, args: tuple[int, ...], index: tuple[str, ...] | None) -> int:
        over = self.axes(index) if index else frozenset()
        return lower(self.ir, primitives.get(name), args, over, self.eps)

    def __getattr__(self, name: str, /) -> Callable[..., int]:
        if name.startswith("_"):
            raise AttributeError(name)
        if primitives.get(name).kind == "moment":
            return lambda a, index: self.run(name, (a,), index)
        return lambda *args: self.run(name, args, None)


def build(spec: LayerSpec, *, split_means: bool = True) -> Passes:
    """The two passes of a layer. ``split_means``: see ``IR``, for the backward pass.

    Values of the forward pass get the same ids whatever ``split_means`` is.

    Raises:
        UsageError, FormulaError: a graph that cannot be lowered; the message names the node and the formula.
    """
    graph, layout = spec.graph, get_layout(spec.layout)
    told = [layout.covered(layout.check(index)) for index in graph.index_sets]
    if spec.affine or graph.uses_batch or any(leaf in graph.leaves for leaf in PARAMETER_LEAVES):
        told.append(CHANNELS)
    axes = merge_axes(spec.layout, spec.memory, told)
    everywhere, channels = frozenset(axes.names), axes.of(CHANNELS)
    ir = IR(split_means=False)
    ops = _Ops(ir, lambda index: axes.of(layout.covered(index)), spec.eps)

    x = ir.leaf("x", everywhere)
    nodes, batch = _forward(spec, ops, x, channels)
    y = nodes[spec.graph.output]
    dy = ir.leaf("dy", everywhere)
    out, g = y, dy
    if spec.affine:
        weight, bias = (ir.leaf(name, channels) for name in AFFINE)
        out = ir.apply("add", ir.apply("mul", y, weight), bias)
        g = ir.apply("mul", dy, weight)
    ir.split_means = split_means
    adjoints = _adjoints(spec, ops, nodes, g)
    dx = adjoints.get("x", ir.constant(0.0))
    if spec.residual:
        dx = ir.apply("add", dx, ir.leaf("dsum", everywhere))
    totals = [Total(f"d{v}", adjoints[v], everywhere - channels) for v in PARAMETER_LEAVES if v in adjoints]
    if spec.affine:
        totals.append(Total("dweight", ir.apply("mul", dy, y), everywhere - channels))
        totals.append(Total("dbias", dy, everywhere - channels))
    backward = Program(ir, axes, {"dx": dx}, tuple(totals))
    computed = set(ir.reductions([out]))
    shared = [i for i in ir.reachable(backward.roots, stop=computed) if i in computed]
    if split_means:  # what is saved must not depend on how the backward pass is arranged
        shared = list(build(spec, split_means=False).known)
    saved = {f"saved{n}": i for n, i in enumerate(shared)}
    tensors = {"y": out, "sum": x} if spec.residual else {"y": out}
    return Passes(Program(ir, axes, tensors, (), saved | batch), backward, tuple(saved), tuple(batch))


def _forward(
    spec: LayerSpec, ops: _Ops, x: int, channels: frozenset[str]
) -> tuple[list[int], dict[str, int]]:
    """The value of every leaf and node of the graph, and those of the nodes over the batch by name.

    In evaluation a node over the batch is a leaf ``statistic<n>`` that varies over the channels that it does not
    reduce.
    """
    graph = spec.graph
    nodes: list[int] = []
    batch: dict[str, int] = {}
    for leaf in graph.leaves:
        value = literal(leaf)
        if leaf == "x":
            nodes.append(x)
        else:
            nodes.append(ops.ir.leaf(leaf, channels) if value is None else ops.ir.constant(value))
    statistics = 0
    for i, (op, args, index) in graph.operations():
        if index is not None and "b" in index:
            name = f"statistic{statistics}"
            statistics += 1
            if not spec.training:
                nodes.append(ops.ir.leaf(name, channels - ops.axes(index)))
                continue
            batch[name] = len(nodes)
        try:
            nodes.append(ops.run(op, tuple(nodes[a] for a in args), index))
        except EvonasError as error:
            raise _refused(error, spec, i) from None
    return nodes, {name: nodes[i] for name, i in batch.items()}


def _refused(error: EvonasError, spec: LayerSpec, i: int, what: str = "") -> EvonasError:
    """The same error, with the node that it is about, as a formula, and the layer's formula."""
    node = "" if i == spec.graph.output else f"{replace(spec.graph, output=i)} in "
    return type(error)(f"{what}{node}{spec.formula} cannot be lowered: {error.message}", hint=error.hint)


def _adjoints(spec: LayerSpec, ops: _Ops, nodes: list[int], g: int) -> dict[str, int]:
    """Expanded adjoints of x and the parameters (see ``Primitive.gradient``), by leaf."""
    graph, ir = spec.graph, ops.ir
    first = len(graph.leaves)
    adjoints: dict[int, int] = {graph.output: g}
    for i in range(graph.output, first - 1, -1):
        here = adjoints.pop(i, None)
        op, args, index = graph.nodes[i - first]
        if here is None or (not spec.training and index is not None and "b" in index):
            continue  # a running statistic has no gradient
        extra = (index,) if index is not None else ()
        try:
            parts = primitives.get(op).gradient(ops, here, nodes[i], *[nodes[a] for a in args], *extra)
        except EvonasError as error:
            raise _refused(error, spec, i, "the gradient of ") from None
        for a, part in zip(args, parts, strict=True):
            if a >= first or literal(graph.leaves[a]) is None:
                adjoints[a] = part if a not in adjoints else ir.apply("add", adjoints[a], part)
    return {graph.leaves[i]: adjoint for i, adjoint in adjoints.items()}
