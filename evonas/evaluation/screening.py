"""The cheap stages, in the driver's process and in numpy: structural, duplicate, numeric probe, and in causal spaces
a test that no token sees later ones.

The paper describes none of them (its rejection starts with training); they decide what is not worth a training
step, so their rates are reported apart from the paper's quality and stability rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from evonas import primitives
from evonas.graph.assembly import Assembly, default_affine
from evonas.graph.causality import find_leak
from evonas.graph.execute import ArrayOps, backward, forward, initial_leaves
from evonas.graph.fingerprint import Fingerprint, FingerprintIndex, Observation, make_probe, observe
from evonas.graph.graph import Graph
from evonas.graph.layout import Layout, get_layout
from evonas.graph.slots import group_name
from evonas.rng import derive_seed
from evonas.search_spaces import AnySpace

#: For each of many graphs whether it certainly passes the stack.
Ahead = Callable[[Sequence[Graph]], Sequence[bool]]
#: Names of the stages that this module runs, in order.
STAGES = ("structural", "duplicate", "probe", "causal")


@dataclass(frozen=True, slots=True)
class ScreeningOptions:
    """fingerprint: look for functionally equal candidates, not only for equal canonical graphs.
    probe: the numeric probe. stack: depth of the probe's stack of random 1x1 convolutions, 0 for none.
    stack_gain: the stack runs with He weights and again with weights this many times larger, as training may
    make them; 1 leaves the second run out. stack_limit: activations above it count as exploding.
    stack_collapse: the share of the signal that must still distinguish samples and positions.
    gradient_limit, gradient_collapse: the gradient's growth from the top to the bottom of the stack."""

    fingerprint: bool = True
    probe: bool = True
    stack: int = 16
    stack_gain: float = 4.0
    stack_limit: float = 1e8
    stack_collapse: float = 1e-8
    gradient_limit: float = 1e5
    gradient_collapse: float = 1e-6


class Verdict(NamedTuple):
    """Of one genotype. ``stage`` is None if every stage let it pass; ``twin`` is the candidate it repeats."""

    stage: str | None
    reason: str | None
    digest: bytes | None
    twin: int | None = None
    evidence: dict[str, Any] | None = None
    fingerprint: Fingerprint | None = None


class Screen:
    """The stages with the memory of what one arm of a search has seen.

    Assemblies are structural rejects and duplicates as a whole. Every graph of theirs has to pass the probe: in places
    of norms all of it, in that of an activation without the stack, since a norm stands before it. A reason of one part
    names its group of slots.

    ``judge`` decides and remembers nothing; ``remember`` enters a judged genotype under its candidate id.

    Args:
        ahead: tells for many graphs at once which of them certainly pass ``stack_probe``, see
            ``evonas.evaluation.stack_batch``. It saves time and decides nothing: verdicts are the same without it.
    """

    def __init__(
        self, space: AnySpace, options: ScreeningOptions | None = None, ahead: Ahead | None = None
    ) -> None:
        self.space = space
        self.ahead = ahead
        self._looked: set[bytes] = set()
        self._cleared: set[Graph] = set()
        self.options = options or ScreeningOptions()
        self._probe = make_probe(space.layout.name)
        self._digests: dict[bytes, int] = {}
        self._index = FingerprintIndex()
        self._seen: dict[Graph, Observation] = {}
        self._probed: dict[tuple[Graph, bool], tuple[str | None, dict[str, Any]]] = {}

    def judge(self, genotype: bytes) -> Verdict:
        """Run the stages in order until one rejects."""
        digest = self.space.digest(genotype)
        if digest is None:
            return Verdict("structural", "the output does not depend on x", None)
        twin = self._digests.get(digest)
        if twin is not None:
            return Verdict("duplicate", f"same graph as candidate {twin}", digest, twin)
        reason = self.space.reject(genotype)
        if reason is not None:
            return Verdict("structural", reason, digest)
        if not (self.options.fingerprint or self.options.probe or self.space.causal):
            return Verdict(None, None, digest)
        parts = _parts(self.space.graph(genotype))
        seen = [self._observe(graph) for graph in parts.values()]
        print_ = seen[0].fingerprint if len(seen) == 1 else Fingerprint.joined([s.fingerprint for s in seen])
        if self.options.fingerprint:
            found = self._index.find(print_)
            if found is not None:
                twin, distance = found
                reason = f"same function as candidate {twin}"
                return Verdict("duplicate", reason, digest, twin, {"distance": distance}, print_)
        for (slots, graph), shown in zip(parts.items(), seen, strict=True):
            where = f" in {group_name(slots)}" if len(parts) > 1 else ""
            if self.options.probe:
                reason, evidence = self._judged(graph, shown, default_affine(slots) or not slots)
                if reason is not None:
                    return Verdict("probe", reason + where, digest, None, evidence, print_)
            leak = find_leak(graph) if self.space.causal else None
            if leak is not None:
                evidence = {"changed": leak.changed, "affected": leak.affected, "size": leak.size}
                return Verdict(
                    "causal", f"a token sees later ones{where}: {leak}", digest, None, evidence, print_
                )
        return Verdict(None, None, digest, None, None, print_)

    def _observe(self, graph: Graph) -> Observation:
        """Parts of assemblies come again and again: mutation changes one part of several."""
        if len(self.space.groups) == 1:
            return observe(graph, self._probe)
        known = self._seen.get(graph)
        if known is None:
            known = observe(graph, self._probe)
            self._keep(self._seen, graph, known)
        return known

    def _judged(self, graph: Graph, seen: Observation, stack: bool) -> tuple[str | None, dict[str, Any]]:
        """What the numeric probe says of a graph, with the stack of layers or without."""
        options = self.options if stack else replace(self.options, stack=0)
        cleared = graph in self._cleared
        if len(self.space.groups) == 1:
            return numeric_probe(graph, seen, self.space.layout, options, cleared=cleared)
        known = self._probed.get((graph, stack))
        if known is None:
            known = numeric_probe(graph, seen, self.space.layout, options, cleared=cleared)
            self._keep(self._probed, (graph, stack), known)
        return known

    @staticmethod
    def _keep(table: dict[Any, Any], key: Any, value: Any) -> None:
        if len(table) >= _KEPT:
            table.clear()
        table[key] = value

    def look_ahead(self, genotypes: Iterable[bytes]) -> None:
        """Ask ``ahead`` about genotypes that may be judged soon, in one go. Those that will not be cost time alone."""
        if self.ahead is None:
            return
        found: dict[Graph, None] = {}
        for genotype in genotypes:
            digest = self.space.digest(genotype)
            if digest is None or digest in self._digests or digest in self._looked:
                continue
            self._looked.add(digest)
            if self.space.reject(genotype) is None:
                parts = _parts(self.space.graph(genotype))
                found |= dict.fromkeys(g for slots, g in parts.items() if default_affine(slots) or not slots)
        if found:
            clear = self.ahead(list(found))
            self._cleared.update(graph for graph, sure in zip(found, clear, strict=True) if sure)

    def looked_at(self, genotype: bytes) -> bool:
        """Whether ``look_ahead`` has nothing to add about a genotype."""
        digest = self.space.digest(genotype)
        return self.ahead is None or digest is None or digest in self._digests or digest in self._looked

    def remember(self, genotype: bytes, verdict: Verdict, candidate: int) -> None:
        """Later candidates that equal this one are its duplicates. Structural rejects are not remembered."""
        if verdict.digest is None or verdict.stage == "structural":
            return
        self._digests.setdefault(verdict.digest, verdict.twin if verdict.twin is not None else candidate)
        if verdict.twin is None and verdict.fingerprint is not None and self.options.fingerprint:
            self._index.add(verdict.fingerprint, candidate)

    def __len__(self) -> int:
        return len(self._digests)


#: Graphs whose observations are kept.
_KEPT = 4096


def _parts(candidate: Graph | Assembly) -> dict[tuple[str, ...], Graph]:
    """The graph of every part by its slots; of a graph alone, by none."""
    if isinstance(candidate, Graph):
        return {(): candidate}
    return {part.slots: part.graph for part in candidate.parts}


def numeric_probe(
    graph: Graph,
    seen: Observation,
    layout: Layout,
    options: ScreeningOptions | None = None,
    *,
    cleared: bool = False,
) -> tuple[str | None, dict[str, Any]]:
    """Why a graph fails on random numbers, or None; with the numbers behind it.

    In order: a NaN or Inf in the output or a gradient; an output that does not change with x; one that does
    not vary over space; a signal that explodes or collapses in a stack of random 1x1 convolutions. cleared: that the
    stack passes is known.
    """
    options = options or ScreeningOptions()
    if seen.fingerprint.structure or not (np.isfinite(seen.y).all() and np.isfinite(seen.dx).all()):
        return "not finite on a Gaussian batch", {}
    slope = float(np.abs(seen.dx).max())
    if slope <= 1e-12:
        return "constant in x", {"slope": slope}
    space = tuple(1 + p for p, d in enumerate(layout.dims) if d in ("h", "w", "t"))
    spread = float((seen.y - seen.y.mean(axis=space, keepdims=True)).std())
    if spread <= 1e-9:
        return "constant over space", {"spread": spread}
    if options.stack and not cleared:
        return stack_probe(graph, layout, options)
    return None, {}


@lru_cache(maxsize=8)
def probe_stack(layout_name: str, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input and output adjoint (8 samples, 8 channels in 2 groups, 16 positions), ``depth`` He-normal mixings."""
    layout = get_layout(layout_name)
    rng = np.random.Generator(np.random.PCG64(derive_seed("stack", layout_name, depth)))
    shape = tuple({"b": 8, "g": 2, "k": 4, "h": 4, "w": 4, "t": 16}[d] for d in layout.dims)
    return rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=(depth, 8, 8)) * np.sqrt(2.0 / 8)


def _mix(a: np.ndarray, mixing: np.ndarray, layout: Layout) -> np.ndarray:
    """A 1x1 convolution in the split view."""
    g, k = layout.channel_dims
    last = np.moveaxis(a, (g, k), (-2, -1))
    mixed = (last.reshape(*last.shape[:-2], 8) @ mixing).reshape(last.shape)
    return np.moveaxis(mixed, (-2, -1), (g, k))


def stack_probe(graph: Graph, layout: Layout, options: ScreeningOptions) -> tuple[str | None, dict[str, Any]]:
    """Signal and gradient propagation through random 1x1 convolutions, each followed by the layer.

    No affine, no skip connections, parameters as initialized. A layer without any normalizing effect passes with
    He weights and explodes with larger ones, as its network does once training has moved the weights.
    """
    for gain in dict.fromkeys((1.0, options.stack_gain)):
        reason, evidence = _propagate(graph, layout, options, gain)
        if reason is not None:
            return reason, {"gain": gain, **evidence}
    return None, {}


def _propagate(
    graph: Graph, layout: Layout, options: ScreeningOptions, gain: float
) -> tuple[str | None, dict[str, Any]]:
    x, g, mixings = probe_stack(layout.name, options.stack)
    ops = ArrayOps(primitives.numpy_namespace, layout)
    channels_last = tuple(p for p in range(x.ndim) if p not in layout.channel_dims)
    tape = []
    with np.errstate(all="ignore"):
        for depth, mixing in enumerate(mixings, start=1):
            tape.append(forward(graph, initial_leaves(gain * _mix(x, mixing, layout), layout), ops))
            x = np.broadcast_to(tape[-1][graph.output], x.shape)
            size = float(np.abs(x).max())
            if not size < options.stack_limit:
                return "the signal explodes in a random stack", {"depth": depth, "size": size}
            total = float(np.square(x).mean())
            between = float(x.var(axis=channels_last).mean())
            if total < 1e-30 or between < options.stack_collapse * total:
                return "the signal collapses in a random stack", {
                    "depth": depth,
                    "total": total,
                    "between": between,
                }
        start = float(np.square(g).mean())
        for depth, (mixing, values) in enumerate(zip(mixings[::-1], tape[::-1], strict=True), start=1):
            dx = backward(graph, values, g, ops).get("x")
            g = (
                np.zeros(x.shape)
                if dx is None
                else gain * _mix(np.broadcast_to(dx, x.shape), mixing.T, layout)
            )
            growth = float(np.sqrt(np.square(g).mean() / start))
            if not growth < options.gradient_limit:
                return "the gradient explodes in a random stack", {"depth": depth, "growth": growth}
        if growth < options.gradient_collapse:
            return "the gradient vanishes in a random stack", {"growth": growth}
    return None, {}
