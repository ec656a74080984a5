"""A layer and a shape in, kernels out: the compiler from end to end. Neither torch nor triton is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from evonas.kernels.axes import dim_sizes
from evonas.kernels.plan import Plan, sweeps
from evonas.kernels.planner import plan
from evonas.kernels.programs import LayerSpec, Passes, build
from evonas.kernels.tiling import LIMITS, Limits

from evonas import primitives
from evonas.errors import EvonasError


def passes(spec: LayerSpec, split_means: bool) -> Passes:
    """The programs of a layer, built once for as long as no primitive is defined anew."""
    return _passes(spec, split_means, primitives.registry.generation)


@lru_cache(maxsize=1024)
def _passes(spec: LayerSpec, split_means: bool, generation: int) -> Passes:
    return build(spec, split_means=split_means)


@dataclass(frozen=True)
class Plans:
    """Both passes of a layer on tensors of one shape. saved: see ``Passes.saved_on``; batch: see ``Passes``;
    split_means: see ``build``, of the programs that were planned."""

    forward: Plan
    backward: Plan
    saved: tuple[str, ...]
    batch: tuple[str, ...]
    split_means: bool


def plans(spec: LayerSpec, shape: tuple[int, ...], groups: int, limits: Limits = LIMITS) -> Plans:
    """Kernels for both passes on tensors of that shape.

    Weighted partial means save whole reductions while the domain is in registers. Where it is swept or split they
    may cost another sweep or save one: then both passes are planned with them and without, and the fewer sweeps count.

    Raises:
        UsageError: see ``build``, ``dim_sizes`` and ``plan``; the message names the formula.
    """
    return _plans(spec, shape, groups, limits, primitives.registry.generation)


@lru_cache(maxsize=4096)
def _plans(spec: LayerSpec, shape: tuple[int, ...], groups: int, limits: Limits, generation: int) -> Plans:
    best: tuple[int, Plans] | None = None
    for split_means in (True, False):
        both = passes(spec, split_means)
        try:
            made = _planned(spec, both, split_means, shape, groups, limits)
        except EvonasError as error:
            raise type(error)(f"{spec.formula}: {error.message}", hint=error.hint) from None
        if all(p.resident for p in (made.forward, made.backward)):
            return made
        count = sweeps(made.forward) + sweeps(made.backward)
        if best is None or count <= best[0]:
            best = count, made
    assert best is not None
    return best[1]


def _planned(
    spec: LayerSpec, both: Passes, split_means: bool, shape: tuple[int, ...], groups: int, limits: Limits
) -> Plans:
    sizes = both.forward.axes.sizes(dim_sizes(spec.layout, shape, groups))
    saved = both.saved_on(sizes)
    wanted = {n: i for n, i in both.forward.statistics.items() if n in (*saved, *both.batch)}
    forward = replace(both.forward, statistics=wanted)
    known = {i: n for i, n in both.known.items() if n in saved}
    return Plans(
        plan(forward, sizes, backward=False, summed=spec.residual, limits=limits),
        plan(both.backward, sizes, backward=True, known=known, limits=limits),
        saved,
        both.batch,
        split_means,
    )


#: Operations that magnify the relative error of a small argument.
_MAGNIFY = {"recip", "log", "sqrt", "rsqrt"}


def maths_of(spec: LayerSpec, half: bool, backend: str) -> str:
    """Which spelling of the functions (see ``evonas.kernels.text``) a layer's kernels get.

    half: whether the tensors are bfloat16. backend: "cuda" or "hip". The roughest spelling, whose error is small beside
    one but not beside a small sigmoid, is left to layers that do not divide by one, nor take its logarithm or root.
    """
    if backend == "hip":
        return "hip"
    return "half" if half and _tolerant(spec, primitives.registry.generation) else "fast"


@lru_cache(maxsize=1024)
def _tolerant(spec: LayerSpec, generation: int) -> bool:
    for split_means in (True, False):
        both = passes(spec, split_means)
        ir = both.forward.ir
        rough: set[int] = set()
        for i in ir.reachable([*both.forward.roots, *both.backward.roots]):
            value = ir[i]
            below = [a for a in value.args if a in rough]
            if value.op in ("sigmoid", "tanh") or below:
                rough.add(i)
            if below and (value.op in _MAGNIFY or (value.op == "div" and value.args[1] in rough)):
                return False
    return True
