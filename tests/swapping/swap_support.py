"""What has to hold for a model after a swap, whatever the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import evonas
from evonas.layers import GraphLayer
from evonas.swapping.modules import ChannelAffine

Run = Callable[[nn.Module], Tensor]


def numbers(report: evonas.SwapReport) -> tuple[int, int, int]:
    """Layers, affines, places left."""
    count = report.counts
    return count["layers"], count["affine"], count["left"]


def plain(x: Tensor) -> Tensor:
    """What a layer has made, without its mark."""
    return x.as_subclass(Tensor)


def new_modules(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, GraphLayer | ChannelAffine)]


def swap_and_check(model: nn.Module, layer: Any, run: Run, **options: Any) -> evonas.SwapReport:
    """Swap, then: the output changes and is finite, one step trains every new parameter, state and copies carry over,
    and undoing gives the first output to the last bit. The swap stands at the end."""
    untouched = copy.deepcopy(model)
    before = _eval(model, run)
    trace = evonas.swap(model, layer, dry_run=True, **options)
    assert torch.equal(_eval(model, run), before)
    report = evonas.swap(model, layer, **options)
    assert trace.replaced == report.replaced
    assert trace.left == report.left
    made = new_modules(model)
    assert len(made) == len(report.replaced)
    after = _eval(model, run)
    assert after.shape == before.shape
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    _state_and_copies(model, untouched, layer, run, options)
    _one_step(copy.deepcopy(model), run)
    report.undo()
    assert not new_modules(model)
    assert torch.equal(_eval(model, run), before)
    assert model.state_dict().keys() == untouched.state_dict().keys()
    return evonas.swap(model, layer, **options)


def _eval(model: nn.Module, run: Run) -> Tensor:
    mode = model.training
    model.eval()
    with torch.no_grad():
        out = run(model)
    model.train(mode)
    return out


def _one_step(model: nn.Module, run: Run) -> None:
    """Every parameter of the new modules gets a gradient and is changed by it; the loss is finite before and after."""
    model.train()
    parameters = [p for m in new_modules(model) for p in m.parameters() if p.requires_grad]
    held = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = run(model).float().square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(torch.tensor(losses).isfinite())
    assert losses[1] != losses[0]
    moved = sum(not torch.equal(a, b) for a, b in zip(parameters, held, strict=True))
    assert moved >= 0.9 * len(
        parameters
    )  # a zero at a branch's end leaves some without a gradient other than zero


def _state_and_copies(
    model: nn.Module, untouched: nn.Module, layer: Any, run: Run, options: dict[str, Any]
) -> None:
    """Another copy of the model, swapped alike, takes the state; a deep copy gives the same and shares nothing."""
    other = copy.deepcopy(untouched)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.125)
    evonas.swap(other, layer, **options)
    missing = other.load_state_dict(model.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    assert torch.equal(_eval(other, run), _eval(model, run))
    twin = copy.deepcopy(model)
    assert torch.equal(_eval(twin, run), _eval(model, run))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
