"""Hypothesis strategies: genotypes and graphs as the search spaces draw them."""

from __future__ import annotations

from functools import cache

from evonas.search_spaces import Space
from hypothesis import strategies as st

from evonas import search_spaces
from evonas.graph import Graph
from evonas.rng import Draws

KEYS = st.integers(0, 2**32 - 1)
#: Every registered space, and norm_act with each option that changes how it draws.
SPACES = ("norm_act", "norm_act_s", "activation", "concrete", "distinct", "with_one", "long", "tokens")


@cache
def the_space(name: str) -> Space:
    """A space by a short name, one object per process (its caches are part of what is tested)."""
    options = {
        "concrete": {"op_draw": "concrete"},
        "distinct": {"distinct_inputs": True},
        "with_one": {"constant_one": True, "extra_primitives": ("sub", "min", "erf", "rsqrt")},
        "long": {"nodes": 40},
        "tokens": {"index_sets": ("c", "c/g", "b")},
    }.get(name)
    return search_spaces.get(name) if options is None else search_spaces.get("norm_act", **options)


@st.composite
def genotypes(draw: st.DrawFn, space: Space, mutations: int = 0) -> bytes:
    """A random genotype after up to so many mutations of every kind."""
    key = draw(KEYS)
    genotype = space.random(Draws("strategy", key))
    for i in range(draw(st.integers(0, mutations)) if mutations else 0):
        genotype, _ = space.mutate(genotype, Draws("strategy", key, i))
    return genotype


@st.composite
def graphs(draw: st.DrawFn, names: tuple[str, ...] = SPACES, largest: int = 30) -> Graph:
    """The active part of a random graph of some space, as drawn or after growth by insertions."""
    space = the_space(draw(st.sampled_from(names)))
    genotype = draw(genotypes(space))
    if draw(st.booleans()):
        growing = search_spaces.get(
            "norm_act", nodes=space.nodes, mutation_weights={"insert": 3, "rewire": 1, "replace": 1}
        )
        if growing.operations == space.operations and growing.inputs == space.inputs:
            for i in range(draw(st.integers(1, 8))):
                genotype, _ = growing.mutate(genotype, Draws("grow", genotype.hex(), i))
    graph = space.decode(genotype).active()
    return (
        graph
        if len(graph) <= largest
        else Graph(graph.leaves, graph.nodes[:largest], len(graph.leaves) + largest - 1)
    )
