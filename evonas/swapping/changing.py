"""Carrying out a plan: new modules at the names of old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from evonas.swapping.building import build_affine, build_layer
from evonas.swapping.functions import Mark, mark_of
from evonas.swapping.modules import SharedActivation, keep_called
from evonas.swapping.nested import turn_off
from evonas.swapping.planning import Step
from evonas.swapping.recognise import Norm
from evonas.swapping.report import Change
from evonas.swapping.trace import Trace


def build(steps: Sequence[Step], trace: Trace, *, carry: bool, backend: str,
          options: Mapping[str, Any]) -> list[tuple[nn.Module, nn.Module]]:  # fmt: skip
    """Old and new module of every step that changes something, and of the activations that go with the norms. The
    model is not touched."""
    made: list[tuple[nn.Module, nn.Module]] = []
    behind: dict[nn.Module, list[tuple[Step, nn.Module]]] = {}
    for step in steps:
        site = step.site
        if step.affine:
            made.append((site.module, build_affine(site, carry=carry)))
        if step.layer is None or step.how is None:
            continue
        new = build_layer(step.layer, site, step.how, carry=carry, backend=backend, options=options)
        mark = mark_of(site.module)  # of a swap before this one
        if site.function or mark is not None:
            new.register_forward_hook(mark or Mark(site.path, function=True))
        if site.kind == "norm_act" and site.act is not None:
            behind.setdefault(site.act, []).append((step, new))
        if site.kind == "norm" and isinstance(site.part, Norm) and site.part.act:
            pair = nn.Sequential()
            pair.add_module("layer", new)
            pair.add_module("act", site.module.get_submodule(site.part.act))
            new = pair.train(site.module.training)
        made.append((site.module, new))
    for act, layers in behind.items():
        inside = {call.made for step, _ in layers for call in step.site.calls}
        if all(call.given in inside for call in trace.calls[act]):
            made.append((act, nn.Identity().train(act.training)))
            continue
        made.append((act, SharedActivation(act).train(act.training)))
        for step, new in layers:
            new.register_forward_hook(Mark(step.site.path, function=False))
    return made


def apply(model: nn.Module, made: Sequence[tuple[nn.Module, nn.Module]]) -> list[Change]:
    """Put the new modules where the old ones are registered, under every name."""
    owners: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for owner in model.modules():
        for name, child in owner._modules.items():
            if child is not None:
                owners.setdefault(child, []).append((owner, name))
    changes = []
    for old, new in made:
        where = tuple(owners[old])
        for owner, name in where:
            owner._modules[name] = new
            if isinstance(owner, nn.TransformerEncoderLayer):
                new.register_forward_hook(keep_called)
        encoders = turn_off(model, {owner for owner, _ in where})
        changes.append(Change(where, old, new, encoders))
    return changes
