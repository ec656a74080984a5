"""The text of ``kernel.py``: the generated kernels of a layer with what runs them, on torch and triton alone."""

from __future__ import annotations

import hashlib
import re

from evonas.errors import EvonasError
from evonas.export.forms import depends_on_x
from evonas.export.kernel_runtime import HEAD, RUNTIME
from evonas.export.layer_text import Source
from evonas.graph import Graph
from evonas.kernels.any_size import AnySizeKernel, AnySizeLayer, AnySizePass, any_size
from evonas.kernels.programs import LayerSpec
from evonas.kernels.text import helper_texts

_DIMS = {
    "nchw": """
def _dims(shape: Any, groups: int) -> dict[str, int]:
    return {"b": shape[0], "g": groups, "k": shape[1] // groups, "h": shape[2], "w": shape[3]}
""",
    "btc": """
def _dims(shape: Any, groups: int) -> dict[str, int]:
    return {"b": prod(shape[:-2]), "t": shape[-2], "g": groups, "k": shape[-1] // groups}
""",
}


def kernel_source(
    graph: Graph, source: Source, *, eps: float, version: str, affine: bool = True
) -> str | None:
    """The module of kernels, or None for a layer that has none: see ``why_no_kernels``."""
    return None if why_no_kernels(graph, source) else _text(graph.active(), source, eps, version, affine)


def why_no_kernels(graph: Graph, source: Source) -> str | None:
    """Why a layer has no kernels that fit a file; None if it has some."""
    graph = graph.active()
    live = depends_on_x(graph)
    if not live[graph.output] or any(n.index and not live[n.args[0]] for _, n in graph.operations()):
        return "a statistic or an output that does not depend on x"
    try:
        made = any_size(LayerSpec(str(graph), source.kernel_layout))
    except EvonasError as error:
        return error.message
    if not made.forward.kernels or not made.backward.kernels:
        return "statistics whose axes do not nest"
    return None


def _text(graph: Graph, source: Source, eps: float, version: str, affine: bool) -> str:
    formula = str(graph)
    batch = bool(source.program.statistics)
    layers = {True: any_size(LayerSpec(formula, source.kernel_layout, affine=affine, eps=eps))}
    if batch:
        layers[False] = any_size(
            LayerSpec(formula, source.kernel_layout, affine=affine, eps=eps, training=False)
        )
    kernels: list[str] = []
    tables: list[str] = []
    helpers: set[str] = set()
    for training, layer in layers.items():
        suffix = "" if training else "_evaluation"
        parts = []
        for backward, one in enumerate((layer.forward, layer.backward)):
            rows = []
            for kernel in one.kernels:
                helpers |= kernel.text.helpers
                name = kernel.text.name + suffix
                kernels.append(re.sub(r"\bdef \w+\(", f"def {name}(", kernel.text.text, count=1))
                rows.append(_row(kernel, name, bool(backward)))
            parts.append((rows, one))
        tables.append(_passes(training, layer, parts))
    layer = layers[True]
    axes = ", ".join(f'"{a}": {p!r}' for a, p in zip(layer.axes, layer.parts, strict=True))
    statistics = tuple((s.name, s.op) for s in source.program.statistics)
    constants = f"""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROCESSORS = torch.cuda.get_device_properties(0).multi_processor_count if torch.cuda.is_available() else 132
EPS = {eps!r}
AFFINE = {affine}
#: Digest and layout of the formula, as layer.py has them.
IDENTITY = "{source.identity}"
#: Axes of the kernels, outermost first, and the axes of the tensor that each one covers.
AXES = {{{axes}}}
CHANNELS = {layer.channels!r}
VECTORS = {layer.vectors!r}
#: Running averages, and the moments that they are averages of.
STATISTICS = {statistics!r}
"""
    body = (
        "".join(f"\n\n{text}" for text in helper_texts(helpers, "plain"))
        + "\n\n"
        + "\n\n".join(kernels)
        + constants
        + _DIMS[source.kernel_layout]
        + RUNTIME
        + _PASSES
        + "\n\nPASSES = {\n"
        + "".join(tables)
        + "}\n"
    )
    digest = hashlib.blake2b(body.encode(), digest_size=4).hexdigest()
    body = body.replace("\nEPS = ", f'\nNAMESPACE = "evonas_layer_{digest}"\nEPS = ', 1)
    return HEAD.format(version=version, formula=formula) + "\n" + body.lstrip("\n")


_PASSES = '''

class _Passes(NamedTuple):
    """Kernels of both passes, best first, and the axes of the buffers that they fill."""

    forward: tuple[_Kernel, ...]
    backward: tuple[_Kernel, ...]
    forward_buffers: dict[str, tuple[str, ...]]
    backward_buffers: dict[str, tuple[str, ...]]
    saved: tuple[str, ...]
    batch: tuple[str, ...]
'''


def _row(kernel: AnySizeKernel, name: str, backward: bool) -> str:
    fields = (
        kernel.tensors, kernel.text.numbers, kernel.tile, kernel.resident, kernel.swept, kernel.spread, kernel.loop,
        kernel.rows, kernel.row_axes, kernel.zeroed, kernel.heavy, kernel.filled, backward,
    )  # fmt: skip
    return f"            _Kernel({name}, {', '.join(map(repr, fields))}),\n"


def _passes(training: bool, layer: AnySizeLayer, parts: list[tuple[list[str], AnySizePass]]) -> str:
    (forward, first), (backward, second) = parts
    return (
        f"    {training}: _Passes(\n        (\n{''.join(forward)}        ),\n        (\n{''.join(backward)}        ),\n"
        f"        {first.buffers!r},\n        {second.buffers!r},\n        {layer.saved!r},\n"
        f"        {layer.batch!r},\n    ),\n"
    )
