"""The cheap stages: what they turn away, why, and that every known layer gets through."""

from __future__ import annotations

import pytest

from evonas import search_spaces
from evonas.evaluation.screening import Screen, ScreeningOptions, numeric_probe
from evonas.graph import Graph, get_layout
from evonas.graph.fingerprint import make_probe, observe
from evonas.layers import ZOO, named_layer
from evonas.rng import Draws

#: without a norm and unbounded: they explode once weights grow
CONTROLS = {"relu", "silu", "gelu", "identity"}


def reason(formula: str, **options: object) -> str | None:
    graph = Graph.parse(formula)
    seen = observe(graph, make_probe("nchw"))
    return numeric_probe(graph, seen, get_layout("nchw"), ScreeningOptions(**options))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(set(ZOO) - CONTROLS))
def test_every_normalizing_layer_of_the_zoo_passes_the_probe(name: str) -> None:
    assert reason(ZOO[name].formula) is None


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_layers_without_a_norm_explode_only_with_larger_weights(name: str) -> None:
    assert reason(ZOO[name].formula) == "the signal explodes in a random stack"
    assert reason(ZOO[name].formula, stack_gain=1.0) is None


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("exp(exp(exp(x * x)))", "not finite on a Gaussian batch"),
        ("v1 + 0 * x + std[b,w,h](v1)", "constant in x"),
        ("tanh(mean[w,h](x))", "constant over space"),
        ("square(x)", "the signal explodes in a random stack"),
        ("exp(x)", "the signal explodes in a random stack"),
        ("x * rms[w,h,c](x)", "the signal explodes in a random stack"),
        ("sigmoid(x)", "the signal collapses in a random stack"),
        ("log(x)", "the gradient explodes in a random stack"),
        ("tanh(0.3 * x)", "the gradient vanishes in a random stack"),
    ],
)
def test_reasons(formula: str, expected: str) -> None:
    assert reason(formula) == expected


def test_the_stages_name_the_twin() -> None:
    space = search_spaces.get("norm_act")
    screen = Screen(space)
    seen = []
    for number, formula in enumerate(
        [
            "x / std[w,h](x)",
            "x / std[w,h](x)",
            "x * v1 / std[w,h](x) / v1 * v1",
            "(x + x) / std[w,h](x + x)",
            "v0 + v1",
        ]
    ):
        genotype = space.encode(Graph.parse(formula), Draws("fill", number))
        verdict = screen.judge(genotype)
        screen.remember(genotype, verdict, number)
        seen.append((verdict.stage, verdict.twin))
    assert seen[0] == (None, None)
    assert seen[1] == ("duplicate", 0)
    assert seen[2][0] is None, "a trainable factor is another layer"
    assert seen[3] == (None, None), "eps tells 2x / std(2x) from x / std(x)"
    assert seen[4] == ("structural", None)


def test_algebraic_twins_are_found_by_function() -> None:
    space = search_spaces.get("norm_act")
    screen = Screen(space)
    first = space.encode(Graph.parse("tanh(x) + x"), Draws("a"))
    verdict = screen.judge(first)
    screen.remember(first, verdict, 7)
    second = screen.judge(space.encode(Graph.parse("x * v1 + (tanh(x) + (x + -(x * v1)))"), Draws("b")))
    assert second.stage == "duplicate"
    assert second.reason == "same function as candidate 7"
    third = screen.judge(space.encode(Graph.parse("tanh(x) + x"), Draws("c")))
    assert third.reason == "same graph as candidate 7"


def test_the_s_space_turns_batch_statistics_away_by_the_active_graph() -> None:
    space = search_spaces.get("norm_act_s")
    b = space.encode(Graph.parse("x / std[b,w,h](x)"), Draws("d"))
    assert Screen(space).judge(b)[:2] == ("structural", "uses batch statistics")
    s = space.encode(named_layer("evonorm_s0").graph, Draws("e"))
    assert Screen(space).judge(s).stage is None
