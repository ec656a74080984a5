"""The numeric probe's stack on the machine that runs graphs as data: what it clears, numpy passes as well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from evonas import search_spaces
from evonas.evaluation.screening import Screen, ScreeningOptions, stack_probe
from evonas.evaluation.stack_batch import make_ahead, surely_pass
from evonas.graph import Graph, get_layout
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

SHALLOW = ScreeningOptions(stack=4)


def sampled(count: int, name: str) -> list[bytes]:
    space = search_spaces.get("norm_act")
    return [space.random(Draws("stack batch", name, n)) for n in range(count)]


@pytest.mark.parametrize("layout", ["nchw", "btc"])
def test_what_is_cleared_passes(layout: str) -> None:
    where = get_layout(layout)
    if layout == "nchw":
        space = search_spaces.get("norm_act")
        graphs = [Graph.parse(ZOO[n].formula) for n in ("evonorm_s0", "bn_relu", "gn_silu", "relu")]
        graphs += [space.graph(g) for g in sampled(40, layout) if space.digest(g) is not None][:10]
    else:
        graphs = [Graph.parse(f) for f in ("x / rms[c](x)", "max(x, 0)", "exp(x)", "x * 0.01")]
    clear = surely_pass(graphs, where, SHALLOW, "cpu")
    passes = [stack_probe(graph, where, SHALLOW)[0] is None for graph in graphs]
    assert all(p for p, c in zip(passes, clear, strict=True) if c)
    assert sum(clear) >= 2
    # the margin leaves few for numpy to pass
    assert sum(passes) - sum(clear) <= 2


def test_a_limit_that_is_nearly_reached_is_left_to_numpy() -> None:
    where, graph = get_layout("nchw"), Graph.parse("x / rms[w,h,c/g](x)")
    assert surely_pass([graph], where, SHALLOW, "cpu") == [True]
    close = ScreeningOptions(stack=4, stack_limit=30.0)
    assert stack_probe(graph, where, close)[0] is None
    assert surely_pass([graph], where, close, "cpu") == [False]


def test_verdicts_are_the_same_with_and_without() -> None:
    space = search_spaces.get("norm_act")
    launches = 0

    def ahead(graphs: Sequence[Graph]) -> list[bool]:
        nonlocal launches
        launches += 1
        return surely_pass(graphs, space.layout, SHALLOW, "cpu")

    plain, ahead_of = Screen(space, SHALLOW), Screen(space, SHALLOW, ahead)
    genotypes = sampled(30, "screen")
    ahead_of.look_ahead(genotypes)
    assert launches == 1
    for n, genotype in enumerate(genotypes):
        assert ahead_of.looked_at(genotype) or space.reject(genotype) is not None
        one, other = plain.judge(genotype), ahead_of.judge(genotype)
        assert (one.stage, one.reason, one.digest, one.twin, one.evidence) == (
            other.stage, other.reason, other.digest, other.twin, other.evidence,
        )  # fmt: skip
        plain.remember(genotype, one, n)
        ahead_of.remember(genotype, other, n)
    ahead_of.look_ahead(genotypes)
    assert launches == 1


def test_on_a_cpu_there_is_nothing_ahead() -> None:
    make = partial(make_ahead, get_layout("nchw"), ScreeningOptions())
    assert make("cpu") is None
    assert make("cuda") is None  # no GPU here
