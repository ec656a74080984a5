"""``export``: a layer as a folder that others can use without evonas."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from evonas.errors import UsageError, VerificationError
from evonas.export.card import CardFacts, card
from evonas.export.drawing import draw_svg
from evonas.export.formats import FORMATS, check_formats, write_format
from evonas.export.kernel_text import kernel_source, why_no_kernels
from evonas.export.layer_text import layer_source
from evonas.export.numerics import latency, measure
from evonas.export.origin import Origin, find_origin
from evonas.export.self_test import TEST, expected_text, record
from evonas.export.stateful_text import stateful_source
from evonas.layers.assembled import AssembledLayer
from evonas.layers.layer import Layer
from evonas.primitives import EPS
from evonas.run._files import unusable

SCHEMA = "evonas.layer/1"
LICENCE = "Apache-2.0"
#: Largest difference between the exported module and that of evonas in float32, relative to 1 + the largest value.
CLOSE = 1e-6
#: Why a layer with state has none.
NO_KERNELS = "the layer keeps state, and what it does with it is its own code"
#: Every file that a bundle may have. The kernels go first: without them a layer that is cut off here still computes
#: what it says.
FILES = ("kernel.py", "layer.py", "test_layer.py", "expected.json", "card.md", "formula.tex", "graph.svg", "LICENSE",
         *FORMATS.values(), "layer.json")  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A folder that was written. files: by name. checks: what was compared, in words."""

    path: Path
    name: str
    formula: str
    files: tuple[str, ...]
    checks: dict[str, str] = field(default_factory=dict)


def export(
    target: Any,
    candidate: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    to: Sequence[str] = (),
    force: bool = False,
    name: str | None = None,
    groups: int = 32,
    eps: float = EPS,
    channels: int = 64,
    runs: str | os.PathLike[str] = "runs",
    plugins: Sequence[str] = (),
) -> Bundle:
    """Write the bundle of a layer, checked against the module of evonas before it has its name.

    Args:
        target: a run (folder, name, beginning of a name, "latest", or ``Run``), or a layer as ``evonas.layer`` takes
            it: a name of the zoo, a formula, a file, ``(run, candidate)``, a ``Layer``.
        candidate: of a run: its id or "best", the default. Whatever became of it.
        out: the folder to make.
        to: further formats: "onnx", "torch_export".
        force: replace files of a bundle that is there.
        name: of the layer, for class and card; by default what it is called.
        groups, eps: defaults of the constructor.
        channels: of the module in further formats, which are made for one number of channels.
        runs: folder in which runs are looked for by name.
        plugins: files to load first.

    Raises:
        UsageError: no such run, candidate or layer, a folder that is there, an unknown format, or a format that the
            layer cannot be written in.
        PluginError: an operation or a layer with state whose source cannot be copied.
        EnvironmentUnusable: a folder that cannot be written, a missing package.
        VerificationError: the written layer computes something else than evonas. Nothing is left behind then.
    """
    if out is None:
        raise UsageError("no folder to export to", hint="evonas export LAYER -o DIR")
    if groups < 1 or channels < 1 or not 0 < eps <= 1:
        raise UsageError(
            f"groups={groups}, channels={channels}, eps={eps}: need at least 1, at least 1, and more than 0 up to 1"
        )
    formats = check_formats(to)
    origin = find_origin(target, candidate, runs=runs, plugins=plugins)
    folder = Path(out)
    _check_free(folder, force)
    if name:
        origin.layer = replace(origin.layer, name=name)
    try:
        beside = folder if folder.exists() else folder.absolute().parent
        beside.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=beside))
    except OSError as error:
        raise unusable(f"exporting to {folder}", error) from error
    checks: dict[str, str] = {}
    try:
        os.chmod(part, 0o755)
        if isinstance(origin.layer, AssembledLayer):
            for slots, layer in origin.layer.parts.items():
                (part / slots).mkdir()
                one = replace(
                    origin,
                    layer=replace(layer, name=f"{origin.layer.name}/{slots}"),
                    whole=origin.layer.formula,
                )
                found = _fill(part / slots, one, formats, eps, groups, channels, _test_name(slots))
                checks |= {f"{slots}/{file}": words for file, words in found.items()}
            _write_json(part / "layer.json", _assembly(origin, origin.layer))
        else:
            checks = _fill(part, origin, formats, eps, groups, channels)
        files = tuple(sorted(p.relative_to(part).as_posix() for p in part.rglob("*") if p.is_file()))
        _move(part, folder)
    except OSError as error:
        raise unusable(f"exporting to {folder}", error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Bundle(folder, origin.layer.name, origin.layer.formula, files, checks)


def _assembly(origin: Origin, layer: AssembledLayer) -> dict[str, Any]:
    """layer.json of an assembly, whose parts are bundles of their own in folders below it."""
    from evonas import __version__

    return {
        "schema": SCHEMA, "name": layer.name, "formula": layer.formula, "text": layer.text,
        "digest": layer.digest, "layout": layer.layout,
        "parts": {slots: f"{slots}/layer.json" for slots in layer.parts}, "licence": LICENCE, "evonas": __version__,
        "origin": {"words": origin.words, "command": origin.command, **origin.facts}, "ranking": origin.row,
    }  # fmt: skip


def _fill(
    part: Path, origin: Origin, formats: Sequence[str], eps: float, groups: int, channels: int,
    test_name: str = "test_layer.py",
) -> dict[str, str]:  # fmt: skip
    """The files of one layer; returns what was checked."""
    import torch

    from evonas import __version__

    layer = origin.layer
    assert isinstance(layer, Layer)
    why: str | None = NO_KERNELS
    if layer.stateful:
        source = stateful_source(
            layer, eps=eps, about=origin.words, licence=LICENCE, digest=layer.digest, version=__version__
        )
        _write(part / "layer.py", source.text)
    else:
        source = layer_source(
            layer.graph, layer.name, layer.layout, eps=eps, groups=groups, about=origin.words, licence=LICENCE,
            digest=layer.digest, version=__version__, affine=layer.affine,
        )  # fmt: skip
        _write(part / "layer.py", source.text)
        why = why_no_kernels(layer.graph, source)
        kernels = kernel_source(layer.graph, source, eps=eps, version=__version__, affine=layer.affine)
        if kernels is not None:
            _write(part / "kernel.py", kernels)
    module = load(part / "layer.py")
    module._kernel = None  # type: ignore[attr-defined]  # what is measured is the eager form
    made = module.Layer
    numbers = measure(layer, made, source.form.grouped, eps)
    if not numbers.evonas <= CLOSE:  # NaN neither
        raise VerificationError(
            f"the written layer is off by {numbers.evonas:.2g} from evonas, allowed are {CLOSE:g}: {layer.formula}",
            hint="this is a defect of evonas: please report the formula",
        )
    recorded = record(layer, source, eps)
    recorded["state_keys"] = list(made(**recorded["arguments"]).state_dict())
    # layers that magnify rounding get as much as they need, others at most 1e-5
    recorded["float32_tolerance"] = max(1e-5, 8 * numbers.errors["float32"])
    _write(part / "expected.json", expected_text(recorded))
    _write(part / test_name, TEST)
    checks = {"layer.py": f"off by {numbers.evonas:.1e} from evonas in float32, outputs and gradients"}
    shape = (2, channels, 8, 8) if layer.layout == "nchw" else (2, 8, channels)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    options = {"groups": groups} if source.form.grouped else {}
    for one in formats:
        checks[FORMATS[one]] = write_format(one, made(channels, eps=eps, **options), x, part / FORMATS[one])
    _write(part / "formula.tex", layer.latex + "\n")
    _write(part / "graph.svg", draw_svg(layer.graph))
    _write(
        part / "LICENSE", resources.files("evonas.export").joinpath("LICENSE.txt").read_text(encoding="utf-8")
    )
    words = {FORMATS[f]: f"{channels} channels, any batch; {checks[FORMATS[f]]}" for f in formats}
    times = latency(layer, made)
    facts = CardFacts(source, numbers, times, __version__, LICENCE, eps, groups, why, words, test_name)
    _write(part / "card.md", card(origin, facts))
    content = {
        "schema": SCHEMA,
        "name": layer.name,
        "formula": layer.formula,
        "canonical": str(layer.canonical),
        "digest": layer.digest,
        "layout": layer.layout,
        "affine": layer.affine,
        "groups": groups,
        "eps": eps,
        "class": source.name,
        "classes": source.classes,
        "parameters": list(source.program.parameters),
        "running": {s.name: s.key for s in source.program.statistics},
        **({"stateful": layer.stateful} if layer.stateful else {}),
        "licence": LICENCE,
        "evonas": __version__,
        "origin": {"words": origin.words, "command": origin.command, **origin.facts},
        "ranking": origin.row,
        "checks": checks,
    }
    _write_json(part / "layer.json", content)
    return checks


def _test_name(slots: str) -> str:
    """The file of a part's test: a name of its own, because pytest imports tests by their names."""
    return f"test_{re.sub(r'[^a-z0-9]+', '_', slots.lower())}.py"


def load(path: Path) -> ModuleType:
    """The module of an exported layer.py, under a name of its own and without leaving compiled files."""
    spec = importlib.util.spec_from_file_location("evonas_exported_layer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def _finite(value: Any) -> Any:
    """NaN and infinities as null."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def _check_free(folder: Path, force: bool) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file", hint="name a folder")
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise unusable(f"exporting to {folder}", error) from error
    if not force:
        raise UsageError(f"{folder} is there and not empty", hint="name another folder, or type --force")
    if not (folder / "layer.json").is_file():
        raise UsageError(
            f"{folder} is not a bundle (it has no layer.json), so --force does not replace it",
            hint="name another folder",
        )


def _move(part: Path, folder: Path) -> None:
    """Give the new files their names. Where a folder is there, it stays, and of the bundle in it nothing is left: a
    kernel of another layer would be run by the new one."""
    if not folder.exists():
        os.rename(part, folder)
        return
    new = sorted(path.relative_to(part) for path in part.rglob("*") if path.is_file())
    _clear(folder)
    last = Path("layer.json")  # until then that of the old bundle stays: what is cut off here can be repeated
    for name in [*(n for n in new if n != last), last]:
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(part / name, folder / name)


def _clear(folder: Path) -> None:
    """Delete the files of a bundle, and of its parts with their folders, but the layer.json that names them. What
    else is there stays."""
    parts = [folder / name for name in _old_parts(folder)]
    for name in FILES:
        for one in (folder, *parts):
            if one != folder or name != "layer.json":
                (one / name).unlink(missing_ok=True)
    for one in parts:
        (one / _test_name(one.name)).unlink(missing_ok=True)
    for one in parts:
        if not any(one.iterdir()):
            one.rmdir()


def _old_parts(folder: Path) -> list[str]:
    """The folders that the layer.json of an assembly lists, as far as they are plain folders beside it."""
    try:
        content = json.loads((folder / "layer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    parts = content.get("parts") if isinstance(content, dict) else None
    names = [str(name) for name in parts] if isinstance(parts, dict) else []
    return [n for n in names if Path(n).name == n and (folder / n).is_dir() and not (folder / n).is_symlink()]
