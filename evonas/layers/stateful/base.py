"""Base class of layers with state: shapes, precision, buffers and affine; a subclass writes the two forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

try:  # torch.compiler.disable, for which the compiler is imported with the first call alone, as optimisers have it
    from torch._compile import _disable_dynamo as outside_of_graphs
except ImportError:
    from torch.compiler import disable as outside_of_graphs  # type: ignore[no-redef]

from evonas.errors import UsageError
from evonas.graph.layout import get_layout
from evonas.kernels.casting import uncast
from evonas.layers.stateful.contract import StateContract

_SHAPES = {"nchw": "(batch, channels, height, width)", "btc": "(batch, tokens, channels)"}
_HALF = (torch.float16, torch.bfloat16)


class StatefulLayer(nn.Module):
    """A layer whose training, evaluation and gradient are declared one by one in ``contract``.

    Input and output have the same shape and dtype: (B, T, C) for layout "btc", (B, C, H, W) for "nchw". A subclass
    sees neither: its forms take ``x`` as (B, N, C), N tokens or positions, in float32 or float64, and return the same
    shape. Half precision is computed in float32, outside of autocast. Buffers are those that the contract declares;
    floating ones are float32, also in a module that is cast to half precision, and float64 after ``.double()``. With
    ``affine`` there are ``weight`` (init 1) and ``bias`` (init 0) of shape (C,).

    To write one: ``contract``, ``train_form`` and either ``eval_affine`` alone (evaluation is affine per channel) or
    ``eval_form`` too. ``evonas.testing.StatefulContract`` is the test suite.

    Args:
        channels: C. layout: "btc" or "nchw". eps: of the roots. affine: whether there are weight and bias.
        sizes: values of the names that the contract's shapes use, except C.

    Raises:
        UsageError: an unknown layout, no channels, or an input or mask of the wrong shape.
    """

    contract: ClassVar[StateContract]
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        layout: str = "btc",
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise UsageError(f"channels={channels}, it must be at least 1")
        self.channels = channels
        self.layout = get_layout(layout)
        self.eps = eps
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_parameter("weight", nn.Parameter(torch.ones(channels, **factory)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels, **factory)) if affine else None)
        known = {"C": channels, **(sizes or {})}
        for buffer in self.contract.buffers:
            shape = [known[s] if isinstance(s, str) else s for s in buffer.shape]
            kind = torch.int64 if buffer.counter else torch.float32
            self.register_buffer(buffer.name, torch.full(shape, buffer.initial, dtype=kind, device=device))

    def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """y from x (B, N, C) in training, affine included; updates buffers under ``torch.no_grad``.

        kept: (B, N, 1) of x's dtype, 0 where there is padding and 1 elsewhere; None without a mask.
        """
        raise NotImplementedError(f"{type(self).__name__}.train_form")

    def eval_affine(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (C,), affine included, of the map that evaluation ends with; None if it ends otherwise."""
        return None

    def eval_rest(self) -> nn.Module | None:
        """What evaluation does before ``eval_affine``, as a module for the layer's layout; None if nothing."""
        return None

    def eval_form(self, x: Tensor) -> Tensor:
        """y from x (B, N, C) in evaluation, from the buffers alone."""
        affine = self.eval_affine()
        if affine is None:
            raise NotImplementedError(f"{type(self).__name__} has neither eval_form nor eval_affine")
        scale, shift = affine
        return x * scale.to(x.dtype) + shift.to(x.dtype)

    def with_affine(self, z: Tensor, weight: Tensor | None = None) -> Tensor:
        """``weight * z + bias`` as far as the layer has them; ``weight`` in place of its own."""
        weight = self.weight if weight is None else weight
        if weight is not None:
            z = z * weight.to(z.dtype)
        return z if self.bias is None else z + self.bias.to(z.dtype)

    def folded(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``scale`` (C,) followed by the affine, as scale and shift, in the dtype of ``scale``."""
        weight = torch.ones_like(scale) if self.weight is None else self.weight.to(scale.dtype)
        return scale * weight, torch.zeros_like(scale) if self.bias is None else self.bias.to(scale.dtype)

    @overload
    def forward(self, x: Tensor, residual: None = None, *, mask: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, residual: Tensor, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The layer on x; with a residual, the pair (layer on x + residual, x + residual).

        mask: bool, True where there is padding: (B, T), or (B, H, W) for "nchw". Padding takes no part in statistics.
        """
        self._check(x, residual, mask)
        total = None if residual is None else x + residual
        source = x if total is None else total
        with uncast(x):
            rows = self._rows(source.float() if source.dtype in _HALF else source)
            if self.training:
                kept = None if mask is None else (~mask).reshape(rows.shape[0], -1, 1).to(rows.dtype)
                y = self._step(rows, kept)
            else:
                y = self.eval_form(rows)
            y = y.to(source.dtype)
        y = y if self.layout.name == "btc" else y.transpose(1, 2).reshape(source.shape)
        return y if total is None else (y, total)

    @outside_of_graphs
    def _step(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """``train_form``. A compiled graph would lose what a backward pass writes to buffers, and would compute
        gradients from buffers as they are after the step."""
        return self.train_form(x, kept)

    def _rows(self, x: Tensor) -> Tensor:
        return x if self.layout.name == "btc" else x.flatten(2).transpose(1, 2)

    def _check(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> None:
        at = 1 if self.layout.name == "nchw" else -1
        if x.dim() != len(self.layout.dims) - 1 or x.shape[at] != self.channels:
            raise UsageError(
                f"input of shape {tuple(x.shape)}, a {self.layout.name} layer of {self.channels} channels needs "
                f"{_SHAPES[self.layout.name]} with {self.channels} channels"
            )
        if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
            raise UsageError(
                f"residual is {tuple(residual.shape)} in {residual.dtype}, x is {tuple(x.shape)} in {x.dtype}: "
                f"they have to be alike"
            )
        needed = x.shape[:2] if self.layout.name == "btc" else (x.shape[0], *x.shape[2:])
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != tuple(needed)):
            raise UsageError(
                f"mask is {tuple(mask.shape)} in {mask.dtype}, needed is bool of shape {tuple(needed)}, True where "
                f"there is padding"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StatefulLayer:
        """Moves and casts as usual, but never below float32: squares overflow in half precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, kept in before.items():
            now = self._buffers[name]
            if now is not None and kept is not None and now.dtype in _HALF:
                self._buffers[name] = kept.to(now.device)
        return self

    def extra_repr(self) -> str:
        return f"channels={self.channels}, layout={self.layout.name!r}, eps={self.eps:g}"
