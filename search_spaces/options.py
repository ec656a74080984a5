"""The choices that a space leaves open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from evonas.errors import UsageError, unknown_name
from evonas.graph.slots import expand

MUTATIONS = ("replace", "insert", "remove", "rewire")
#: Options that a space's description leaves out at their defaults: spaces from before there were these options keep
#: their identity.
_LATER = ("slots", "scalar_inputs", "causal", "causal_moments", "batch_statistics")
_FLAGS = ("distinct_inputs", "constant_one", "batch_independent", *_LATER[1:])


@dataclass(frozen=True)
class SpaceOptions:
    """Every choice that Liu et al. (2020) leave open, with the default that stands nearest to the text.

    nodes: intermediate nodes (the paper's budget of 14 less its 4 inputs).
    op_draw: "row" draws one of the table's rows, then an index set; "concrete" draws among all pairs, which
        favours moments (24 pairs against 15 rows in the paper's space).
    distinct_inputs: whether the sampler and "replace" draw two different arguments (the paper does not say; they
        may be equal). The other mutations may still make them equal.
    constant_one: a constant 1 as a fifth input (Figure 1 of the paper's first version draws one).
    batch_independent: reject layers whose *active* graph uses batch statistics (the "S" search).
    index_sets: index sets of the moments; any that the layout allows is legal.
    mutation_weights: relative weights of the kinds of mutation; the paper's alone is "replace".
    extra_primitives: further rows, plug-ins included.
    slots: groups of places in a network (``evonas.graph.slots``), each with a graph of its own; ("all",) is one layer
        for all places, ("norm", "act") a norm and an activation, more groups more layers.
    scalar_inputs: s0 and s1, one value per layer, as further inputs (DyT and Derf have one).
    causal: a token must not see later ones: no moment over t but causal ones, which needs layout "btc".
    causal_moments: cmean, crms and cstd over "t" and "t,c" as further rows.
    batch_statistics: moments over "b,t" with running averages for evaluation, and a risk: in training they see other
        sequences and *later tokens*, so that a training loss can be low for what no decoding reproduces.
    """

    nodes: int = 10
    op_draw: Literal["row", "concrete"] = "row"
    distinct_inputs: bool = False
    constant_one: bool = False
    batch_independent: bool = False
    index_sets: tuple[str, ...] = ("b,w,h", "w,h", "w,h,c", "w,h,c/g")
    mutation_weights: Mapping[str, float] = field(default_factory=lambda: {"replace": 1.0})
    extra_primitives: tuple[str, ...] = ()
    slots: tuple[str, ...] = ("all",)
    scalar_inputs: bool = False
    causal: bool = False
    causal_moments: bool = False
    batch_statistics: bool = False

    @classmethod
    def make(cls, base: SpaceOptions, given: Mapping[str, Any]) -> SpaceOptions:
        """``base`` with some fields replaced, each checked.

        Raises:
            UsageError: an unknown option (with the nearest name) or a value that does not fit.
        """
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                raise unknown_name("space option", name, known)
        values = dict(given)
        for name in ("index_sets", "extra_primitives", "slots"):
            if name in values:
                entries = values[name]
                if isinstance(entries, str):
                    entries = [e.strip() for e in entries.split(";")]
                texts = isinstance(entries, (list, tuple)) and all(isinstance(e, str) for e in entries)
                _check(texts, name, entries, "a list of texts, or one text with semicolons")
                values[name] = tuple(e for e in entries if e)
        options = replace(base, **values)
        nodes = options.nodes
        _check(type(nodes) is int and 1 <= nodes <= 200, "nodes", nodes, "1 to 200")
        _check(options.op_draw in ("row", "concrete"), "op_draw", options.op_draw, "row or concrete")
        for name in _FLAGS:
            _check(isinstance(getattr(options, name), bool), name, getattr(options, name), "true or false")
        _check_slots(options.slots)
        weights = options.mutation_weights
        needed = "a table of finite weights >= 0 that are not all 0, such as {replace = 1.0}"
        _check(isinstance(weights, Mapping), "mutation_weights", weights, needed)
        for kind in weights:
            if kind not in MUTATIONS:
                raise unknown_name("mutation", kind, MUTATIONS)
        ok = all(isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights.values())
        _check(ok and sum(weights.values()) > 0, "mutation_weights", dict(weights), needed)
        return options

    def describe(self) -> dict[str, Any]:
        """The options by name; later ones only where they are not at their defaults."""
        plain = SpaceOptions()
        return {k: v for k, v in asdict(self).items() if k not in _LATER or v != getattr(plain, k)}


def _check(ok: bool, name: str, given: object, needed: str) -> None:
    if not ok:
        raise UsageError(f"space option {name} = {given!r} does not fit", hint=f"use {needed}")


def _check_slots(groups: tuple[str, ...]) -> None:
    _check(bool(groups), "slots", groups, 'a list of groups of slots, such as ["norm", "act"]')
    taken: dict[str, str] = {}
    for group in groups:
        for slot in expand(group):
            if slot in taken:
                raise UsageError(
                    f"space option slots = {list(groups)} gives slot {slot!r} to {taken[slot]!r} and to {group!r}",
                    hint="give each slot to one group",
                )
            taken[slot] = group
