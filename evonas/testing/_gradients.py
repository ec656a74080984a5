"""Checks of a primitive's gradient: the definition against finite differences, autograd and itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evonas import primitives
from evonas.graph import differentiate
from evonas.graph.execute import ArrayOps, forward, reduce_to_vector
from evonas.primitives import EPS
from evonas.testing._subject import Subject, difference

_STEP = 1e-6


def adjoints(subject: Subject) -> Iterator[str]:
    """One array per argument, of a shape that broadcasts to the full one."""
    for index in subject.indices:
        args = subject.arguments()
        parts = subject.gradient(subject.values(), *args, index=index)
        if len(parts) != len(args):
            yield f"the gradient of {subject.where(index)} gives {len(parts)} adjoint(s), needed are {len(args)}"
            return
        for i, part in enumerate(parts):
            if getattr(part, "ndim", None) != len(subject.shape):
                yield (
                    f"adjoint {i} of {subject.where(index)} is not made from g: multiply by it, ops.mul(g, ...)"
                )
            elif np.broadcast_shapes(part.shape, subject.shape) != subject.shape:
                yield (
                    f"adjoint {i} of {subject.where(index)} has shape {part.shape}, "
                    f"it must broadcast to {subject.shape}"
                )


def finite_differences(subject: Subject) -> Iterator[str]:
    """Central differences away from singular points, with the default epsilon and a large one."""
    for eps in (EPS, 1e-2):
        for index in subject.indices:
            args, g = subject.arguments(), subject.values()
            parts = subject.gradient(g, *args, index=index, eps=eps)
            for i, part in enumerate(parts):
                if index is None:
                    high, low = (_moved(args, i, step) for step in (_STEP, -_STEP))
                    wanted = g * (subject.numpy(*high, eps=eps) - subject.numpy(*low, eps=eps)) / (2 * _STEP)
                else:
                    wanted = _each_element(subject, args[0], g, index, eps)
                apart = difference(np.broadcast_to(part, subject.shape), wanted)
                if not apart <= 1e-5:
                    yield (
                        f"adjoint {i} of {subject.where(index)} differs by {apart:.1e} from central differences "
                        f"(eps={eps:g}), needed is at most 1e-05"
                    )
                    return


def _moved(args: tuple[np.ndarray, ...], i: int, step: float) -> list[np.ndarray]:
    return [a + step if j == i else a for j, a in enumerate(args)]


def _each_element(subject: Subject, a: np.ndarray, g: np.ndarray, index: Any, eps: float) -> np.ndarray:
    out = np.empty(a.size)
    for at in range(a.size):
        sides = []
        for step in (_STEP, -_STEP):
            moved = a.copy()
            moved.reshape(-1)[at] += step
            sides.append((g * subject.numpy(moved, index=index, eps=eps)).sum())
        out[at] = (sides[0] - sides[1]) / (2 * _STEP)
    return out.reshape(a.shape)


def autograd(subject: Subject) -> Iterator[str]:
    """torch's gradient of the eager function: full arguments, one value per channel, zeros and ties."""
    if subject.primitive.arity == 0:
        return
    full, zero = subject.arguments(), tuple(np.zeros(subject.shape) for _ in range(subject.primitive.arity))
    cases = [("", full), (" at zero", zero), (" at minus zero", tuple(-z for z in zero))]
    if subject.primitive.arity == 2:
        cases += [
            (" at a tie", (full[0], full[0])),
            (" with one value per channel", (full[0], subject.values(subject.vector))),
        ]
        cases += [(" with one value per channel", (subject.values(subject.vector), full[1]))]
    for words, args in cases:
        for index in subject.indices:
            g = subject.values()
            wanted = _torch_gradient(subject, g, args, index)
            for i, part in enumerate(subject.gradient(g, *args, index=index)):
                if args[i].shape == subject.vector:
                    part = reduce_to_vector(
                        np.broadcast_to(part, subject.shape), subject.shape, subject.layout
                    )
                apart = difference(np.broadcast_to(part, args[i].shape), wanted[i])
                if not apart <= 1e-9:
                    yield (
                        f"adjoint {i} of {subject.where(index)} differs by {apart:.1e} from torch autograd of its "
                        f"eager function{words}, needed is at most 1e-09"
                    )
                    return


def _torch_gradient(subject: Subject, g: np.ndarray, args: Any, index: Any) -> list[np.ndarray]:
    import torch

    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in args]
    y = subject.torch(*tensors, index=index)
    if not y.requires_grad:
        return [np.zeros(a.shape) for a in args]
    grads = torch.autograd.grad(
        (y.expand(subject.shape) * torch.from_numpy(g)).sum(),
        tensors,
        allow_unused=True,
        materialize_grads=True,
    )
    return [d.numpy() for d in grads]


def symbolic(subject: Subject) -> Iterator[str]:
    """The gradient as a graph of primitives gives what it gives on arrays."""
    arity = subject.primitive.arity
    if arity == 0:
        return
    ops = ArrayOps(primitives.numpy_namespace, subject.layout)
    leaves = {
        "x": subject.values(),
        "v0": subject.values(subject.vector),
        "v1": subject.values(subject.vector),
    }
    leaves["g"] = subject.values()
    for index in subject.indices:
        for names in {("x", "v1")[:arity], ("v0", "x")[-arity:]}:
            graph = subject.graph(names, index)
            parts = subject.gradient(leaves["g"], *[leaves[n] for n in names], index=index)
            try:
                graphs = differentiate(graph)
            except Exception as error:
                yield (
                    f"the gradient of {graph} cannot be written as a graph ({type(error).__name__}: {error}); "
                    f"it may use ops.<primitive>(...) and ops.const(...) alone"
                )
                return
            for name, part in zip(names, parts, strict=True):
                with np.errstate(all="ignore"):
                    value = forward(graphs[name], leaves, ops)[graphs[name].output]
                apart = difference(
                    np.broadcast_to(value, subject.shape), np.broadcast_to(part, subject.shape)
                )
                if not apart <= 1e-9:
                    yield (
                        f"the gradient of {graph} for {name} as a graph, {graphs[name]}, differs by {apart:.1e} from "
                        f"the same gradient on arrays; it may use ops.<primitive>(...) and ops.const(...) alone"
                    )
                    return


def finite(subject: Subject) -> Iterator[str]:
    """Wherever the value is finite, so are both gradients."""
    for args in subject.singular() if subject.primitive.arity else ():
        for index in subject.indices:
            shape = np.broadcast_shapes(*(a.shape for a in args))
            y = np.broadcast_to(subject.numpy(*args, index=index), shape)
            g = np.ones(shape)
            both = {
                "definition": subject.gradient(g, *args, index=index),
                "torch autograd": _autograd_at(subject, args, index),
            }
            for which, parts in both.items():
                for i, part in enumerate(parts):
                    bad = np.isfinite(y) & ~np.isfinite(np.broadcast_to(part, shape))
                    if bad.any():
                        at = ", ".join(f"{np.broadcast_to(a, shape)[bad][0]:g}" for a in args)
                        yield (
                            f"adjoint {i} of {subject.where(index)} is {np.broadcast_to(part, shape)[bad][0]} at "
                            f"({at}) by its {which}; it must be finite wherever the value is"
                        )
                        return


def _autograd_at(subject: Subject, args: Any, index: Any) -> list[np.ndarray]:
    import torch

    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in args]
    y = subject.torch(*tensors, index=index)
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    if not y.requires_grad:
        return [np.zeros(a.shape) for a in args]
    grads = torch.autograd.grad(y.expand(shape).sum(), tensors, allow_unused=True, materialize_grads=True)
    return [d.numpy() for d in grads]


def double_backward(subject: Subject) -> Iterator[str]:
    """The stability test of the search differentiates gradient norms: that needs finite second derivatives."""
    import torch

    arity = subject.primitive.arity
    for args in (subject.arguments(), tuple(np.zeros(subject.shape) for _ in range(arity))) if arity else ():
        for index in subject.indices:
            tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in args]
            y = subject.torch(*tensors, index=index)
            g = torch.from_numpy(subject.values()).requires_grad_()
            if not y.requires_grad:
                continue
            first = torch.autograd.grad(
                (y.expand(subject.shape) * g).sum(),
                tensors,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            norm = torch.stack([d.square().sum() for d in first]).sum()
            if not norm.requires_grad:  # a gradient of zero everywhere, as of a step
                continue
            second = torch.autograd.grad(norm, [*tensors, g], allow_unused=True, materialize_grads=True)
            if not all(bool(torch.isfinite(d).all()) for d in second):
                yield f"second derivatives of {subject.where(index)} through torch are not finite"
                return
