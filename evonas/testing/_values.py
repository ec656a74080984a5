"""Checks of what a primitive's eager function returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evonas.testing._subject import Subject, difference, explain


def shapes_and_types(subject: Subject) -> Iterator[str]:
    """On numpy and on torch: runs, keeps the dtype, follows the shape rule."""
    import torch

    p = subject.primitive
    if p.kind == "constant":
        value = p.eager(None)
        if not isinstance(value, float) or not np.isfinite(value):
            yield f"the constant is {value!r}, needed is a finite float"
        return
    for library, convert, run in (
        ("numpy", np.asarray, subject.numpy),
        ("torch", lambda a: torch.from_numpy(a).requires_grad_(), subject.torch),
    ):
        for dtype in (np.float64, np.float32):
            for shapes in subject.shapes():
                for index in subject.indices:
                    arrays = [convert(subject.values(s).astype(dtype)) for s in shapes]
                    try:
                        y = run(*arrays, index=index)
                    except Exception as error:
                        yield f"{subject.where(index)} fails on {library} arrays of shapes {shapes}: {explain(error)}"
                        return
                    wrong = _wrong_result(y, arrays[0], _expected(subject, shapes, index), dtype)
                    if wrong:
                        yield f"{subject.where(index)} on {library} arrays of shapes {shapes} {wrong}"
                        return


def _expected(subject: Subject, shapes: tuple[tuple[int, ...], ...], index: Any) -> tuple[int, ...]:
    if index is None:
        return tuple(np.broadcast_shapes(*shapes))
    reduced = subject.layout.positions(index)[1 if subject.primitive.causal else 0 :]
    return tuple(1 if p in reduced else n for p, n in enumerate(shapes[0]))


def _wrong_result(y: Any, like: Any, shape: tuple[int, ...], dtype: Any) -> str | None:
    if type(y) is not type(like):
        return f"gives a {type(y).__name__}, needed is a {type(like).__name__}"
    if tuple(y.shape) != shape:
        return f"gives shape {tuple(y.shape)}, needed is {shape}"
    given = str(y.dtype).removeprefix("torch.")
    if given != np.dtype(dtype).name:
        return f"turns {np.dtype(dtype).name} into {given}, needed is the same dtype"
    return None


def numpy_equals_torch(subject: Subject) -> Iterator[str]:
    """Same values, also at singular points, to 1e-11 in float64 and 2e-5 in float32."""
    import torch

    if subject.primitive.arity == 0:
        return
    for args in (subject.arguments(), *subject.singular()):
        for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-5)):
            for index in subject.indices:
                cast = [a.astype(dtype) for a in args]
                a = subject.numpy(*cast, index=index)
                b = subject.torch(*[torch.from_numpy(c) for c in cast], index=index).numpy()
                apart = difference(a, b)
                if not apart <= tolerance:
                    yield (
                        f"{subject.where(index)} differs by {apart:.1e} between numpy and torch in "
                        f"{np.dtype(dtype).name}, needed is at most {tolerance:.0e}"
                    )
                    return


def pure_and_deterministic(subject: Subject) -> Iterator[str]:
    """Two calls, one result, and the arguments are as before."""
    import torch

    if subject.primitive.arity == 0:
        return
    for index in subject.indices:
        args = subject.arguments()
        given = [a.copy() for a in args]
        tensors = [torch.from_numpy(a.copy()) for a in args]
        first, first_torch = subject.numpy(*given, index=index), subject.torch(*tensors, index=index)
        first, first_torch = np.array(first), first_torch.clone()
        if any(not np.array_equal(a, b) for a, b in zip(args, given, strict=True)) or any(
            not np.array_equal(a, b.numpy()) for a, b in zip(args, tensors, strict=True)
        ):
            yield f"{subject.where(index)} writes to its arguments; they belong to the caller"
            return
        if not np.array_equal(first, subject.numpy(*given, index=index)) or not torch.equal(
            first_torch, subject.torch(*tensors, index=index)
        ):
            yield f"{subject.where(index)} gives two results for the same arguments; randomness has no place in it"


def defined_everywhere(subject: Subject) -> Iterator[str]:
    """Finite arguments never give NaN, and infinity only for large ones."""
    if subject.primitive.arity == 0:
        return
    for args in (subject.arguments(), *subject.singular()):
        for index in subject.indices:
            y = np.broadcast_to(
                subject.numpy(*args, index=index), np.broadcast_shapes(*(a.shape for a in args))
            )
            large = np.broadcast_to(np.max(np.abs(np.broadcast_arrays(*args)), axis=0) > 100, y.shape)
            bad = np.isnan(y) | (np.isinf(y) & ~large)
            if bad.any():
                yield (
                    f"{subject.where(index)} gives {y[bad][0]} at {_point(args, bad)}; "
                    f"every finite argument needs a value: guard the singular point and say how in singular="
                )
                return


def commutative(subject: Subject) -> Iterator[str]:
    """f(a, b) = f(b, a) where that is claimed."""
    if not subject.primitive.commutative:
        return
    for a, b in (subject.arguments(), *subject.singular()):
        if difference(subject.numpy(a, b), subject.numpy(b, a)) > 1e-12:
            yield f"{subject.primitive.name}(a, b) differs from {subject.primitive.name}(b, a): drop commutative=True"
            return


def _point(args: tuple[np.ndarray, ...], bad: np.ndarray) -> str:
    values = [np.broadcast_to(a, bad.shape)[bad][0] for a in args]
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
