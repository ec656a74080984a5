"""What a plan's launches look like to the compiler, so that it compiles ahead what a launch will look for.

Types and alignment are those of ``runtime.Executable.run``: tensors of full size have the layer's dtype, vectors and
everything between kernels is float32, and memory starts at multiples of 16 bytes. Needs neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evonas.kernels.lowering import maths_of, plans
from evonas.kernels.module_text import module_text
from evonas.kernels.plan import Launch, Plan, launch_options
from evonas.kernels.programs import LayerSpec
from evonas.kernels.source_files import write_source
from evonas.kernels.spec import KernelSpec, parse_target, spec_from_call
from evonas.kernels.tiling import Limits, limits_of
from evonas.kernels.traffic import TENSORS

from evonas.errors import unknown_name

#: Names that a person types -> torch's, and bytes of an element.
DTYPES: Mapping[str, str] = MappingProxyType({"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"})
ITEMSIZE: Mapping[str, int] = MappingProxyType({"bf16": 2, "fp16": 2, "fp32": 4})
PASSES = ("forward", "backward")
#: Multiprocessors of the targets' usual devices, which grids are sized for: A100, H100 and H200, B200, MI250, MI300X.
PROCESSORS: Mapping[str, int] = MappingProxyType(
    {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx90a": 104, "gfx942": 304}
)


@dataclass(frozen=True)
class _Pointer:
    """Stands for a tensor in a call: its type and where it starts."""

    dtype: str

    def data_ptr(self) -> int:
        return 0


def check_dtype(dtype: str) -> str:
    """The dtype itself.

    Raises:
        UsageError: not bf16, fp16 or fp32.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    return dtype


def maths_on(spec: LayerSpec, dtype: str, target: str) -> str:
    """Which spelling of the functions a layer's tensors of that dtype get on that target."""
    return maths_of(spec, check_dtype(dtype) == "bf16", parse_target(target).backend)


def limits_on(target: str) -> Limits:
    """What kernels for a target are scheduled with, see ``limits_of``."""
    known = parse_target(target)
    return limits_of(PROCESSORS[known.name], cuda=known.backend == "cuda")


def layer_source(spec: LayerSpec, plan: Plan, backward: bool, maths: str) -> str:
    """The Python module of one pass, the very text that the runtime loads."""
    title = f"{spec.formula}, {'backward' if backward else 'forward'}."
    return module_text(title, plan.launches, maths)


def kernel_specs(plan: Plan, dtype: str, path: str | Path, vectors: str = "fp32") -> list[KernelSpec]:
    """One spec per launch of a plan, in order.

    Args:
        dtype: of x, dy, y, dx, the residual and the sum: "bf16", "fp16" or "fp32".
        path: file that holds the module text of the plan.
        vectors: dtype of the per-channel parameters.

    Raises:
        UsageError: unknown dtype.
    """
    tensor, vector = (
        _Pointer(f"torch.{DTYPES[check_dtype(dtype)]}"),
        _Pointer(f"torch.{DTYPES[check_dtype(vectors)]}"),
    )
    number = _Pointer("torch.float32")
    specs = []
    for launch in plan.launches:
        arguments: dict[str, Any] = {}
        for pointer, buffer in zip(launch.kernel.pointers, launch.tensors, strict=True):
            if buffer in TENSORS:
                kind = tensor
            elif buffer in plan.buffers and plan.buffers[buffer].integer:
                kind = _Pointer("torch.int32")
            elif buffer in plan.buffers or buffer.startswith(("saved", "statistic")):
                kind = number
            else:
                kind = vector
            arguments[f"{pointer}_ptr"] = kind
        arguments |= launch.numbers
        arguments |= launch.blocks
        specs.append(
            spec_from_call(
                path,
                launch.kernel.name,
                arguments,
                tuple(launch.blocks),
                num_warps=launch.warps,
                num_stages=launch.stages,
                elements=live_elements(launch),
                options=launch_options(launch),
            )
        )
    return specs


def live_elements(launch: Launch) -> int:
    """Elements of the tensor that one program handles in one pass over its tile; 0 for a merge of partial results."""
    tiling = launch.tiling
    return 0 if tiling is None else prod(min(n, tiling.sizes[a]) for a, n in tiling.tile.items())


@dataclass(frozen=True)
class PassSpecs:
    """One pass of a layer, ready to compile. which: "forward" or "backward"."""

    which: str
    plan: Plan
    specs: tuple[KernelSpec, ...]


def layer_specs(
    spec: LayerSpec,
    shape: tuple[int, ...],
    groups: int,
    *,
    dtype: str = "bf16",
    target: str = "sm_90",
    folder: Path | None = None,
    limits: Limits | None = None,
) -> tuple[PassSpecs, PassSpecs]:
    """Forward and backward of a layer for a target; writes the two modules (see ``write_source``).

    ``limits``: by default those of the target, see ``limits_on``.

    Raises:
        UsageError: a graph that cannot be lowered, a shape that does not fit, an unknown dtype or target.
        EnvironmentUnusable: the folder cannot be written.
    """
    maths = maths_on(spec, dtype, target)
    both = plans(spec, shape, groups, limits or limits_on(target))
    made = []
    for which, plan in zip(PASSES, (both.forward, both.backward), strict=True):
        path = write_source(layer_source(spec, plan, which == "backward", maths), folder)
        made.append(PassSpecs(which, plan, tuple(kernel_specs(plan, dtype, path))))
    return made[0], made[1]
