"""Holds a primitive's Triton expression against its eager function, in float32."""

from __future__ import annotations

import os

import numpy as np

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.primitives import Primitive
from evonas.testing._subject import Subject, difference

_TOLERANCE = 1e-5


def triton_violations(primitive: Primitive) -> list[str]:
    """How the Triton expression differs from the eager function; empty if it does not or if there is none.

    Runs a real kernel on a CUDA device, or on the CPU if ``TRITON_INTERPRET=1`` was set before triton was
    imported. The primitive must be registered. Moments are left to the lowering that expands them.

    Raises:
        EnvironmentUnusable: neither a CUDA device nor the interpreter.
    """
    import torch

    from evonas.kernels.operator import encode, layer_forward
    from evonas.kernels.programs import LayerSpec

    if primitive.triton is None or primitive.kind != "elementwise":
        return []
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        raise EnvironmentUnusable(
            "no CUDA device to run Triton kernels on",
            hint="set TRITON_INTERPRET=1 to interpret them on the CPU",
        )
    device = "cpu" if interpreted else "cuda"
    subject = Subject(primitive)
    names = ("x", "v1")[: primitive.arity]
    found = []
    # arguments beyond the first are given as the vector of a layer with one pixel
    spec = LayerSpec(str(subject.graph(names)), affine=False)
    for args in (subject.arguments(), *subject.singular()):
        tensors = [torch.from_numpy(a.astype(np.float32)) for a in args]
        wanted = subject.torch(*tensors)
        shape = tensors[0].shape
        flat = [t.broadcast_to(shape).reshape(-1).to(device) for t in tensors]
        try:
            y = layer_forward(flat[0].view(1, -1, 1, 1), None, flat[1:], [], encode(spec), 1)[0]
        except UsageError as error:
            return [error.message]
        got = y.reshape(shape).cpu()
        apart = difference(got.numpy(), wanted.numpy())
        if not apart <= _TOLERANCE:
            found.append(
                f"triton={primitive.triton!r} differs by {apart:.1e} from the eager function in float32, "
                f"needed is at most {_TOLERANCE:.0e}"
            )
    return found
