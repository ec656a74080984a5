"""Compiles the kernels of a training ahead, several at a time, where the training's launches will find them.

Only candidates that have come as far as full training get here, so what was rejected is never compiled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evonas.kernels.kernel_specs import kernel_specs
from evonas.kernels.offline import CompileFailed, CompileFailure
from evonas.kernels.pool import CompilePool
from evonas.kernels.programs import LayerSpec
from evonas.kernels.runtime import executable, limits_for, maths_for
from evonas.kernels.source_files import write_source
from evonas.kernels.spec import TARGETS, KernelSpec
from evonas.proxies.trainer import LayerInput

#: Compilers of one slot at most; a layer of the reference networks has a dozen kernels.
MOST_WORKERS = 4


def target_of(device: torch.device) -> str | None:
    """The name of a device among those that kernels are compiled for ahead; None for another."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        name = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    else:
        name = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return name if name in TARGETS else None


def launch_cache() -> Path:
    """The folder in which Triton's launches of this process look kernels up."""
    given = os.environ.get("TRITON_CACHE_DIR")
    return Path(given) if given else Path.home() / ".triton" / "cache"


def training_specs(
    spec: LayerSpec, given: Iterable[tuple[LayerInput, int]], device: torch.device, *, over_batch: bool
) -> list[KernelSpec]:
    """What launches of a layer on a network's tensors will ask for, each kernel once.

    Args:
        spec: of the layer, in training.
        given: inputs of its sites with the groups of their channels; float32.
        over_batch: whether validation has kernels of its own, with running averages.

    Raises:
        UsageError: a layer or shape without kernels.
    """
    found: dict[str, KernelSpec] = {}
    for one, groups in given:
        memory = "channels_last" if one.channels_last else "contiguous"
        here = replace(spec, memory=memory, training=one.training or not over_batch)
        maths, limits = maths_for(here, torch.float32, device), limits_for(device)
        for backward in (False, True) if one.training else (False,):
            run = executable(here, one.shape, groups, backward, maths, limits)
            for made in kernel_specs(run.plan, "fp32", write_source(run.text)):
                found.setdefault(made.key(), made)
    return list(found.values())


class KernelPool:
    """One pool of compilers for all trainings of an evaluator; started with the first, ended with the process.

    Args:
        target: see ``spec.TARGETS``.
        workers: by default the cores that this process may use, ``MOST_WORKERS`` at most.
        cache: by default where the launches of this process look.
    """

    def __init__(self, target: str, workers: int | None = None, cache: Path | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._workers = workers or min(cores, MOST_WORKERS)
        self._cache = cache or launch_cache()
        self._target = target
        self._pool: CompilePool | None = None

    def compile(self, specs: Sequence[KernelSpec]) -> dict[str, Any]:
        """Compile all of them; returns how many were compiled and how many the cache had, and CPU seconds.

        Raises:
            CompileFailed: the first kernel that does not compile.
            EnvironmentUnusable: no triton, or a cache that cannot be written.
        """
        if self._pool is None:
            self._pool = CompilePool(self._workers, self._cache, self._target)
        results = [future.result() for future in self._pool.submit(specs)]
        for result in results:
            if isinstance(result, CompileFailure):
                raise CompileFailed(result)
        done = [r for r in results if not isinstance(r, CompileFailure)]
        return {
            "compiled": sum(not r.cached for r in done),
            "cached": sum(r.cached for r in done),
            "compile_cpu_s": sum(r.cpu_seconds for r in done),
        }

    def describe(self) -> dict[str, Any]:
        """Counts of the pool, see ``CompilePool.describe``; nothing before the first kernel."""
        return {} if self._pool is None else self._pool.describe()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
