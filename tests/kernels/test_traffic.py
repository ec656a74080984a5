"""How often kernels go through tensors, from their plans: floors, Inductor's counts, and random layers.

The floor is 2 tensors forward (read x, write y) and 3 backward (read x and dy, write dx). What is allowed beyond it are
vectors, saved statistics and partial sums of vector gradients. Neither torch nor triton takes part.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import prod
from pathlib import Path
from types import ModuleType

import pytest
from evonas.kernels.axes import dim_sizes

from evonas.graph.graph import Graph
from evonas.graph.layout import NCHW
from evonas.layers.zoo import ZOO

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMAGES, GROUPS = (128, 256, 32, 32), 32
ONE_PASS = ("gn_silu", "gn_relu", "evonorm_s0", "evonorm_s1", "evonorm_s2")
OVER_THE_BATCH = ("bn_relu", "evonorm_b0")
TOKENS = ("(x - mean[c](x)) / std[c](x)", "x / rms[c](x)")
#: Elements of a domain that a backward kernel of default limits holds in registers.
FITS = 8192


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernel_traffic

    return kernel_traffic


# -- known layers against the floor --------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_layer_over_groups_reads_and_writes_every_tensor_once(counting: ModuleType, name: str) -> None:
    forward, backward = counting.moved(ZOO[name].formula, "nchw", IMAGES, groups=GROUPS)
    assert (forward.tensors, backward.tensors) == (2, 3)
    assert forward.swept <= 2.02
    assert backward.swept <= 3.02


@pytest.mark.parametrize("formula", TOKENS)
@pytest.mark.parametrize(
    ("shape", "rows"), [((8, 2048, 1024), 0.07), ((16, 1024, 1024), 0.07), ((16, 1024, 4096), 0.07)]
)
def test_a_layer_over_channels_too(
    counting: ModuleType, formula: str, shape: tuple[int, ...], rows: float
) -> None:
    """rows: partial sums of two float32 vector gradients, one row per program: several programs for each of 132
    processors, written once and read once."""
    forward, backward = counting.moved(formula, "btc", shape, groups=GROUPS)
    assert (forward.tensors, backward.tensors) == (2, 3)
    assert forward.swept <= 2.02
    assert backward.swept <= 3 + rows


@pytest.mark.parametrize("name", OVER_THE_BATCH)
def test_a_layer_over_the_batch_sweeps_twice_or_meets_in_the_middle(counting: ModuleType, name: str) -> None:
    formula = ZOO[name].formula
    forward, backward = counting.moved(formula, "nchw", IMAGES, groups=GROUPS)
    assert forward.swept <= 3.05
    assert backward.swept <= 5.05
    forward, backward = counting.moved(formula, "nchw", IMAGES, groups=GROUPS, limits=counting.COOPERATIVE)
    assert (forward.tensors, backward.tensors) == (2, 3)
    assert forward.swept <= 2.05
    assert backward.swept <= 3.05


def test_bytes_are_those_that_can_be_worked_out_by_hand(counting: ModuleType) -> None:
    batch, tokens, channels = 64, 512, 256
    x, vector = batch * tokens * channels * 2, channels * 4
    forward, backward = counting.moved(TOKENS[1], "btc", (batch, tokens, channels), groups=GROUPS)
    statistic = batch * tokens * 4
    # reads x, weight and bias, writes y and the statistic that the backward pass reads
    assert forward.swept * x == 2 * x + 2 * vector + statistic
    # reads x, dy, weight and the statistic, writes dx; the rest are rows of two vector gradients
    rest = backward.swept * x - (3 * x + vector + statistic)
    assert 0 < rest < x
    assert backward.tensors == 3


def test_the_size_of_an_element_counts(counting: ModuleType) -> None:
    narrow = counting.moved(TOKENS[0], "btc", (4, 512, 256), groups=GROUPS, itemsize=2)
    wide = counting.moved(TOKENS[0], "btc", (4, 512, 256), groups=GROUPS, itemsize=4)
    # vectors are float32 in both, so they weigh half as much beside a wider x
    for one, two in zip(narrow, wide, strict=True):
        assert (one.swept - one.tensors) == pytest.approx(2 * (two.swept - two.tensors))


# -- against Inductor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cooperative", [False, True])
def test_no_layer_moves_more_than_inductor_moves_for_it(counting: ModuleType, cooperative: bool) -> None:
    rows = counting.inductor_rows()
    assert len(rows) >= 35
    limits = counting.COOPERATIVE if cooperative else counting.LIMITS
    above = []
    for row in rows:
        # torch's own layers take parameters in the dtype of x on a GPU, the others have them in float32
        vectors = 2 if row["spelling"] == "native" else 4
        ours = counting.moved(
            row["formula"], row["layout"], row["shape"], groups=row["groups"], vectors=vectors, limits=limits
        )
        # and its RMS norm has no bias
        bias = vectors * row["shape"][-1] / row["x_bytes"] if row["formula"] == TOKENS[1] else 0.0
        for which, mine, theirs in zip(counting.PASSES, ours, counting.inductor_units(row), strict=True):
            if mine.unique - (bias if row["spelling"] == "native" else 0.0) > theirs + 1e-9:
                above.append(
                    f"{row['name']} {row['spelling']} {which}: {mine.unique:.4f}, Inductor {theirs:.4f}"
                )
    assert above == []


@pytest.mark.parametrize(("cooperative", "excess"), [(False, 0.016), (True, 0.0)])
def test_no_nested_layer_moves_more_than_inductor_moves_for_it(
    counting: ModuleType, cooperative: bool, excess: float
) -> None:
    """The record is written by ``python benchmarks/inductor_nested.py --json``.

    excess: default plans write and read more numbers of small statistics here and there, in sizes of x.
    """
    rows = counting.inductor_rows(BENCHMARKS / "results" / "inductor_nested.json")
    assert [row["formula"] for row in rows] == [str(graph) for graph in nested_layers()]
    limits = counting.COOPERATIVE if cooperative else counting.LIMITS
    above = []
    for row in rows:
        assert (row["spelling"], row["layout"], tuple(row["shape"])) == ("graph", "nchw", IMAGES)
        ours = counting.moved(
            row["formula"], row["layout"], row["shape"], groups=row["groups"], limits=limits
        )
        for which, mine, theirs in zip(counting.PASSES, ours, counting.inductor_units(row), strict=True):
            if mine.unique > theirs + excess + 1e-9:
                above.append(f"{row['formula']} {which}: {mine.unique:.4f}, Inductor {theirs:.4f}")
    assert above == []


def test_inductor_is_given_its_best_spelling(counting: ModuleType) -> None:
    best = {row["name"]: row["spelling"] for row in counting.best_spellings(counting.inductor_rows())}
    assert best["bn_relu"] == "native"  # 9.5 units in all, 14 written out, 21 as the graph
    assert best["evonorm_s0"] == "graph"  # 11 units in all, 13 written out


def test_the_committed_file_says_what_the_plans_say(counting: ModuleType) -> None:
    """It is written by ``python benchmarks/kernel_traffic.py --json``."""
    path = BENCHMARKS / "results" / "kernel_traffic.json"
    held, made = json.loads(path.read_text(encoding="utf-8")), counting.report()
    assert [row["name"] for row in held["layers"]] == [row["name"] for row in made["layers"]]
    for then, now in zip(held["layers"], made["layers"], strict=True):
        for whose in ("ours", "cooperative"):
            for which in counting.PASSES:
                assert then[whose][which]["tensors"] == now[whose][which]["tensors"], then["name"]
                assert then[whose][which]["swept"] == pytest.approx(now[whose][which]["swept"], abs=0.05)
        assert then["inductor"] == now["inductor"]


# -- random layers -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def nested_layers() -> tuple[Graph, ...]:
    from nested_layers import nested_layers as draw  # of benchmarks/, which `counting` puts on the path

    return draw()


def domain_elements(graph: Graph) -> int:
    """Elements of the widest index set."""
    sizes = dim_sizes("nchw", IMAGES, GROUPS)
    return max(prod(sizes[d] for d in NCHW.covered(index)) for index in graph.index_sets)


def test_small_domains_are_held_in_registers(counting: ModuleType) -> None:
    small = [graph for graph in nested_layers() if domain_elements(graph) <= FITS]
    assert len(small) >= 40
    for graph in small:
        forward, backward = counting.moved(str(graph), "nchw", IMAGES, groups=GROUPS)
        assert forward.tensors <= 2, str(graph)
        assert backward.tensors <= 3, str(graph)


def test_large_domains_are_held_by_programs_together(counting: ModuleType) -> None:
    """Moments of moments among them: all nested layers there are."""
    large = [graph for graph in nested_layers() if domain_elements(graph) > FITS]
    assert len(large) >= 40
    for graph in large:
        forward, backward = counting.moved(
            str(graph), "nchw", IMAGES, groups=GROUPS, limits=counting.COOPERATIVE
        )
        assert forward.tensors <= 2, str(graph)
        assert backward.tensors <= 3, str(graph)


def test_statistics_apart_save_sweeps_where_no_programs_wait(counting: ModuleType) -> None:
    """What needs x beside a statistic over a large domain has to read x again, as a batch norm does; no other has."""
    large = [graph for graph in nested_layers() if domain_elements(graph) > FITS]
    moved = {g: counting.moved(str(g), "nchw", IMAGES, groups=GROUPS) for g in large}
    again = {str(g): (f.tensors, b.tensors) for g, (f, b) in moved.items() if f.tensors > 2 or b.tensors > 3}
    assert again == {"max(log(std[b,w,h](x)), x)": (3, 5), "(rms[w,h,c](x / 0) + x) / max(v1, v0)": (3, 4)}


def test_every_nested_layer_is_one_sweep_per_level_at_most(counting: ModuleType) -> None:
    """With default limits: a level of statistics costs a sweep forward, and two (x and dy) backward."""
    for graph in nested_layers():
        forward, backward = counting.moved(str(graph), "nchw", IMAGES, groups=GROUPS)
        moments = sum(node.index is not None for _, node in graph.operations())
        assert forward.tensors <= 2 + moments, str(graph)
        assert backward.tensors <= 3 + 2 * moments, str(graph)
