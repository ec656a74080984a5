"""Forward kernels of element-wise graphs: one load per input, one statement per node, one store.

Operands of every expression are float32 blocks, constants included, so that an expression means in a kernel what
it means on its own. Under ``TRITON_INTERPRET=1`` (set before triton is imported) kernels run on the CPU.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.primitives import EPS

from evonas import primitives
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph.graph import Graph, literal

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024


def elementwise_source(graph: Graph, eps: float = EPS) -> str:
    """Python source of a module with one Triton kernel, ``kernel(y, <leaves>, n, BLOCK)``.

    Raises:
        UsageError: a moment in the active graph, or a primitive without a Triton expression.
    """
    graph = graph.active()
    names = [f"v{i}" for i in range(len(graph.leaves) + len(graph))]
    pointers = [f"p{i}" for i, leaf in enumerate(graph.leaves) if literal(leaf) is None]
    body = []
    for i, leaf in enumerate(graph.leaves):
        value = literal(leaf)
        source = (
            f"tl.load(p{i} + at, mask=live, other=1.0)"
            if value is None
            else f"tl.full((BLOCK,), {value!r}, tl.float32)"
        )
        body.append(f"{names[i]} = {source}  # {leaf}")
    for i, (op, args, index) in graph.operations():
        primitive = primitives.get(op)
        if index is not None or primitive.triton is None:
            why = "a moment" if index is not None else "a primitive without a Triton expression"
            raise UsageError(
                f"{op} in {graph} is {why}: it has no element-wise kernel", hint="use backend='eager'"
            )
        body.append(
            f"{names[i]} = {primitive.triton.format(*[names[a] for a in args], eps=repr(eps))}  # {op}"
        )
    lines = "\n    ".join(body)
    return (
        f'"""Generated: {graph}."""\n\n'
        "import triton\nimport triton.language as tl\n\n\n"
        "@triton.jit\n"
        f"def kernel({', '.join(['y', *pointers, 'n', 'BLOCK: tl.constexpr'])}):\n"
        "    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        "    live = at < n\n"
        f"    {lines}\n"
        f"    tl.store(y + at, {names[graph.output]}, mask=live)\n"
    )


def compile_elementwise(graph: Graph, folder: str | Path, eps: float = EPS) -> Callable[..., Tensor]:
    """A function from leaf tensors to the output of an element-wise graph.

    Args:
        graph: no moments; at least one of x, v0, v1 as a leaf.
        folder: where the source goes; triton reads it from a file, which must stay as long as the function is used.
        eps: of guarded primitives.

    Returns:
        ``f(**leaves)``: float32 contiguous tensors of one shape, by leaf name, on one device; float32 result.

    Raises:
        UsageError: see ``elementwise_source``.
        EnvironmentUnusable: triton is not installed.
    """
    source = elementwise_source(graph, eps)
    name = f"evonas_elementwise_{hashlib.blake2b(source.encode(), digest_size=8).hexdigest()}"
    path = Path(folder) / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise EnvironmentUnusable(f"{error}", hint="pip install triton, or use backend='eager'") from None
    leaves = [leaf for leaf in graph.active().leaves if literal(leaf) is None]

    def run(**given: Any) -> Tensor:
        import torch

        inputs = [given[leaf] for leaf in leaves]
        y = torch.empty_like(inputs[0])
        blocks = -(-y.numel() // BLOCK)
        module.kernel[(blocks,)](y, *inputs, y.numel(), BLOCK=BLOCK)
        return y

    return run
