"""Kernels whose programs wait for one another, each program a process of its own on shared memory."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from evonas.kernels import runtime
from evonas.kernels.lowering import plans
from evonas.kernels.programs import LayerSpec
from evonas.kernels.tiling import Limits
from evonas.kernels.traffic import traffic
from evonas.kernels.verify import verify
from triton.runtime.interpreter import interpreter_builder

from evonas.layers.zoo import ZOO

LIMITS = Limits(processors=6, resident_forward=64, resident_backward=32, fill=32, small=0, cooperative=True)


def _start(function: Any, launch: Any, tensors: dict[str, torch.Tensor], program: int) -> int:
    """A process that runs one program of a launch; it ends itself if the others do not come."""
    child = os.fork()
    if child:
        return child
    signal.alarm(30)
    set_index, set_dim = interpreter_builder.set_grid_idx, interpreter_builder.set_grid_dim
    interpreter_builder.set_grid_dim = lambda x, y, z: set_dim(launch.programs, y, z)
    interpreter_builder.set_grid_idx = lambda x, y, z: set_index(program, y, z)
    try:
        arguments = [tensors[t] for t in launch.tensors]
        function[(1,)](*arguments, *launch.numbers.values(), *launch.blocks.values())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Runs every program of a cooperative launch at the same time; returns how many launches did."""
    launches = 0
    plain = runtime.Executable.run

    def run(self: Any, tensors: Any, device: torch.device) -> dict[str, torch.Tensor]:
        nonlocal launches
        if not any(launch.cooperative for launch in self.plan.launches):
            return plain(self, tensors, device)
        (launch,) = self.plan.launches
        launches += 1
        made = {n: t.detach().clone() for n, t in tensors.items()}
        for name, buffer in self.plan.buffers.items():
            made[name] = torch.zeros(buffer.shape, dtype=torch.int32 if buffer.integer else torch.float32)
        for t in made.values():
            t.share_memory_()
        children = [_start(self._functions[0], launch, made, program) for program in range(launch.programs)]
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        for name, t in tensors.items():
            t.copy_(made[name])
        return {name: made[name].clone() for name in self.plan.buffers}

    monkeypatch.setattr(runtime.Executable, "run", run)
    return lambda: launches


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["bn_relu", "evonorm_b0", "ln_gelu", "gn_silu"])
def test_a_team_finds_what_one_program_finds(name: str, together: Callable[[], int]) -> None:
    shape = (5, 2, 3, 7) if name.startswith(("bn", "evonorm_b")) else (2, 6, 3, 6)
    groups = 1 if name == "gn_silu" else 2
    spec = LayerSpec(ZOO[name].formula)
    made = plans(spec, shape, groups, LIMITS)
    tilings = [launch.tiling for launch in (*made.forward.launches, *made.backward.launches)]
    assert [t.team is not None and t.members > 1 for t in tilings if t] == [True, True]
    with runtime.scheduled_with(LIMITS):
        check = verify(spec, shape, groups)
    assert together() == 2
    assert check.strict, check


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("formula", "shape", "groups"),
    [
        ("x / rms[w,h,c](std[w,h,c/g](x))", (2, 6, 3, 4), 3),
        ("exp(std[w,h,c](rms[w,h](x)))", (2, 6, 3, 6), 3),
        ("x * rms[b,w,h](mean[w,h](x))", (5, 2, 3, 7), 1),
        # one over what members share that does not vary along the loop
        ("x / std[w,h,c](x) * rms[w,h,c](v0)", (2, 6, 3, 4), 3),
    ],
)
def test_a_team_finds_moments_of_moments(
    formula: str, shape: tuple[int, ...], groups: int, together: Callable[[], int]
) -> None:
    """A reduction over the axis that members share, of numbers that do not vary over the rest of the tile."""
    spec = LayerSpec(formula)
    made = plans(spec, shape, groups, LIMITS)
    tilings = [launch.tiling for launch in (*made.forward.launches, *made.backward.launches)]
    assert all(t is not None and t.team is not None and t.members > 1 for t in tilings)
    with runtime.scheduled_with(LIMITS):
        check = verify(spec, shape, groups)
    assert together() == 2
    assert check.strict, check


def test_traffic_with_and_without_teams() -> None:
    shape = (128, 256, 32, 32)
    allowed = replace(Limits(), cooperative=True)
    for name in ("bn_relu", "evonorm_b0", "ln_relu"):
        spec = LayerSpec(ZOO[name].formula)
        for limits, most in ((Limits(), (3, 5)), (allowed, (2, 3))):
            both = plans(spec, shape, 32, limits)
            units = [traffic(p, 2).swept_units for p in (both.forward, both.backward)]
            assert all(u <= m + 0.05 for u, m in zip(units, most, strict=True)), (name, units)
