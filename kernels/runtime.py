"""Running plans: source files, modules, buffers, launches. Imports torch, and triton with the first kernel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import ModuleType

import torch
from evonas.kernels.lowering import maths_of, plans
from evonas.kernels.module_text import module_text
from evonas.kernels.plan import Plan, launch_options
from evonas.kernels.programs import LayerSpec
from evonas.kernels.source_files import write_source
from evonas.kernels.tiling import LIMITS, Limits, limits_of
from torch import Tensor

from evonas import primitives
from evonas.errors import EnvironmentUnusable, UsageError


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=4096)
def load_source(text: str) -> ModuleType:
    """The module of that text; triton reads kernels from files, so there is one.

    Raises:
        EnvironmentUnusable: triton is not installed.
    """
    path = write_source(text)
    spec = importlib.util.spec_from_file_location(f"evonas_kernels_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise EnvironmentUnusable(
            f"kernels need triton: {error}", hint="pip install triton, or use backend='eager'"
        ) from None
    return module


class Executable:
    """A plan with its module, ready to be launched on tensors."""

    def __init__(self, plan: Plan, title: str, maths: str) -> None:
        self.plan = plan
        self.text = module_text(title, plan.launches, maths)
        module = load_source(self.text)
        self._functions = [getattr(module, launch.kernel.name) for launch in plan.launches]

    def run(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Launch everything; returns the buffers of the plan. ``tensors`` holds inputs and outputs of full size."""
        if interpreted() and any(launch.cooperative for launch in self.plan.launches):
            raise UsageError(
                "the interpreter runs one program after another, a cooperative kernel needs all of them at once",
                hint="leave cooperative=False",
            )
        made = dict(tensors)
        for name, buffer in self.plan.buffers.items():
            make = torch.zeros if buffer.zeroed else torch.empty
            dtype = torch.int32 if buffer.integer else torch.float32
            made[name] = make(buffer.shape, dtype=dtype, device=device)
        for function, launch in zip(self._functions, self.plan.launches, strict=True):
            function[(launch.programs,)](
                *[made[t] for t in launch.tensors],
                *launch.numbers.values(),
                *launch.blocks.values(),
                num_warps=launch.warps,
                num_stages=launch.stages,
                **({} if interpreted() else launch_options(launch)),
            )
        return {name: made[name] for name in self.plan.buffers}


_chosen: ContextVar[Limits | None] = ContextVar("limits", default=None)


@contextlib.contextmanager
def scheduled_with(limits: Limits) -> Iterator[None]:
    """Within the block, kernels are scheduled with these limits instead of the device's."""
    token = _chosen.set(limits)
    try:
        yield
    finally:
        _chosen.reset(token)


def limits_for(device: torch.device) -> Limits:
    """What kernels on a device are scheduled with: its own number of processors, see ``limits_of``."""
    chosen = _chosen.get()
    if chosen is not None or device.type != "cuda":
        return chosen or LIMITS
    return limits_of(_processors(device.index), cuda=torch.version.hip is None)


@lru_cache(maxsize=64)
def _processors(index: int | None) -> int:
    return int(torch.cuda.get_device_properties(index or 0).multi_processor_count)


def maths_for(spec: LayerSpec, dtype: torch.dtype, device: torch.device) -> str:
    """Which spelling of the functions a layer's tensors of that dtype get there."""
    if interpreted():
        return "plain"
    return maths_of(spec, dtype == torch.bfloat16, "cuda" if torch.version.hip is None else "hip")


def executable(
    spec: LayerSpec, shape: tuple[int, ...], groups: int, backward: bool, maths: str, limits: Limits
) -> Executable:
    """The kernels of one pass for tensors of that shape."""
    return _executable(spec, shape, groups, backward, maths, limits, primitives.registry.generation)


@lru_cache(maxsize=4096)
def _executable(
    spec: LayerSpec,
    shape: tuple[int, ...],
    groups: int,
    backward: bool,
    maths: str,
    limits: Limits,
    generation: int,
) -> Executable:
    both = plans(spec, shape, groups, limits)
    title = f"{spec.formula}, {'backward' if backward else 'forward'}."
    return Executable(both.backward if backward else both.forward, title, maths)
