"""`export`: writes a bundle and says what is in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from evonas.cli.output import document
from evonas.errors import UsageError
from evonas.export.bundle import export as write_bundle

_WHAT = {
    "layer.py": "the module, needs torch alone",
    "kernel.py": "its Triton kernels, used where triton and a GPU are there",
    "test_layer.py": "compares it with expected.json",
    "card.md": "model card",
    "layer.json": "formula and origin, read by evonas.layer",
    "layer.onnx": "in evaluation",
    "layer.pt2": "in evaluation, torch.export.load",
}


def export(
    target: str,
    candidate: str | None,
    *,
    out: str | None,
    to: str | None,
    force: bool,
    name: str | None,
    groups: int,
    channels: int,
    plugins: Sequence[str],
    runs: str,
    json: bool,
) -> int:
    """Write the bundle and print its files.

    Raises:
        UsageError, EnvironmentUnusable, VerificationError: see ``evonas.export.bundle.export``.
    """
    formats = [part.strip() for part in (to or "").split(",") if part.strip()]
    if to is not None and not formats:
        raise UsageError("--to names no format", hint="write --to onnx,torch_export")
    made = write_bundle(
        target, candidate, out, to=formats, force=force, name=name, groups=groups, channels=channels, runs=runs,
        plugins=plugins,
    )  # fmt: skip
    if json:
        document(
            "export",
            {"path": str(made.path), "name": made.name, "formula": made.formula, "files": made.files,
             "checks": made.checks},
        )  # fmt: skip
        return 0
    for file in made.files:
        words = [w for w in (_WHAT.get(file), made.checks.get(file)) if w]
        print(f"{made.path / file}{'  ' + '; '.join(words) if words else ''}")
    print(f"{made.name}: {made.formula}", file=sys.stderr)
    return 0
