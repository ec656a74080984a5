"""``evonas.swap``: a layer into an existing model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

import evonas
from evonas.errors import UsageError, unknown_name
from evonas.graph.slots import ACT_SLOTS, NORM_SLOTS
from evonas.layers.assembled import AssembledLayer, resolve_candidate
from evonas.layers.layer import Layer
from evonas.layers.stateful.making import options_of
from evonas.swapping.changing import apply, build
from evonas.swapping.examples import given_inputs, guesses, takes_vectors
from evonas.swapping.fx_trace import trace_with_fx
from evonas.swapping.planning import Step, Wish, default_what, plan
from evonas.swapping.recognise import Act, Norm, parts
from evonas.swapping.report import Entry, SwapReport, is_meta, summary
from evonas.swapping.sites import Site, find_sites
from evonas.swapping.trace import Trace, record, untouched

WHAT = ("norm_act", "norm", "act")
LINEAR = ("affine", "keep", "replace")
AFFINE = ("carry", "fresh")
#: What layers that are formulas take; layers with state have their own.
OPTIONS = ("groups", "group_size", "eps", "momentum")


def swap(
    model: nn.Module,
    layer: Any,
    *,
    what: str | None = None,
    linear: str | None = None,
    example: Any = None,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    affine: str = "carry",
    backend: str = "auto",
    dry_run: bool = False,
    **options: Any,
) -> SwapReport:
    """Put a layer in place of the norms and activations of a model, in place.

    The model is run once on an example, in evaluation mode without gradients, to see which activation follows which
    norm and what shape tensors have. Where there is no example that it runs on, its graph from ``torch.fx`` is used.
    Device, dtype, training mode, ``requires_grad`` and the number of channels stay.

    Args:
        model: any ``nn.Module``.
        layer: what ``evonas.layer`` takes, an assembly such as ``"norm: x / rms[c](x); act: x * sigmoid(x)"`` or
            ``"rms_norm+silu"``, or a mapping from "norm_act", "norm", "act" to layers.
        what: "norm_act", a norm and the activation behind it become one layer; "norm", norms do, with or without
            activation, which stays; "act", activations do. By default "norm_act" for models with such pairs on
            feature maps, "norm" for others; an assembly says itself.
        linear: a norm without activation under "norm_act": "affine", its affine alone stays (Liu et al. 2020,
            appendix A); "keep"; or "replace", it becomes a layer too. By default "affine" for batch, instance and
            group normalization of feature maps, "keep" for layer and RMS normalization and for vectors.
        example: a tensor, a tuple of positional arguments or a mapping of keywords for ``model(...)``. Made up by
            default.
        only, skip: patterns of module paths such as "layer1.*"; a norm's path stands for its pair.
        affine: "carry", weight and bias of a norm become those of the layer; "fresh", they start at 1 and 0. A norm
            without them gets a layer without them.
        backend, options: of ``Layer.module`` (groups, group_size, eps, momentum; a layer with state has its own).
        dry_run: change nothing, report what would be.

    Returns:
        The report, whose ``undo()`` puts everything back.

    Raises:
        UsageError: not a module, one on the meta device, an unknown option, a layer or example that does not work,
            or no place where the layer can stand (not with ``dry_run``).
        FormulaError: a formula that cannot be read.
    """
    _check(model, what, linear, affine)
    layers = _layers(layer, what)
    _check_options(layers.values(), options)
    with untouched(model):
        found = parts(model)
    trace = _trace(model, found, example)
    sites = find_sites(model, found, trace)
    if None in layers:
        layers = {default_what(sites): layers[None]}
        # nobody has said that a layer with an activation inside may stand in front of another one
        sites = [replace(site, reason=site.reason or site.unpaired) for site in sites]
    chosen = {name: one for name, one in layers.items() if name is not None}
    wish = Wish(chosen, linear, _patterns(only), _patterns(skip), options)
    steps = [_not_the_root(step) for step in plan(sites, wish, trace)]
    changing = [step for step in steps if not step.reason]
    if not any(step.layer for step in changing) and not dry_run:
        raise _no_place(model, found, chosen, steps, wish)
    made = build(steps, trace, carry=affine == "carry", backend=backend, options=options)
    changes = [] if dry_run else apply(model, made)
    return SwapReport(
        type(model).__name__,
        {name: one.text for name, one in chosen.items()},
        trace.how,
        tuple(_entry(step, chosen) for step in steps if not step.reason),
        tuple(_entry(step, chosen) for step in steps if step.reason),
        dry_run,
        changes,
        None if dry_run else model,
    )


def _check(model: Any, what: str | None, linear: str | None, affine: str) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"cannot swap in a {type(model).__name__}: it is not an nn.Module",
            hint="give the model itself, such as timm.create_model(...)",
        )
    for name, value, known in (("what", what, WHAT), ("linear", linear, LINEAR), ("affine", affine, AFFINE)):
        if value is not None and value not in known:
            raise unknown_name(f"value of {name}", str(value), known)
    if is_meta(model):
        raise UsageError(
            f"{type(model).__name__} is on the meta device: it has shapes and no values, and cannot be run to see "
            f"what follows what",
            hint="swap after the model has its values: model.to_empty(device=...), or build it on the CPU",
        )


def _check_options(layers: Iterable[Layer], options: Iterable[str]) -> None:
    """Device, dtype and affine are the place's own and no options."""
    for layer in layers:
        own = options_of(layer.stateful) - {"device", "dtype", "affine"} if layer.stateful else set()
        for option in options:
            if option not in own and option not in OPTIONS:
                raise unknown_name("option", option, {*own, *OPTIONS})


def _layers(layer: Any, what: str | None) -> dict[str | None, Layer]:
    """The layers by what they go into; None for one that the model decides about."""
    if isinstance(layer, Mapping):
        if what is not None or not layer or not set(layer) <= set(WHAT):
            raise UsageError(
                f"layers for {', '.join(map(repr, layer)) or 'nothing'}{'' if what is None else f' and what={what!r}'}",
                hint='write {"norm": ..., "act": ...}, without what=',
            )
        several: dict[str | None, Layer] = {str(name): _single(one) for name, one in layer.items()}
        return several
    given = _candidate(layer)
    if isinstance(given, Layer):
        return {what: given}
    if list(given.parts) == ["all"]:  # one layer for every place, without its affine
        return {what: given.parts["all"]}
    norms = [given.layer(slot) for slot in NORM_SLOTS]
    if any(one != norms[0] for one in norms):
        raise UsageError(
            f"{given.formula!r} has different layers for {', '.join(NORM_SLOTS)}, and a model of somebody else does "
            f"not say which of its norms is which",
            hint='swap them one by one: evonas.swap(model, formula, what="norm", only="*.norm1")',
        )
    both = {"norm": norms[0], "act": given.layer(ACT_SLOTS[0])}
    named: dict[str | None, Layer] = {
        name: one for name, one in both.items() if one is not None and what in (None, name)
    }
    if not named:
        raise UsageError(f"{given.formula!r} has no layer for what={what!r}", hint="leave what= out")
    return named


def _candidate(layer: Any) -> Layer | AssembledLayer:
    return evonas.layer(layer) if isinstance(layer, tuple) else resolve_candidate(layer)


def _single(layer: Any) -> Layer:
    given = _candidate(layer)
    if isinstance(given, Layer):
        return given
    return given.one_place()


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _trace(model: nn.Module, found: Mapping[nn.Module, Norm | Act], example: Any) -> Trace:
    if example is not None:
        args, kwargs = given_inputs(example)
        try:
            return record(model, found, args, kwargs, "seen in a run on the given example")
        except Exception as error:
            raise UsageError(
                f"{type(model).__name__} does not run on the example: {type(error).__name__}: {_line(error)}",
                hint="example= is a tensor, a tuple of arguments, or a mapping of keywords for model(...)",
            ) from error
    tried = []
    for words, (args, kwargs) in guesses(model):
        try:
            trace = record(model, found, args, kwargs, f"seen in a run on {words}")
            trace.any_dims = takes_vectors(model)
            return trace
        except Exception as error:
            tried.append(f"{words} ({type(error).__name__}: {_line(error)[:80]})")
    try:
        return trace_with_fx(model, found)
    except Exception as error:
        raise UsageError(
            f"cannot see which activation of {type(model).__name__} follows which norm: torch.fx does not trace it "
            f"({_line(error)[:80]}), and it does not run on {'; '.join(tried[:2]) or 'any input that can be guessed'}",
            hint="give an input that it runs on: example=torch.randn(1, 3, 64, 64), or a mapping of keywords",
        ) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _not_the_root(step: Step) -> Step:
    if step.site.path or step.reason:
        return step
    return Step(step.site, reason="is the model itself: nothing holds it that could hold the layer instead")


def _entry(step: Step, layers: Mapping[str, Layer]) -> Entry:
    site: Site = step.site
    shape = site.calls[0].shape if site.calls else None
    by = "affine" if step.affine else ""
    if step.layer is not None and step.how is not None:
        name = step.layer.name if step.layer.name != "layer" else step.layer.formula
        by = name + (f" (on {step.how.layout} by view {step.how.view})" if step.how.view else "")
    act = site.act_path if step.layer is not None else ""
    return Entry(site.path, site.kind, site.words, site.channels, shape, by, step.reason, act)


def _no_place(model: nn.Module, found: Mapping[nn.Module, Norm | Act], layers: Mapping[str, Layer],
              steps: Sequence[Step], wish: Wish) -> UsageError:  # fmt: skip
    sought = {
        "norm_act": "norms followed by an activation",
        "norm": "norms",
        "act": "activation modules",
    }
    norms = [m for m, part in found.items() if isinstance(part, Norm)]
    acts = [m for m, part in found.items() if isinstance(part, Act)]
    reasons: dict[str, str] = {}
    for step in steps:
        if step.reason and not step.reason.startswith(("an activation", "is not among")):
            reasons.setdefault(step.reason, step.site.path or type(step.site.module).__name__)
    why = "; ".join(f"{path}: {reason}" for reason, path in list(reasons.items())[:3])
    hint = "evonas.swap(..., dry_run=True) reports every place"
    if wish.only:
        hint = "look at the patterns of only="
    elif not norms and acts:
        hint = 'what="act" replaces activations'
    return UsageError(
        f"no place for {', '.join(one.formula for one in layers.values())} in {type(model).__name__}: looked for "
        f"{' and '.join(sought[name] for name in layers)}, it has {summary(norms)} as norms and {summary(acts)} as "
        f"activations{f' ({why})' if why else ''}",
        hint=hint,
    )
