"""A layer: a graph with a name, from which modules are made. Importing this does not import torch."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evonas.errors import EnvironmentUnusable, EvonasError, UsageError, unknown_name
from evonas.graph import Cost, Graph, Properties, analyse, canonical, cost, format_latex, get_layout
from evonas.graph.assembly import part_digest
from evonas.graph.graph import PARAMETER_LEAVES
from evonas.graph.slots import check_slot
from evonas.layers.stateful.contract import StateContract
from evonas.layers.stateful.of_graph import graph_contract
from evonas.layers.stateful.registry import STATEFUL, stateful_entry
from evonas.layers.zoo import ZOO

if TYPE_CHECKING:
    from evonas.layers.module import GraphLayer

BACKENDS = ("auto", "eager", "triton", "c")


@dataclass(frozen=True)
class Layer:
    """A discovered or known layer.

    name: zoo name, or whatever names it. graph: as written, active part only. layout: which tensors it is for.
    affine: whether modules have weight and bias unless they are asked for. stateful: empty, or the name in
    ``evonas.layers.STATEFUL`` of the class that modules are made from; the graph is then what the layer does to one
    batch in its warm-up, and ``contract`` tells the rest.
    """

    name: str
    graph: Graph
    layout: str = "nchw"
    source: str = ""
    affine: bool = True
    stateful: str = ""

    @property
    def text(self) -> str:
        """What ``resolve_candidate`` makes this layer of again: the name of a layer with state, else the formula."""
        return self.stateful or self.formula

    @property
    def contract(self) -> StateContract | None:
        """Buffers, warm-up, both formulas and gradient rule; None for a layer without state."""
        if self.stateful:
            return stateful_entry(self.stateful).contract
        return graph_contract(self.graph, self.layout)

    def laid_out(self, layout: str) -> Layer:
        """The same layer for tensors of another layout.

        Raises:
            UsageError: an unknown layout. FormulaError: an index set that it does not have.
        """
        where = get_layout(layout)
        if self.stateful and layout != self.layout:
            return replace(self, graph=stateful_entry(self.stateful).graph(layout), layout=layout)
        for index in self.graph.index_sets:
            where.check(index)
        return replace(self, layout=where.name)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer itself: what an assembled layer has several of."""
        return (self,)

    @property
    def index_sets(self) -> frozenset[tuple[str, ...]]:
        """Index sets of all moments in use."""
        return self.graph.index_sets

    @property
    def uses_batch(self) -> bool:
        """Whether the output depends on a statistic over the batch."""
        return self.graph.uses_batch

    def layer(self, slot: str | None) -> Layer:
        """The layer of a slot: it fills all of them. ``UsageError`` for an unknown slot."""
        if slot is not None:
            check_slot(slot)
        return self

    @property
    def formula(self) -> str:
        """The graph as a formula, without the affine that every module applies after it."""
        return str(self.graph)

    @property
    def canonical(self) -> Graph:
        """Simplified and ordered; what digests and fingerprints are taken of."""
        return canonical(self.graph)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, equal for layers with the same canonical graph; a layer with state has its own."""
        return part_digest(self.graph, self.stateful).hex()

    @property
    def latex(self) -> str:
        """LaTeX of the graph."""
        return format_latex(self.graph)

    def properties(self) -> Properties:
        """Structure and tested invariances."""
        return analyse(self.graph, self.layout)

    def cost(self, shape: tuple[int, ...] | None = None, **options: Any) -> Cost:
        """Operations and bytes of one call on a tensor of that shape, by default (1, 64, 56, 56) or (1, 128, 64)."""
        sizes = shape or ((1, 64, 56, 56) if self.layout == "nchw" else (1, 128, 64))
        return cost(self.graph, sizes, layout=self.layout, **options)

    def module(
        self,
        channels: int,
        *,
        slot: str | None = None,
        layout: str | None = None,
        backend: str = "auto",
        **options: Any,
    ) -> GraphLayer:
        """A fresh ``nn.Module`` for that many channels.

        Args:
            channels: C of the (B, C, H, W) or (B, T, C) tensors.
            slot: where in a network it will stand, a name of ``evonas.graph.slots``; it is the same everywhere.
            layout: "nchw" or "btc"; the layer's own by default.
            backend: "eager" is the reference. "triton" runs generated kernels and refuses what has none. "auto" runs
                them on CUDA and the reference elsewhere. "c" runs generated C, on float32 tensors on the CPU and
                on nothing else.
            options: groups, group_size, eps, momentum, affine, device, dtype of ``GraphLayer``. A layer with state
                takes eps, affine, device, dtype and its own, leaves out the other three, and has the backends "auto"
                and "eager", which are the same.

        Raises:
            UsageError: an unknown slot, layout or backend, an index set that the layout does not have, or with "triton"
                and "c" a graph that cannot be lowered.
            EnvironmentUnusable: "triton" without triton, "c" without a C compiler.
        """
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        from evonas.layers.module import GraphLayer

        self.layer(slot)
        options = options if self.affine else {"affine": False, **options}
        if self.stateful:
            from evonas.layers.stateful.making import make_stateful

            # a StatefulLayer: called in the same way, with the same weight and bias
            return cast(
                "GraphLayer", make_stateful(self.stateful, channels, layout or self.layout, backend, options)
            )
        where = get_layout(layout or self.layout)
        for index in self.graph.index_sets:
            where.check(index)
        if backend == "triton" and not _triton_installed():
            raise EnvironmentUnusable(
                "backend='triton' needs triton, which is not installed", hint="pip install triton"
            )
        if backend == "c":
            return self._in_c(channels, where.name, options)
        if backend == "eager" or (backend == "auto" and not _triton_installed()):
            return GraphLayer(self.graph, channels, layout=where.name, **options)
        from evonas.layers.kernel_layer import KernelLayer

        strict = backend == "triton"
        return KernelLayer(self.graph, channels, layout=where.name, strict=strict, **options)

    def _in_c(self, channels: int, layout: str, options: Mapping[str, Any]) -> GraphLayer:
        from evonas.kernels.c_runtime import compiler
        from evonas.kernels.lowering import passes
        from evonas.kernels.programs import LayerSpec
        from evonas.layers.c_layer import CGraphLayer

        compiler()
        made = CGraphLayer(self.graph, channels, layout=layout, strict=True, **options)
        # the compiler starts with the first tensor; a graph that it never gets is refused now
        passes(LayerSpec(made.formula, layout, affine=made.weight is not None, eps=made.eps), True)
        return made

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from evonas.layers.notebook import layers_html

        return layers_html(self.name, {"": self})


@lru_cache(maxsize=1)
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def named_layer(name: str) -> Layer:
    """A layer of the zoo; ``UsageError`` with the nearest name otherwise."""
    if name in STATEFUL:
        entry = STATEFUL[name]
        return Layer(name, Graph.parse(entry.formula), entry.layout, entry.source, stateful=name)
    if name not in ZOO:
        raise unknown_name("layer", name, [*ZOO, *STATEFUL], hint="`evonas list layers` shows all")
    zoo = ZOO[name]
    return Layer(name, Graph.parse(zoo.formula), source=zoo.source, affine=zoo.affine)


def resolve_layer(spec: str | Path | Graph | Layer) -> Layer:
    """A layer from a zoo name, a formula, a graph, a file that holds a formula or {"formula": ...}, or a bundle.

    Raises:
        UsageError, FormulaError: nothing of the kind; the message tells what was tried.
    """
    if isinstance(spec, Layer):
        return spec
    if isinstance(spec, Graph):
        return Layer("layer", spec.active())
    if not isinstance(spec, str | Path):
        raise UsageError(
            f"cannot make a layer of a {type(spec).__name__}",
            hint="give a name, a formula, a file, or (run, candidate)",
        )
    text = spec.strip() if isinstance(spec, str) else ""
    if text in ZOO or text in STATEFUL:
        return named_layer(text)
    file = layer_file(spec if isinstance(spec, Path) else text)
    if file is not None:
        return _from_file(file)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text not in ("x", *PARAMETER_LEAVES):
        raise unknown_name(
            "layer", _short(text), [*ZOO, *STATEFUL], hint='or write a formula such as "max(x, 0)"'
        )
    return Layer("layer", Graph.parse(text))


def _looks_like_a_path(text: str) -> bool:
    return text.endswith((".json", ".txt", ".formula")) or text.startswith(("./", "../", "/"))


def _short(text: str) -> str:
    return ascii(text)[1:-1] if len(text) <= 200 else f"{ascii(text[:100])[1:-1]}... ({len(text)} characters)"


def layer_file(spec: str | Path) -> Path | None:
    """The file that a text or path names a layer by, or the layer.json of a bundle's folder; None for other texts."""
    path = Path(spec)
    if str(spec) in ("x", *PARAMETER_LEAVES):  # a formula, whatever folders are called
        return None
    try:
        if path.is_dir() and (path / "layer.json").is_file():
            return path / "layer.json"
    except (OSError, ValueError):  # a text that no file system takes for a name, such as a long formula
        pass
    return path if isinstance(spec, Path) or _looks_like_a_path(spec) else None


def read_layer_file(path: Path) -> dict[str, Any]:
    """What a file says of a layer: formula and name, and where it is from a bundle layout, affine, stateful, text.

    Raises:
        UsageError: it cannot be read, or is no layer.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read a layer from {_short(str(path))}: {getattr(error, 'strerror', None) or error}",
            hint="name a file that holds a formula, or write the formula itself",
        ) from None
    if not text.startswith("{"):
        return {"formula": text, "name": path.stem}
    try:
        data = json.loads(text)
        return {"name": path.stem, **data, "formula": str(data["formula"])}
    except (ValueError, KeyError) as error:
        why = "it has no formula" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{path} is not a layer file: {why}",
            hint='write {"formula": "max(x, 0)"} or the formula alone',
        ) from None


def _from_file(path: Path) -> Layer:
    data = read_layer_file(path)
    name, layout = str(data["name"]), str(data.get("layout", "nchw"))
    affine = data.get("affine") is not False
    try:
        if data.get("stateful"):
            made = named_layer(str(data["stateful"])).laid_out(layout)
            return replace(made, name=name, source=str(path), affine=affine)
        return Layer(name, Graph.parse(data["formula"]), get_layout(layout).name, str(path), affine)
    except EvonasError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None
