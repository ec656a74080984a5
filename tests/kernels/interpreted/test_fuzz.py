"""Generated kernels against float64 autograd: random graphs, the zoo, odd shapes, all layouts, schedules and dtypes."""

from __future__ import annotations

import random
from typing import Any
from unittest import mock

import pytest
import torch
from evonas.kernels import runtime
from evonas.kernels import verify as verifying
from evonas.kernels.programs import LayerSpec
from evonas.kernels.tiling import LIMITS, Limits
from evonas.kernels.verify import SLACK, Check, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evonas
from evonas import search_spaces
from evonas.graph import Graph
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

SPACES = {
    "paper": search_spaces.get("norm_act"),
    "more": search_spaces.get(
        "norm_act", nodes=10, constant_one=True, extra_primitives=("sub", "min", "erf", "rsqrt")
    ),
}
#: Index sets of token layers in the place of the paper's four.
TOKENS = {"b,w,h": "b,t", "w,h,c/g": "c/g", "w,h,c": "c", "w,h": "b"}
OPTIONS: dict[str, Any] = {
    "deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck),
}  # fmt: skip


def random_graph(seed: int, space: str = "paper") -> Graph | None:
    """The active part of a random graph of the sampler, or None if x is not in it."""
    drawn = SPACES[space]
    graph = drawn.decode(drawn.random(Draws("kernels", seed))).active()
    return graph if "x" in graph.leaves else None


def to_tokens(formula: str) -> str:
    """The formula with token index sets."""
    return "[".join(
        part if n == 0 else TOKENS.get(part.split("]")[0], part.split("]")[0]) + part[part.index("]") :]
        for n, part in enumerate(formula.split("["))
    )


def limits(r: random.Random, small: bool = False) -> Limits:
    """Limits so small that sweeps, splits, loops and merges happen on small tensors, tensors are made again that few
    registers cannot hold, and launches cost nothing, so that statistics have kernels of their own; or the real ones,
    unless they must be ``small``."""
    if not small and r.random() < 0.6:
        return LIMITS
    return Limits(
        r.choice([1, 2, 20]), r.choice([8, 32, 128]), r.choice([8, 32, 128]), r.choice([8, 32, 64]),
        r.choice([16, 64]), r.choice([2, 4, 8]), r.choice([0, 64]), registers=r.choice([1 << 16, 32]),
        launch=0 if small else r.choice([0, 1 << 21]),
    )  # fmt: skip


def case(formula: str, seed: int, small: bool = False) -> dict[str, Any]:
    """A layout, shape, memory order, options and limits for a formula, drawn from a seed."""
    r = random.Random(seed)
    channels, groups = r.choice([(8, 4), (6, 3), (4, 1), (5, 5), (12, 2), (1, 1)])
    if r.random() < 0.3:
        spec = LayerSpec(to_tokens(formula), "btc", affine=r.random() < 0.8, residual=r.random() < 0.2)
        shape = (r.randint(1, 4), r.choice([1, 2, 5, 7]), channels)
    else:
        memory = r.choice(["contiguous", "channels_last"])
        spec = LayerSpec(formula, "nchw", memory, affine=r.random() < 0.8, residual=r.random() < 0.2)
        shape = (r.randint(1, 4), channels, r.choice([1, 3, 5]), r.choice([1, 2, 4, 7]))
    return {"spec": spec, "shape": shape, "groups": groups, "seed": seed, "limits": limits(r, small)}


def run(one: dict[str, Any], **options: Any) -> Check:
    """``verify`` under the case's limits."""
    with runtime.scheduled_with(one["limits"]):
        return verify(one["spec"], one["shape"], one["groups"], seed=one["seed"], **options)


def describe(one: dict[str, Any], check: Check) -> str:
    return f"{one} failed: {check.failures}, float32 itself: {dict(check.rounding)}"


@settings(max_examples=120, **OPTIONS)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**31))
    graph = random_graph(seed, data.draw(st.sampled_from(sorted(SPACES))))
    if graph is None:
        return
    one = case(str(graph), seed)
    check = run(one)
    assert not check.failures, describe(one, check)


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize("seed", range(2))
def test_the_zoo(name: str, seed: int) -> None:
    one = case(str(Graph.parse(ZOO[name].formula)), seed)
    check = run(one)
    assert not check.failures, describe(one, check)


def test_a_gradient_that_varies_less_than_the_channels_that_are_swept() -> None:
    """One sum for all channels of a group, added to each of their rows in memory, times the positions."""
    narrow = Limits(1, 32, 8, 64, 64, 2, 64)
    spec = LayerSpec("x + mean[w,h,c/g](v0)")
    one = {"spec": spec, "shape": (3, 8, 1, 7), "groups": 4, "seed": 1, "limits": narrow}
    check = run(one)
    assert check.strict, describe(one, check)


#: Small tiles; and launches for nothing.
SWEPT = Limits(2, 32, 32, 32, 32, 4, 0)
APART = Limits(2, 32, 32, 32, 32, 4, 0, launch=0)


@pytest.mark.parametrize(
    ("formula", "shape", "groups", "some"),
    [
        # the mean inside the variance is a product, and partial ones are merged
        ("x / std[b,w,h](v1 * x)", (16, 4, 4, 4), 4, Limits(fill=32, small=0)),
        # one position: no deviation, for each row of channels
        ("rms[w,h,c/g](std[w,h](x))", (2, 8, 1, 1), 4, LIMITS),
        # tiles of one element
        ("v0 * erf(x)", (1, 5, 7, 1), 5, Limits(20, 8, 32, 8, 16, 8, 0)),
        # statistics of blocks, tensors and what only they need, in one sweep
        ("std[b,w,h](mean[w,h](x) + x)", (8, 4, 3, 5), 2, APART),
        ("std[b,w,h](log(x)) / rms[w,h](tanh(log(x)))", (8, 4, 3, 5), 2, APART),
        ("rms[w,h,c](max(v1, v0)) * x", (4, 8, 3, 5), 2, APART),
        ("mean[w,h,c/g](rms[w,h,c](v0) / max(rms[w,h](x), x))", (4, 8, 3, 5), 2, APART),
        ("max(rms[w,h,c](rms[w,h,c/g](x) * v0), sigmoid(v0))", (4, 8, 3, 5), 2, APART),
        ("mean[w,h,c/g](mean[b,w,h](max(x, x)))", (2, 12, 1, 1), 2, APART),
        # two variances around one mean
        ("x / std[w,h,c/g](x) + std[w,h,c/g](mean[w,h](x))", (4, 8, 3, 5), 1, SWEPT),
        ("std[b,w,h](x) + std[b,w,h](mean[w,h](x))", (4, 8, 3, 5), 2, SWEPT),
        # and around a mean that is zero, which is no name for zero elsewhere
        ("max(0, x) * std[b,w,h](v1 * (x - mean[b,w,h](x)))", (16, 4, 4, 4), 4, SWEPT),
        (
            "std[b,w,h](v1 * (x - mean[b,w,h](x))) * std[b,w,h](v1 * (abs(x) - mean[b,w,h](abs(x)))) * x",
            (16, 4, 4, 4),
            4,
            SWEPT,
        ),
    ],
)
def test_schedules(formula: str, shape: tuple[int, ...], groups: int, some: Limits) -> None:
    for memory in ("contiguous", "channels_last"):
        one = {
            "spec": LayerSpec(formula, "nchw", memory),
            "shape": shape,
            "groups": groups,
            "seed": 1,
            "limits": some,
        }
        check = run(one)
        assert check.strict, describe(one, check)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "gn_silu", "ln_gelu", "dyt", "frn"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    for seed in range(3):
        one = case(str(Graph.parse(ZOO[name].formula)), seed)
        check = run(one, dtype=dtype)
        assert check.strict, describe(one, check)


@settings(max_examples=30, **OPTIONS)
@given(st.integers(0, 2**31))
def test_random_graphs_in_bfloat16(seed: int) -> None:
    graph = random_graph(seed)
    if graph is None:
        return
    one = case(str(graph), seed)
    check = run(one, dtype=torch.bfloat16)
    # the graph itself may magnify the rounding of its input without bound, so eager on the same input is the measure
    assert not check.failures, describe(one, check)


#: The smallest normal and the largest number of float16: below, its steps are coarser than the tolerance.
HELD = (2.0**-14, 65504.0)


@settings(max_examples=30, **OPTIONS)
@given(st.integers(0, 2**31))
def test_random_graphs_in_float16(seed: int) -> None:
    graph = random_graph(seed)
    if graph is None:
        return
    one = case(str(graph), seed)
    reference, wanted = verifying._eager, []

    def eager(*args: Any) -> dict[str, torch.Tensor]:
        wanted.append(reference(*args))
        return wanted[-1]

    with mock.patch.object(verifying, "_eager", eager):
        check = run(one, dtype=torch.float16)
    # tensors like x have the dtype of x, parameters and their gradients do not
    held = {n: HELD[0] <= float(wanted[0][n].abs().max()) <= HELD[1] for n in ("y", "dx")}
    judged = {n: e for n, e in check.failures.items() if held.get("dx" if n == "dresidual" else n, True)}
    assert not judged, describe(one, check)


#: Formula, shape and groups: many channels, few elements, some widths with no factor of 16.
WIDE = [
    ("x * sigmoid(v1 * x) / std[w,h,c/g](x)", (2, 520, 1, 1), 8),
    ("x * sigmoid(v1 * x) / std[w,h,c/g](x)", (2, 520, 2, 2), 4),
    ("max((x - mean[b,w,h](x)) / std[b,w,h](x), 0)", (3, 520, 1, 1), 8),
    ("x / max(std[b,w,h](x), v1 * x + std[w,h](x))", (2, 513, 2, 1), 3),
    ("(x - mean[w,h,c](x)) / std[w,h,c](x)", (2, 520, 2, 2), 4),
    ("max(rms[w,h,c/g](std[b,w,h](x)), x) * v0", (2, 520, 1, 2), 4),
    ("x / rms[c](v0 + x)", (2, 1023, 1, 1), 1),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens"])
@pytest.mark.parametrize(("formula", "shape", "groups"), WIDE)
def test_many_channels(formula: str, shape: tuple[int, ...], groups: int, layout: str) -> None:
    if layout == "tokens":
        spec = LayerSpec(to_tokens(formula), "btc")
        shape = (shape[0], shape[2] * shape[3] + 2, shape[1])
    else:
        spec = LayerSpec(formula, "nchw", layout)
    # once with sweeps and splits
    some = Limits(4, 128, 128, 128, 128, 4, 0, launch=0) if layout == "channels_last" else LIMITS
    one = {"spec": spec, "shape": shape, "groups": groups, "seed": 1, "limits": some}
    check = run(one)
    assert check.strict, describe(one, check)


def over_the_batch(count: int) -> list[tuple[int, str]]:
    """The first random graphs with moments over the batch, with their seeds."""
    found: list[tuple[int, str]] = []
    seed = 0
    while len(found) < count:
        graph = random_graph(seed)
        if graph is not None and graph.uses_batch:
            found.append((seed, str(graph)))
        seed += 1
    return found


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_graphs_with_running_statistics(first: int) -> None:
    """In evaluation what was a moment over the batch is an input; the module sees to it."""
    for seed, formula in over_the_batch(first + 10)[first:]:
        one = case(formula, seed)
        spec, shape = one["spec"], one["shape"]
        random = torch.Generator().manual_seed(seed)
        layer = evonas.layer(spec.formula)
        channels = shape[1] if spec.layout == "nchw" else shape[2]
        options = {"layout": spec.layout, "groups": one["groups"], "affine": spec.affine}
        rough = layer.module(channels, backend="eager", **options)
        with torch.no_grad():
            for p in rough.parameters():
                p.add_(0.5 * torch.randn(p.shape, generator=random))
        for _ in range(3):
            rough(torch.randn(shape, generator=random))
        x, dy = (torch.randn(shape, generator=random) for _ in range(2))
        if spec.memory == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        exact = layer.module(channels, backend="eager", **options).double()
        fused = layer.module(channels, backend="triton", **options)
        results = []
        for module in (fused, exact, rough):
            module.load_state_dict(rough.state_dict())
            given_x = x.double() if module is exact else x.clone(memory_format=torch.preserve_format)
            with runtime.scheduled_with(one["limits"]):
                y = module.eval()(given_x.requires_grad_())
                if y.requires_grad:  # without an affine, statistics alone need no gradient
                    y.backward(dy.to(y.dtype))
            grads = (
                torch.zeros_like(t) if t.grad is None else t.grad for t in (given_x, *module.parameters())
            )
            results.append([y.detach(), *grads])
        for found, wanted, eager in zip(*results, strict=True):
            if not (wanted.abs() <= torch.finfo(torch.float32).max).all():
                continue
            size = max(float(wanted.abs().max()), 1e-30)
            off, rounding = (float((t - wanted).abs().max()) / size for t in (found, eager))
            assert off <= max(1e-5, SLACK * rounding), f"{one}: {off}, float32 itself: {rounding}"


EXTREMES = {
    "large": lambda x: 1e4 * x,
    "constant": lambda x: torch.full_like(x, 3.0),
    "zeros": torch.zeros_like,
    "denormals": lambda x: 1e-40 * x,
    "one outlier": lambda x: x + 1e4 * (torch.arange(x.numel()).reshape(x.shape) == 3),
    "far from zero": lambda x: x + 1e3,
}


@pytest.mark.parametrize("kind", sorted(EXTREMES))
@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "bn_relu", "gn_silu", "ln_gelu", "frn", "dyt"])
def test_extreme_values(name: str, kind: str) -> None:
    for seed in range(3):
        one = case(str(Graph.parse(ZOO[name].formula)), seed)
        x = EXTREMES[kind](torch.randn(one["shape"], generator=torch.Generator().manual_seed(seed)))
        check = run(one, x=x)
        # a float32 mean of numbers near 1000 is off by up to 3e-5, and so are deviations of size one from it
        allowed = 1e-4 if kind == "far from zero" else 0.0
        assert all(e <= allowed for e in check.failures.values()), describe(one, check)


@pytest.mark.slow
def test_a_thousand_random_graphs() -> None:
    tried, failed, rough, overflow = 0, [], [], []
    seed = 10_000
    while tried < 1000:
        seed += 1
        graph = random_graph(seed)
        if graph is None:
            continue
        tried += 1
        one = case(str(graph), seed)
        check = run(one)
        if check.failures:
            failed.append(describe(one, check))
        elif not check.strict:
            rough.append((str(graph), dict(check.errors), dict(check.rounding)))
        if check.overflow:
            overflow.append((str(graph), check.overflow))
    print(f"{tried} graphs: {len(failed)} failed, {len(rough)} ill-conditioned, {len(overflow)} overflow")
    for line in (*rough, *overflow):
        print(line)
    # a gradient that cancels to nothing in exact arithmetic leaves rounding alone
    assert len(failed) <= 3, failed
    assert len(rough) < 50
