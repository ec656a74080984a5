"""The few array functions that primitives are written in, once for numpy and once for torch.

A primitive's ``eager`` receives one of the two as ``xp``; operators (+, -, *, /) are used directly. Both
namespaces promise the same values, and in torch every function is twice differentiable wherever the
primitive is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = Any


class Namespace(Protocol):
    """What ``xp`` offers: the array-API names plus ``sigmoid``, ``erf``, and for causal moments ``counts`` (1, 2, ...
    along an axis, of size one along all others) and ``reverse_cumsum`` (sums from the other end)."""

    def abs(self, a: Array, /) -> Array: ...
    def at_least(self, a: Array, low: float, /) -> Array: ...
    def counts(self, a: Array, axis: int, /) -> Array: ...
    def cumsum(self, a: Array, axis: int, /) -> Array: ...
    def copysign(self, magnitude: Array, sign: Array, /) -> Array: ...
    def erf(self, a: Array, /) -> Array: ...
    def exp(self, a: Array, /) -> Array: ...
    def log(self, a: Array, /) -> Array: ...
    def maximum(self, a: Array, b: Array, /) -> Array: ...
    def mean(self, a: Array, axes: Sequence[int], /) -> Array: ...
    def minimum(self, a: Array, b: Array, /) -> Array: ...
    def reverse_cumsum(self, a: Array, axis: int, /) -> Array: ...
    def sigmoid(self, a: Array, /) -> Array: ...
    def sign(self, a: Array, /) -> Array: ...
    def sqrt(self, a: Array, /) -> Array: ...
    def tanh(self, a: Array, /) -> Array: ...
    def where(self, condition: Array, a: Array, b: Array, /) -> Array: ...


_erf = np.frompyfunc(math.erf, 1, 1)


class NumpyNamespace:
    """numpy; ``mean`` keeps the reduced axes with size one."""

    abs = staticmethod(np.abs)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    sign = staticmethod(np.sign)
    sqrt = staticmethod(np.sqrt)
    tanh = staticmethod(np.tanh)
    where = staticmethod(np.where)
    at_least = staticmethod(np.maximum)
    copysign = staticmethod(np.copysign)

    @staticmethod
    def sigmoid(a: Array) -> Array:
        return 0.5 * np.tanh(0.5 * a) + 0.5

    @staticmethod
    def erf(a: Array) -> Array:
        a = np.asarray(a)
        return np.asarray(_erf(a)).astype(a.dtype if a.dtype.kind == "f" else float)

    @staticmethod
    def cumsum(a: Array, axis: int) -> Array:
        return np.add.accumulate(a, axis=axis)

    @staticmethod
    def reverse_cumsum(a: Array, axis: int) -> Array:
        return np.flip(np.add.accumulate(np.flip(a, axis), axis=axis), axis)

    @staticmethod
    def counts(a: Array, axis: int) -> Array:
        shape = [1] * a.ndim
        shape[axis] = a.shape[axis]
        return np.arange(1, a.shape[axis] + 1, dtype=a.dtype).reshape(shape)

    @staticmethod
    def mean(a: Array, axes: Sequence[int]) -> Array:
        shape = a.shape
        count = 1
        for axis in axes:
            count *= shape[axis]
        if count == 1:
            return a
        return np.add.reduce(a, axis=tuple(axes), keepdims=True) * (1.0 / count)


class TorchNamespace:
    """torch; built on first use, so that importing this module does not import torch."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.abs = torch.abs
        self.exp = torch.exp
        self.log = torch.log
        self.maximum = torch.maximum
        self.minimum = torch.minimum
        self.sign = torch.sign
        self.sqrt = torch.sqrt
        self.tanh = torch.tanh
        self.where = torch.where
        self.at_least = torch.clamp_min
        self.copysign = torch.copysign
        self.sigmoid = torch.sigmoid
        self.erf = torch.erf

    def cumsum(self, a: Array, axis: int) -> Array:
        return self._torch.cumsum(a, axis)

    def reverse_cumsum(self, a: Array, axis: int) -> Array:
        return self._torch.flip(self._torch.cumsum(self._torch.flip(a, (axis,)), axis), (axis,))

    def counts(self, a: Array, axis: int) -> Array:
        shape = [1] * a.dim()
        shape[axis] = a.shape[axis]
        return self._torch.arange(1, a.shape[axis] + 1, dtype=a.dtype, device=a.device).view(shape)

    def mean(self, a: Array, axes: Sequence[int]) -> Array:
        return self._torch.mean(a, dim=tuple(axes), keepdim=True)


numpy_namespace = NumpyNamespace()
_torch_namespace: TorchNamespace | None = None


def torch_namespace() -> TorchNamespace:
    """The torch namespace of this process."""
    global _torch_namespace
    if _torch_namespace is None:
        _torch_namespace = TorchNamespace()
    return _torch_namespace
