"""The layer as a graph for other programs: ONNX and ``torch.export``, each checked against the module."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from evonas.errors import EnvironmentUnusable, UsageError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import nn

#: What --to takes -> file.
FORMATS = {"onnx": "layer.onnx", "torch_export": "layer.pt2"}
_CLOSE = 1e-4


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The names themselves.

    Raises:
        UsageError: one that is not known. EnvironmentUnusable: a package that it needs is missing.
    """
    for name in names:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    if "onnx" in names:
        missing = [m for m in ("onnx", "onnxscript") if importlib.util.find_spec(m) is None]
        if missing:
            raise EnvironmentUnusable(
                f"--to onnx needs {' and '.join(missing)}",
                hint=f"pip install {' '.join(missing)} onnxruntime",
            )
    return tuple(dict.fromkeys(names))


def write_format(name: str, module: nn.Module, x: torch.Tensor, path: Path) -> str:
    """Write the module in evaluation, for any batch size, and check it on x; returns how it was checked.

    Raises:
        UsageError: the graph cannot be written, or what was written computes something else.
    """
    import torch

    module = module.eval()
    batch = torch.export.Dim("batch", min=1, max=65536)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            if name == "onnx":
                torch.onnx.export(
                    module, (x,), str(path), dynamo=True, verbose=False, external_data=False,
                    input_names=["x"], output_names=["y"], dynamic_shapes=({0: batch},),
                )  # fmt: skip
            else:
                torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), path)
    except Exception as error:  # the exporters raise whatever they like
        line = next((t for t in str(error).splitlines() if t.strip()), type(error).__name__)
        raise UsageError(
            f"the layer cannot be written as {name}: {line[:300]}",
            hint="export without --to, or to another format",
        ) from error
    other = torch.cat([x, x.flip(0)])
    for given in (x, other):
        with torch.no_grad():
            wanted = module(given)
        found = _run(name, path, given)
        if found is None:
            return "not checked, onnxruntime is not installed"
        off = float((found - wanted).abs().max() / (1 + wanted.abs().max()))
        if not off <= _CLOSE:
            raise UsageError(
                f"the {name} file gives other numbers than the layer: off by {off:.2g}",
                hint="export without --to, or to another format",
            )
    return "checked in onnxruntime" if name == "onnx" else "loaded again and checked"


def _run(name: str, path: Path, x: torch.Tensor) -> torch.Tensor | None:
    import torch

    if name == "torch_export":
        with torch.no_grad():
            found: torch.Tensor = torch.export.load(path).module()(x)
        return found
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
