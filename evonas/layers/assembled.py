"""Candidates of a search as modules: one layer for all places, or an assembly with a layer per group of slots.

Importing this does not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.errors import EvonasError, FormulaError, UsageError, unknown_name
from evonas.graph import Assembly, Graph, format_latex
from evonas.graph.graph import PARAMETER_LEAVES
from evonas.graph.layout import get_layout
from evonas.graph.slots import ACT_SLOTS, NORM_SLOTS, group_name
from evonas.layers.layer import Layer, layer_file, named_layer, read_layer_file, resolve_layer
from evonas.layers.stateful.registry import STATEFUL, stateful_entry
from evonas.layers.zoo import ZOO

if TYPE_CHECKING:
    from evonas.layers.module import GraphLayer

#: How the text of an assembly begins: a name of slots, and a colon.
_SLOTS = re.compile(r"[A-Za-z0-9_+\s]*(\([^)]*\))?\s*:(?!=)")
_NAMES = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*\+\s*([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class AssembledLayer:
    """Layers for the places of a network, by slot. The same attributes as a ``Layer``, but ``graph``."""

    name: str
    assembly: Assembly
    layout: str = "btc"
    source: str = ""

    @property
    def formula(self) -> str:
        """The formulas of the assembly; of a layer with state, what it does to one batch in its warm-up."""
        return str(self.assembly.stateless())

    @property
    def text(self) -> str:
        """What ``resolve_candidate`` makes this candidate of again: layers with state stand there by name."""
        return str(self.assembly)

    def laid_out(self, layout: str) -> AssembledLayer:
        """The same layers for tensors of another layout.

        Raises:
            UsageError: an unknown layout, or one that a layer with state is not for.
            FormulaError: an index set that it does not have.
        """
        where = get_layout(layout)
        parts = tuple(
            part._replace(graph=stateful_entry(part.stateful).graph(layout).active())
            if part.stateful
            else part
            for part in self.assembly.parts
        )
        made = replace(self, assembly=Assembly(parts), layout=where.name)
        for index in made.index_sets:
            where.check(index)
        return made

    @property
    def canonical(self) -> Assembly:
        """Simplified graphs, equal parts joined."""
        return self.assembly.canonical()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, equal for assemblies with the same canonical form."""
        return self.assembly.digest().hex()

    @property
    def latex(self) -> str:
        """LaTeX of the parts, each behind the name of its slots."""
        return r",\quad ".join(
            rf"\text{{{group_name(part.slots)}: }} {format_latex(part.graph)}".replace(
                "_attention", r"\_attention"
            ).replace("_ffn", r"\_ffn")
            for part in self.assembly.parts
        )

    @property
    def index_sets(self) -> frozenset[tuple[str, ...]]:
        """Index sets of all moments in use."""
        return self.assembly.index_sets

    @property
    def uses_batch(self) -> bool:
        """Whether a part depends on a statistic over the batch."""
        return self.assembly.uses_batch

    @property
    def parts(self) -> dict[str, Layer]:
        """The layer of every part, by the name of its group of slots."""
        return {
            group_name(part.slots): Layer(
                f"{self.name}, {group_name(part.slots)}",
                part.graph,
                self.layout,
                self.source,
                part.affine,
                part.stateful,
            )
            for part in self.assembly.parts
        }

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every different layer once: graph, affine and state."""
        found = {(one.graph, one.affine, one.stateful): one for one in reversed(self.parts.values())}
        return tuple(found.values())[::-1]

    def layer(self, slot: str | None) -> Layer | None:
        """The layer of a slot; None where the network keeps its own.

        Raises:
            UsageError: an unknown slot; no slot, and the parts differ.
        """
        if slot is None:
            return self.one_place()
        part = self.assembly.part(slot)
        return None if part is None else self.parts[group_name(part.slots)]

    def one_place(self) -> Layer:
        """The layer for a network with one kind of place, of a norm and the activation behind it: the norm before
        the feed-forward part and then the activation inside it, with the norm's affine last.

        Raises:
            UsageError: another assembly than a norm, an activation, or one of each; both have the same parameter; one
                of two keeps state.
        """
        norms = {self.assembly.part(slot) for slot in NORM_SLOTS}
        found = [part for part in norms if part is not None]
        act = self.assembly.part(ACT_SLOTS[0])
        if len(found) > 1 or len(norms) > 1:
            raise UsageError(
                f"{self.text!r} has no layer for a network with one kind of place: its norms differ",
                hint="give it to a proxy with slots, or write norm: ...; act: ...",
            )
        if act is not None and (not found or len(self.assembly.parts) > 1):
            found.append(act)
        affine = self.assembly.parts[0].affine
        if len(found) == 1:
            return Layer(self.name, found[0].graph, self.layout, self.source, affine, found[0].stateful)
        if self.assembly.stateful:
            raise UsageError(
                f"{self.text!r} has no layer for a network with one kind of place: "
                f"{' and '.join(self.assembly.stateful)} keeps state and joins with no other layer",
                hint=f"give it to a proxy with slots, or take {self.assembly.stateful[0]} alone",
            )
        both = set(found[0].graph.leaves) & set(found[1].graph.leaves) & set(PARAMETER_LEAVES)
        if both:
            raise UsageError(
                f"{self.text!r} has no layer for a network with one kind of place: norm and activation "
                f"both have {', '.join(sorted(both))}",
                hint="give it to a proxy with slots",
            )
        return Layer(self.name, found[1].graph.after(found[0].graph), self.layout, self.source, affine)

    def module(
        self,
        channels: int,
        *,
        slot: str | None = None,
        layout: str | None = None,
        backend: str = "auto",
        **options: Any,
    ) -> GraphLayer | None:
        """A fresh module for a slot; None where the network keeps its own layer.

        Args:
            slot: a name of ``evonas.graph.slots``; None for a network with one kind of place, see ``one_place``.
            channels, layout, backend, options: as of ``Layer.module``; affine is the part's own by default.

        Raises:
            UsageError, EnvironmentUnusable: as ``Layer.module`` and ``layer``.
        """
        layer = self.layer(slot)
        where = get_layout(layout or self.layout).name
        return None if layer is None else layer.module(channels, layout=where, backend=backend, **options)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from evonas.layers.notebook import layers_html

        return layers_html(self.name, self.parts)


def candidate_of(
    assembly: Assembly, name: str = "layer", layout: str = "nchw", source: str = ""
) -> Layer | AssembledLayer:
    """A ``Layer`` if one graph fills all places, else an ``AssembledLayer``."""
    single = assembly.single
    if single is not None:
        return Layer(name, single, layout, source, stateful=assembly.parts[0].stateful)
    return AssembledLayer(name, assembly, layout, source)


def candidate_from(
    text: str, name: str = "layer", layout: str = "nchw", source: str = ""
) -> Layer | AssembledLayer:
    """The candidate of a task or a log: a formula, or the text of an assembly. Names of layers with state are looked
    up, for which no formula could stand (``text`` of a candidate); other names of the zoo are not.

    Raises:
        UsageError: a layer with state that is not for this layout. FormulaError: a text that cannot be read.
    """
    if text in STATEFUL:
        stateful_entry(text).graph(layout)  # says which layouts it is for
    return candidate_of(assembly_from(text, layout), name, layout, source)


def assembly_from(text: str, layout: str | None = None) -> Assembly:
    """The assembly of a text of a log; layers with state by name, in their own layout where none is given."""
    return Assembly.parse(text, stateful=_stateful(layout))


def _stateful(layout: str | None) -> dict[str, str]:
    """Formulas of the layers with state that are for a layout."""
    return {
        name: entry.formulas[layout or entry.layout]
        for name, entry in STATEFUL.items()
        if (layout or entry.layout) in entry.formulas
    }


def is_name(text: str) -> bool:
    """Whether a text is a name of the zoo, or two of them joined."""
    known = ZOO.keys() | STATEFUL.keys()
    pair = _NAMES.fullmatch(text.strip())
    return text.strip() in known or (pair is not None and pair[1] in known and pair[2] in ZOO)


def resolve_candidate(spec: str | Path | Graph | Assembly | Layer | AssembledLayer) -> Layer | AssembledLayer:
    """What ``resolve_layer`` takes, or an assembly: as an object, as text, or as norm and activation of the zoo.

    ``rms_norm+silu`` is RMSNorm at the places of norms and SiLU at that of the activation; in
    ``norm: rms_norm; act: x * sigmoid(x)`` names of the zoo stand for their formulas. Layers with state stand there by
    name: ``power_norm+silu``, ``norm: power_norm; act: x * sigmoid(x)``.

    Raises:
        UsageError, FormulaError: nothing of the kind; the message tells what was tried.
    """
    if isinstance(spec, AssembledLayer):
        return spec
    if isinstance(spec, Assembly):
        return candidate_of(spec, layout="btc")
    if not isinstance(spec, str | Path):
        return resolve_layer(spec)
    file = None if isinstance(spec, str) and spec.strip() in (*ZOO, *STATEFUL) else layer_file(spec)
    if file is not None:
        return _from_file(file)
    text = str(spec).strip()
    pair = _NAMES.fullmatch(text)
    if pair is not None and not {pair[1], pair[2]} <= {"x", *PARAMETER_LEAVES}:
        return named_assembly(pair[1], pair[2])
    if text in ZOO:
        return _of_zoo(text)
    if _SLOTS.match(text):
        made = Assembly.parse(text, {name: entry.formula for name, entry in ZOO.items()}, _stateful("btc"))
        return candidate_of(made, layout="btc")
    if ";" in text:
        raise FormulaError(
            f"{text!r} has several parts, and the first one names no slot",
            hint="write for example: norm: x / rms[c](x); act: x * sigmoid(x)",
        )
    return resolve_layer(spec)


def _from_file(path: Path) -> Layer | AssembledLayer:
    """A layer or an assembly from a file; that of a bundle says with ``text`` which of its layers have state."""
    data = read_layer_file(path)
    text = str(data.get("text", data["formula"]))
    if not _SLOTS.match(text):
        return resolve_layer(path)
    try:
        made = resolve_candidate(text)
    except EvonasError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from None
    return replace(made, name=str(data["name"]), source=str(path))


def _of_zoo(name: str) -> Layer | AssembledLayer:
    layer = named_layer(name)
    if layer.affine:
        return layer
    plain = Assembly.parse(f"all (no affine): {layer.formula}")
    return AssembledLayer(name, plain, layer.layout, layer.source)


def named_assembly(norm: str, act: str) -> AssembledLayer:
    """A norm of the zoo at the places of norms and an activation of the zoo at that of the activation.

    The norms of token networks are meant where the zoo has two forms: ``dyt`` and ``derf`` have one scalar then.

    Raises:
        UsageError: a name that the zoo does not have, or an activation that keeps state.
    """
    if act in STATEFUL:
        raise UsageError(
            f"{act} keeps state, {norm}+{act} would have it for an activation",
            hint=f"it stands at places of norms: {act}+silu",
        )
    for name, known in ((norm, [*ZOO, *STATEFUL]), (act, [*ZOO])):
        if name not in known:
            raise unknown_name(
                "layer",
                name,
                known,
                hint="write NORM+ACTIVATION, such as rms_norm+silu; `evonas list layers` shows all",
            )
    layer = named_layer(TOKEN_FORMS.get(norm, norm))
    plain = "" if layer.affine else " (no affine)"
    made = Assembly.parse(f"norm{plain}: {layer.text}; act: {ZOO[act].formula}", stateful=_stateful("btc"))
    return AssembledLayer(f"{norm}+{act}", made, "btc", f"{layer.source}; {ZOO[act].source}")


#: Layers that have another form in token networks.
TOKEN_FORMS = {"dyt": "dyt_scalar", "derf": "derf_scalar"}
