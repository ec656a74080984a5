"""Functional fingerprint: outputs *and* gradients on seeded probes, at two settings of the parameters.

Two graphs with the same fingerprint compute the same layer, whatever they look like. The fingerprint is a
short vector (fixed random projections of squashed values) plus a structure (where values are NaN, +Inf, -Inf).
Vectors are compared by distance inside a bucket, not by rounding: rounding to k decimals splits values that lie
next to a boundary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from evonas import primitives
from evonas.graph.execute import ArrayOps, backward, forward, reduce_to_scalar, reduce_to_vector
from evonas.graph.graph import SCALAR_LEAVES, VECTOR_LEAVES, Graph
from evonas.graph.layout import Layout, get_layout
from evonas.rng import derive_seed

#: Largest distance (in squashed units, every component) of two fingerprints that count as equal.
TOLERANCE = 1e-7
#: Width of a bucket along each of the first two components.
WIDTH = 1e-3
_COMPONENTS = 12
_SIZES = {"b": 4, "t": 4, "g": 2, "k": 2, "h": 2, "w": 3}
#: an exploding value is "as good as infinite" from here on
_HUGE = 1e30


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs of the fingerprint in the split view with a leading axis of two settings, float64.

    Setting 0 has v0 = s0 = 0 and v1 = s1 = 1 as at initialization, setting 1 has random ones. ``scalar_projection`` is
    for the gradients of s0 and s1; a graph without them has the fingerprint that it would have without it.
    """

    layout: Layout
    leaves: dict[str, np.ndarray]
    g: np.ndarray
    projection: np.ndarray
    scalar_projection: np.ndarray
    ops: ArrayOps

    @property
    def shape(self) -> tuple[int, ...]:
        return self.g.shape


@lru_cache(maxsize=8)
def make_probe(layout_name: str, seed: int = 0) -> Probe:
    """The probe of a layout; the same seed gives the same probe on every machine."""
    layout = get_layout(layout_name)
    rng = np.random.Generator(np.random.PCG64(derive_seed("fingerprint", layout_name, seed)))
    shape = (2, *(_SIZES[d] for d in layout.dims))
    x = np.repeat(rng.normal(0.3, 1.2, size=(1, *shape[1:])), 2, axis=0)
    vector = tuple(_SIZES[d] if d in ("g", "k") else 1 for d in layout.dims)
    v0 = np.stack([np.zeros(vector), rng.normal(0.0, 0.7, vector)])
    v1 = np.stack([np.ones(vector), rng.normal(1.0, 0.5, vector)])
    g = np.repeat(rng.normal(size=(1, *shape[1:])), 2, axis=0)
    width = 2 * g.size + v0.size + v1.size
    projection = rng.normal(size=(width, _COMPONENTS)) / math.sqrt(width)
    ops = ArrayOps(primitives.numpy_namespace, layout, offset=1)
    more = np.random.Generator(np.random.PCG64(derive_seed("fingerprint scalars", layout_name, seed)))
    s0, s1 = (
        np.array([start, more.normal(start, 0.6)]).reshape(2, *(1 for _ in layout.dims))
        for start in (0.0, 1.0)
    )
    scalar_projection = more.normal(size=(4, _COMPONENTS)) / math.sqrt(width)
    leaves = {"x": x, "v0": v0, "v1": v1, "s0": s0, "s1": s1}
    return Probe(layout, leaves, g, projection, scalar_projection, ops)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``structure`` is empty if all values are finite, else a hash of where they are not."""

    structure: bytes
    vector: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Fingerprint]) -> Fingerprint:
        """Of an assembly: equal to another one exactly if all parts are."""
        structure = b"".join(part.structure.ljust(8, b"\0") for part in parts)
        return cls(structure if any(structure) else b"", np.concatenate([part.vector for part in parts]))

    def cell(self) -> tuple[bytes, int, int]:
        """The bucket that the fingerprint falls into."""
        return (self.structure, math.floor(self.vector[0] / WIDTH), math.floor(self.vector[1] / WIDTH))

    def cells(self) -> Iterator[tuple[bytes, int, int]]:
        """Every bucket that an equal fingerprint may have fallen into: its own first."""
        options = []
        for value in self.vector[:2]:
            at = value / WIDTH
            low = math.floor(at)
            near = [low]
            if at - low < TOLERANCE / WIDTH:
                near.append(low - 1)
            elif low + 1 - at < TOLERANCE / WIDTH:
                near.append(low + 1)
            options.append(near)
        for first in options[0]:
            for second in options[1]:
                yield (self.structure, first, second)

    def distance(self, other: Fingerprint) -> float:
        """Largest difference of a component; infinite if the structures differ."""
        if self.structure != other.structure:
            return math.inf
        return float(np.abs(self.vector - other.vector).max())


@dataclass(frozen=True, slots=True)
class Observation:
    """What one run of a graph on the probe shows, shared by fingerprint and numeric probe.

    y and dx have the probe's shape (2 settings leading), float64.
    """

    y: np.ndarray
    dx: np.ndarray
    fingerprint: Fingerprint


def observe(graph: Graph, probe: Probe) -> Observation:
    """Run a graph and its gradients on the probe. Never raises for a non-finite value."""
    shape = probe.shape
    with np.errstate(all="ignore"):
        values = forward(graph, probe.leaves, probe.ops)
        adjoints = backward(graph, values, probe.g, probe.ops)
        flat = np.zeros(len(probe.projection))
        full, vector_size = probe.g.size, probe.leaves["v0"].size
        y, dx = flat[:full].reshape(shape), flat[full : 2 * full].reshape(shape)
        y[...] = values[graph.output]
        dx[...] = adjoints.get("x", 0.0)
        for position, leaf in enumerate(VECTOR_LEAVES):
            if leaf in adjoints:
                at = 2 * full + position * vector_size
                summed = flat[at : at + vector_size].reshape(probe.leaves[leaf].shape)
                summed[...] = reduce_to_vector(adjoints[leaf], shape, probe.layout, 1)
        used = [leaf for leaf in SCALAR_LEAVES if leaf in adjoints]
        if used:
            flat = np.concatenate([flat, np.zeros(4)])
            for leaf in used:
                at = len(flat) - 4 + 2 * SCALAR_LEAVES.index(leaf)
                flat[at : at + 2] = reduce_to_scalar(adjoints[leaf], shape, 1).reshape(2)
        size = np.abs(flat)
        structure = b""
        if not size.max() < _HUGE:  # true for NaN too
            regular = size < _HUGE
            kind = np.where(regular, 0, np.where(np.isnan(flat), 1, np.where(flat > 0, 2, 3))).astype(
                np.uint8
            )
            structure = hashlib.blake2b(kind.tobytes(), digest_size=8).digest()
            flat = np.where(regular, flat, 0.0)
            size = np.abs(flat)
        size += 1.0
        squashed = np.divide(flat, size, out=size)
        if used:
            vector = squashed[:-4] @ probe.projection + squashed[-4:] @ probe.scalar_projection
        else:
            vector = squashed @ probe.projection
    return Observation(y, dx, Fingerprint(structure, vector))


class FingerprintIndex:
    """Fingerprints seen so far, found again by distance."""

    def __init__(self) -> None:
        self._cells: dict[tuple[bytes, int, int], list[tuple[np.ndarray, int]]] = {}

    def find(self, fingerprint: Fingerprint) -> tuple[int, float] | None:
        """Key and distance of an equal fingerprint, or None."""
        for cell in fingerprint.cells():
            for vector, key in self._cells.get(cell, ()):
                distance = float(np.abs(vector - fingerprint.vector).max())
                if distance <= TOLERANCE:
                    return key, distance
        return None

    def add(self, fingerprint: Fingerprint, key: int) -> None:
        """Remember a fingerprint under an integer key."""
        self._cells.setdefault(fingerprint.cell(), []).append((fingerprint.vector, key))


def fingerprint(graph: Graph, layout: str = "nchw", seed: int = 0) -> Fingerprint:
    """The functional fingerprint of a graph in a layout."""
    return observe(graph.active(), make_probe(layout, seed)).fingerprint


def same_function(a: Graph, b: Graph, layout: str = "nchw", **options: Any) -> bool:
    """Whether two graphs are the same layer as far as the probes can tell."""
    return fingerprint(a, layout, **options).distance(fingerprint(b, layout, **options)) <= TOLERANCE
