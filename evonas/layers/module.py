"""Graph -> ``nn.Module``: the eager reference of a layer.

The module runs the graph node by node with the primitives' own eager functions, so it is the definition that
exports and kernels are held against.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from evonas import primitives
from evonas.errors import UsageError
from evonas.graph.cost import resolve_groups
from evonas.graph.execute import ArrayOps
from evonas.graph.graph import INITIAL, PARAMETER_LEAVES, SCALAR_LEAVES, Graph, literal
from evonas.graph.layout import get_layout
from evonas.kernels.casting import uncast
from evonas.layers.stateful.base import StatefulLayer
from evonas.layers.stateful.contract import StateContract
from evonas.layers.stateful.of_graph import graph_contract
from evonas.layers.statistics import BatchStatistic

_SHAPES = {"nchw": "(batch, channels, height, width)", "btc": "(batch, tokens, channels)"}


class GraphLayer(nn.Module):
    """A normalization-activation layer for a fixed number of channels.

    Input and output have the same shape and dtype: (B, C, H, W) for layout "nchw", (B, T, C) for "btc", any
    floating dtype. The graph itself is computed in float32 when the input is float16 or bfloat16 (in float64
    for float64 input), and the result is cast back: squares and sums over a feature map overflow or lose too
    much in half precision. Parameters: ``v0`` (init 0) and ``v1`` (init 1) of shape (C,) and ``s0`` (init 0) and
    ``s1`` (init 1) of shape (1,), as far as the graph uses them, and with ``affine`` a per-channel ``weight`` (init
    1) and ``bias`` (init 0), (C,), after the graph (Liu et al. 2020, section 3).

    Every node with the batch axis in its index set keeps a running average of its moment for evaluation, in
    a submodule ``statistics.<n>``, n counting such nodes in graph order.

    Args:
        graph: the layer; only its active part is used.
        channels: C.
        layout: "nchw" or "btc".
        groups: number of groups for index sets with c/g; the largest count up to it that divides C is taken
            (the rule of the released EvoNorm code).
        group_size: channels per group instead; must divide C.
        eps: of moments and guarded primitives.
        momentum: weight of the new batch in a running average (0.1: 0.9 of the old one is kept).
        affine: whether to apply weight and bias.

    Raises:
        UsageError: a layout that does not have an axis of the graph, a group size that does not divide C, or
            an input of the wrong shape.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        graph: Graph,
        channels: int,
        *,
        layout: str = "nchw",
        groups: int = 32,
        group_size: int | None = None,
        eps: float = primitives.EPS,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        graph = graph.active()
        if channels < 1:
            raise UsageError(f"channels={channels}, it must be at least 1")
        if group_size is not None and (group_size < 1 or channels % group_size):
            raise UsageError(
                f"group_size={group_size} does not divide {channels} channels",
                hint="use a divisor, or groups=",
            )
        self.graph = graph
        self.channels = channels
        self.layout = get_layout(layout)
        self.groups = channels // group_size if group_size else resolve_groups(channels, groups)
        self.eps = eps
        self.momentum = momentum
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        for name, value in INITIAL.items():
            used, size = name in graph.leaves, 1 if name in SCALAR_LEAVES else channels
            self.register_parameter(
                name, nn.Parameter(torch.full((size,), value, **factory)) if used else None
            )
        self.register_parameter("weight", nn.Parameter(torch.ones(channels, **factory)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels, **factory)) if affine else None)
        self._formula = str(graph)
        k = channels // self.groups
        sizes = dict(zip(self.layout.channel_dims, (self.groups, k), strict=True))
        self._vector_shape = tuple(sizes.get(p, 1) for p in range(len(self.layout.dims)))
        self.statistics = nn.ModuleList()
        for _, node in graph.operations():
            if node.index is not None and "b" in node.index:
                reduced = self.layout.positions(self.layout.check(node.index))
                shape = tuple(1 if p in reduced else n for p, n in enumerate(self._vector_shape))
                self.statistics.append(
                    BatchStatistic(node.op, node.index, self.layout, shape, eps, momentum, device=device)
                )
        self._compile()

    def _compile(self) -> None:
        """Bind the graph's operations to eager functions; not part of the state."""
        ops = ArrayOps(primitives.torch_namespace(), self.layout, eps=self.eps)
        self._constants = [literal(leaf) for leaf in self.graph.leaves]
        self._program: list[_Step] = []
        #: by position: causal moments one token at a time
        self._causal: dict[int, Callable[..., tuple[Tensor, tuple[Tensor, ...]]]] = {}
        batch = 0
        for _, (op, args, index) in self.graph.operations():
            if index is not None and "b" in index:
                self._program.append((batch, None, args))
                batch += 1
            else:
                one = primitives.get(op)
                if one.step is not None and index is not None:
                    self._causal[len(self._program)] = partial(_one_step, one.step, ops.axes(index), self.eps)
                self._program.append((-1, ops.function(op, index), args))

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        del state["_program"], state["_causal"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self._compile()

    @overload
    def forward(self, x: Tensor, residual: None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The layer on x; with a residual, the pair (layer on x + residual, x + residual)."""
        channels_at = 1 if self.layout.name == "nchw" else -1
        if x.dim() != len(self.layout.dims) - 1 or x.shape[channels_at] != self.channels:
            raise UsageError(
                f"input of shape {tuple(x.shape)}, a {self.layout.name} layer of {self.channels} channels needs "
                f"{_SHAPES[self.layout.name]} with {self.channels} channels"
            )
        if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
            raise UsageError(
                f"residual is {tuple(residual.shape)} in {residual.dtype}, x is {tuple(x.shape)} in {x.dtype}: "
                f"they have to be alike"
            )
        y, total = self._run(x, residual)
        return y if total is None else (y, total)

    def _run(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The layer's output, and the sum if there is a residual."""
        total = None if residual is None else x + residual
        # autocast must not send single nodes of the graph to half precision
        with uncast(x):
            return self._eager(x if total is None else total), total

    def step(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """One token, for recurrent decoding: the layer on the tokens so far, at the last one.

        Args:
            x: (B, C), the token. state: what the step before it returned; None before the first token.

        Returns:
            the output, (B, C), and the state: per causal moment, in graph order, a tuple of tensors of one token's
            size, whatever the number of tokens. A layer without causal moments has an empty state.

        Raises:
            UsageError: layout "nchw", a moment over tokens that is not causal, or statistics of the batch in training.
        """
        self._check_step(x)
        with uncast(x):
            after: LayerState = []
            y = self._eager(x[:, None, :], (state, after))
        return y[:, 0], after

    def _check_step(self, x: Tensor) -> None:
        if self.layout.name != "btc":
            raise UsageError(
                f"a {self.layout.name} layer has no tokens to step over", hint="make it with layout='btc'"
            )
        if x.dim() != 2 or x.shape[1] != self.channels:
            raise UsageError(f"a token of shape {tuple(x.shape)}, needed is (batch, {self.channels})")
        for _, (op, _, index) in self.graph.operations():
            primitive = primitives.get(op)
            if index is None or "t" not in index or (primitive.causal and primitive.step is not None):
                continue
            if "b" in index and not self.training:  # a running average
                continue
            where = "in training mode" if "b" in index else "token by token"
            raise UsageError(
                f"{op}[{','.join(index)}] of {self._formula} cannot run {where}",
                hint="call eval() first" if "b" in index else "use cmean, crms or cstd over t",
            )

    def _eager(self, x: Tensor, states: tuple[LayerState | None, LayerState] | None = None) -> Tensor:
        """The graph node by node. states: of causal moments before this token, and a list for those after it."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        split = self._split(wide)
        vector = self._vector_shape
        values: list[Tensor] = []
        for leaf, constant in zip(self.graph.leaves, self._constants, strict=True):
            if leaf == "x":
                values.append(split)
            elif constant is None:
                parameter = getattr(self, leaf).to(wide.dtype)
                values.append(parameter.view((1,) * split.dim() if leaf in SCALAR_LEAVES else vector))
            else:
                values.append(wide.new_full((1,) * split.dim(), constant))
        for i, (slot, function, args) in enumerate(self._program):
            if slot >= 0:
                values.append(self.statistics[slot](values[args[0]]))
            elif states is not None and i in self._causal:
                before, after = states
                value, state = self._causal[i](values[args[0]], before[len(after)] if before else None)
                values.append(value)
                after.append(state)
            else:
                assert function is not None
                values.append(function(*[values[a] for a in args]))
        y = values[self.graph.output]
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.to(wide.dtype).view(vector) + self.bias.to(wide.dtype).view(vector)
        return y.expand(split.shape).reshape(x.shape).to(x.dtype)

    def _split(self, x: Tensor) -> Tensor:
        k = self.channels // self.groups
        if self.layout.name == "nchw":
            b, _, h, w = x.shape
            return x.reshape(b, self.groups, k, h, w)
        return x.reshape(*x.shape[:2], self.groups, k)

    def per_channel(self, name: str) -> Tensor:
        """A parameter as kernels take it, (C,): s0 and s1 expanded, so that autograd sums their gradient."""
        parameter: Tensor = getattr(self, name)
        return parameter.expand(self.channels).contiguous() if name in SCALAR_LEAVES else parameter

    @property
    def formula(self) -> str:
        """The layer as a formula."""
        return self._formula

    @property
    def contract(self) -> StateContract | None:
        """Running statistics as a contract; None without a moment over the batch."""
        return graph_contract(self.graph, self.layout.name)

    def extra_repr(self) -> str:
        return (
            f"{self.formula!r}, channels={self.channels}, groups={self.groups}, layout={self.layout.name!r}"
        )


#: Of causal moments, in graph order.
LayerState = list[tuple[Tensor, ...]]


def _one_step(
    step: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    axes: tuple[int, ...],
    eps: float,
    a: Tensor,
    state: tuple[Tensor, ...] | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    return step(primitives.torch_namespace(), a, axes, state, eps)


_Step = tuple[int, Callable[..., Tensor] | None, tuple[int, ...]]


def vector_parameters(module: nn.Module) -> list[nn.Parameter]:
    """v0, v1, s0, s1, weight and bias of every layer in a module: the parameters that weight decay leaves out."""
    return [
        p
        for m in module.modules()
        if isinstance(m, GraphLayer | StatefulLayer)
        for name in (*PARAMETER_LEAVES, "weight", "bias")
        if (p := getattr(m, name, None)) is not None
    ]
