"""The layers of a comparison: read from what people type, named, and checked against every proxy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evonas.errors import EvonasError, UsageError
from evonas.graph import Assembly, Graph
from evonas.layers import AssembledLayer, Layer, candidate_from, resolve_candidate
from evonas.run.run import Run

#: What names a layer: a zoo name, a pair of them, a formula, the text of an assembly, a file, RUN:ID, or an object.
Spec = str | Path | Graph | Assembly | Layer | AssembledLayer | tuple[Any, Any]
_OF_RUN = re.compile(r"(?P<run>.+):(?P<candidate>best|\d+)", re.S)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One layer of a comparison. text: what the slots build it from. given: what the user typed."""

    name: str
    text: str
    given: str

    @property
    def layer(self) -> Layer | AssembledLayer:
        """The layer itself."""
        return candidate_from(self.text, self.name)

    def to_dict(self) -> dict[str, str]:
        """Plain values."""
        return {"name": self.name, "formula": self.text}


def run_of(spec: Spec, root: str | os.PathLike[str] = "runs") -> tuple[Run, str] | None:
    """The run and candidate that a spec names, None if it names another kind of layer.

    Raises:
        UsageError: RUN:ID of a run that does not exist.
    """
    if isinstance(spec, tuple):
        run, candidate = spec
        return run if isinstance(run, Run) else Run(run, root), str(candidate)
    found = _OF_RUN.fullmatch(spec.strip()) if isinstance(spec, str) else None
    return None if found is None else (Run(found["run"], root), found["candidate"])


def read_contestants(specs: Sequence[Spec], root: str | os.PathLike[str] = "runs") -> list[Contestant]:
    """The layers, in the order given.

    Raises:
        UsageError, FormulaError: fewer than two, one that does not exist, or the same one twice.
    """
    made = [_read(spec, root) for spec in specs]
    if len(made) < 2:
        raise UsageError(
            f"{len(made)} layer{'s' * (len(made) != 1)} to compare, needed are at least two",
            hint='evonas compare bn_relu evonorm_s0 "x * sigmoid(x)"',
        )
    seen: dict[str, Contestant] = {}
    for one in made:
        twin = seen.setdefault(one.text, one)
        if twin is not one:
            raise UsageError(f"{twin.given!r} and {one.given!r} are the same layer: {one.text}")
    return _named(made)


def _read(spec: Spec, root: str | os.PathLike[str]) -> Contestant:
    of_run = run_of(spec, root)
    layer = resolve_candidate(spec) if of_run is None else of_run[0].layer(of_run[1])  # type: ignore[arg-type]
    if of_run is not None:
        given = spec if isinstance(spec, str) else f"{of_run[0].id}:{of_run[1]}"
    else:
        given = str(spec) if isinstance(spec, str | Path) else layer.name
    return Contestant(layer.name if layer.name != "layer" else layer.text, layer.text, given)


def _named(made: Sequence[Contestant]) -> list[Contestant]:
    """Each with a name of its own: files of two folders may have the same."""
    names = [one.name for one in made]
    return [
        Contestant(f"{one.name} ({n})", one.text, one.given)
        if (n := names[: i + 1].count(one.name)) > 1
        else one
        for i, one in enumerate(made)
    ]


def find_reference(contestants: Sequence[Contestant], spec: str | None) -> int:
    """The number of the layer that the others are compared with: the first, unless one is named.

    Raises:
        UsageError: a layer that is not among them.
    """
    if spec is None:
        return 0
    for number, one in enumerate(contestants):
        if spec in (one.given, one.name, one.text):
            return number
    raise UsageError(
        f"the reference {spec!r} is not among the layers: {', '.join(c.given for c in contestants)}",
        hint="name it as a layer too",
    )


def check_fit(contestants: Sequence[Contestant], layouts: Mapping[str, str]) -> None:
    """Every layer must fit the tensors of every proxy.

    Args:
        layouts: proxy -> "nchw" or "btc".

    Raises:
        UsageError: naming layer and proxy.
    """
    for one in contestants:
        layer = one.layer
        for proxy, layout in layouts.items():
            try:
                fitting = layer.laid_out(layout)
                if layout == "nchw":
                    fitting.layer(None)
            except EvonasError as error:
                what = {"nchw": "images (nchw)", "btc": "tokens (btc)"}[layout]
                raise UsageError(
                    f"layer {one.name!r} does not fit proxy {proxy!r}, whose layers are given {what}: {error.message}",
                    hint=error.hint or "leave the layer or the proxy out",
                ) from None


def operations(contestants: Sequence[Contestant]) -> list[str]:
    """Names of the primitives in use."""
    found: dict[str, None] = {}
    for one in contestants:
        for layer in one.layer.layers:
            found |= dict.fromkeys(node.op for node in layer.graph.nodes)
    return list(found)
