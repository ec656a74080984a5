"""Generated C against the eager definition in float64: outputs, gradients, statistics; and the module on it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from evonas.kernels import c_runtime
from evonas.kernels.axes import MEMORY_ORDERS
from evonas.kernels.c_operator import CKernels, c_backward, c_forward, c_layer, kernels, many_kernels
from evonas.kernels.programs import LayerSpec
from torch import Tensor

from evonas import primitives, search_spaces
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph import Graph
from evonas.graph.execute import ArrayOps, backward, forward, reduce_to_vector
from evonas.layers.c_layer import CGraphLayer
from evonas.layers.module import GraphLayer
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

pytestmark = pytest.mark.skipif(not c_runtime.available(), reason="no C compiler")

VECTORS = ("v0", "v1", "weight", "bias")
#: odd sizes, axes of one, more channels than lanes, a single element, a row longer than a vector.
NCHW = [
    (2, 8, 3, 5),
    (3, 6, 1, 1),
    (1, 4, 7, 7),
    (5, 12, 2, 9),
    (2, 1, 4, 4),
    (4, 40, 3, 3),
    (1, 1, 1, 1),
    (2, 7, 33, 2),
]
BTC = [(3, 5, 8), (2, 17, 12), (1, 3, 40), (4, 1, 6)]
#: index sets that are not nested in each other, that split the channels or the map, and vectors under moments.
MIXED = [
    "x / std[h](x) + mean[w](x)", "(x - mean[b](x)) / std[b,w,h](x - mean[c/g](x)) * sigmoid(v1 * x)",
    "mean[c](mean[c/g](x) * x) + rms[b,c](x * v1)", "x / rms[b](x * v1) + mean[b](v0)", "mean[b](v0) * x", "v0",
    "std[b,c/g](x) * x + std[c/g](x * mean[c](x))", "mean[b,w,h](mean[c/g](x * x) * v1) * x", "log(x) + sqrt(x) * v0",
    "tanh(x) + erf(x * v1) + exp(-abs(x))", "rsqrt(x) * min(x, v0)", "mean[w,h,c/g](x) + x * 0", "mean[w,h](x)",
]  # fmt: skip
TOKENS = [
    "x * sigmoid(v1 * x) / rms[c](x)", "(x - mean[c](x)) / std[c](x)", "x / std[c/g](x) + mean[b,t](x)",
    "x / rms[t,c/g](x) * std[c](x)", "mean[c](std[c/g](x) * x) * v1", "x / std[b,c/g](x)", "tanh(x)",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVONAS_KERNEL_DIR", str(tmp_path_factory.mktemp("kernels")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def spec_of(formula: str, layout: str = "nchw", memory: str = "contiguous", **options: bool) -> LayerSpec:
    return LayerSpec(str(Graph.parse(formula).active()), layout, memory, **options)


def compiled(specs: Sequence[LayerSpec], at_once: int = 30) -> list[CKernels]:
    bounds = [*range(0, len(specs), at_once), len(specs)]
    return [made for low, high in pairwise(bounds) for made in many_kernels(specs[low:high])]


def tensors(spec: LayerSpec, shape: tuple[int, ...], seed: int, kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) + 0.3
    dy = torch.randn(shape, generator=generator)
    if kind == "large":
        x = x * 1e4
    elif kind == "zeros":
        x = torch.zeros(shape)
    elif kind == "sparse":
        x = x * (torch.rand(shape, generator=generator) > 0.5)
    elif kind == "denormal":
        x = x * 1e-41
    form = torch.channels_last if spec.memory == "channels_last" else torch.contiguous_format
    return x.contiguous(memory_format=form), dy.contiguous(memory_format=form)


def reference(spec: LayerSpec, channels: int, groups: int, seed: int) -> GraphLayer:
    """The eager layer with parameters and running averages away from their initial values."""
    layer = GraphLayer(
        Graph.parse(spec.formula), channels, layout=spec.layout, groups=groups, affine=spec.affine
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in VECTORS:
            vector = getattr(layer, name)
            if vector is not None:
                vector.add_(0.5 * torch.randn(channels, generator=generator))
        for statistic in layer.statistics:
            statistic.running.copy_(torch.rand(statistic.running.shape, generator=generator) + 0.5)
    return layer.train(spec.training)


def by_autograd(layer: GraphLayer, x: Tensor, dy: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    layer = copy.deepcopy(layer).to(dtype)
    x = x.to(dtype).requires_grad_()
    y = layer(x)
    inputs = {"x": x} | {n: getattr(layer, n) for n in VECTORS if getattr(layer, n) is not None}
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if y.requires_grad:
        found = torch.autograd.grad(y, list(inputs.values()), dy.to(dtype), allow_unused=True)
    gradients = {
        n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(inputs.items(), found, strict=True)
    }
    return {"y": y.detach(), **gradients}


def by_definition(layer: GraphLayer, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Gradients of x, v0 and v1 in float32 by the primitives' own formulas (of a training layer)."""
    ops = ArrayOps(primitives.torch_namespace(), layer.layout, eps=layer.eps)
    vector = layer._vector_shape
    with torch.no_grad():
        leaves = {n: getattr(layer, n).view(vector) for n in ("v0", "v1") if getattr(layer, n) is not None}
        leaves["x"] = layer._split(x)
        g = layer._split(dy) * (1.0 if layer.weight is None else layer.weight.view(vector))
        found = backward(layer.graph, forward(layer.graph, leaves, ops), g, ops)
        full = leaves["x"].shape
        return {
            n: a.expand(full).reshape(x.shape) if n == "x" else reduce_to_vector(a, full, layer.layout).reshape(-1)
            for n, a in found.items()
        }  # fmt: skip


def check(
    spec: LayerSpec, made: CKernels, shape: tuple[int, ...], groups: int, seed: int, kind: str = "normal"
) -> None:
    """Errors of C are at most 1e-5 of the largest value, or four times what float32 eager is off by."""
    x, dy = tensors(spec, shape, seed, kind)
    layer = reference(spec, shape[1] if spec.layout == "nchw" else shape[2], groups, seed)
    exact, eager = (by_autograd(layer, x, dy, dtype) for dtype in (torch.float64, torch.float32))
    defined = by_definition(layer, x, dy) if spec.training else {}
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    vectors = [getattr(layer, name) for name in spec.vectors]
    averages = [] if spec.training else [s.average(torch.float32).contiguous() for s in layer.statistics]
    y = c_layer(made, layer.groups, leaf, [*vectors, *averages])
    found = torch.autograd.grad(y, [leaf, *vectors], dy)
    got = {"y": y.detach(), "x": found[0], **dict(zip(spec.vectors, found[1:], strict=True))}
    steep = (
        float(dy.abs().max())
        * (float(layer.weight.detach().abs().max()) if layer.weight is not None else 1.0)
        / spec.eps**0.5
    )
    assert got.keys() == exact.keys()
    assert y.stride() == x.stride()
    for name, true in exact.items():
        if not (torch.isfinite(true).all() and torch.isfinite(eager[name]).all()):
            continue  # overflow: float32 and float64 need not agree
        assert got[name].shape == true.shape

        def off(value: Tensor, true: Tensor = true) -> float:
            return float((value.double() - true).abs().max())

        size = float(true.abs().max())
        bound = max(1e-5 * size, 4 * off(eager[name]), 4 * off(defined.get(name, eager[name])), 1e-38)
        if (
            name != "y" and size <= 1e-6 * steep
        ):  # a gradient that vanishes: differences of terms up to ``steep``
            bound = max(bound, 1e-6 * steep)
        if name in VECTORS:  # sums over many elements: some units in the last place of their largest term
            terms = float((dy.double() * exact["y"]).abs().max())
            bound = max(bound, 4 * 2**-23 * terms)
        where = f"{name} of {spec.formula!r} ({spec.layout}, {spec.memory}, training={spec.training})"
        assert off(got[name]) <= bound, (
            f"{where}, {kind}, {shape}, {groups} groups: {off(got[name])} > {bound} of {size}"
        )


def random_specs(first: int, last: int) -> list[LayerSpec]:
    space = search_spaces.get("norm_act")
    memories = [memory for layout, memory in MEMORY_ORDERS if layout == "nchw"]
    made = []
    for i in range(first, last):
        formula = str(space.decode(space.random(Draws("fuzz", i))).active())
        made.append(spec_of(formula, memory=memories[i % 2], affine=i % 3 != 0, training=i % 5 != 0))
    return made


def check_all(specs: Sequence[LayerSpec], first: int = 0) -> None:
    """Two shapes each: normal values, and then large, zero, sparse or denormal ones."""
    kinds = ("large", "zeros", "sparse", "denormal", "normal")
    for i, (spec, made) in enumerate(zip(specs, compiled(specs), strict=True), first):
        shapes = NCHW if spec.layout == "nchw" else BTC
        groups = (1, 2, 3, 32)[i % 4]
        check(spec, made, shapes[2 * i % len(shapes)], groups, i)
        check(spec, made, shapes[(2 * i + 1) % len(shapes)], groups, i, kinds[i // 2 % len(kinds)])


def test_random_graphs() -> None:
    check_all(random_specs(0, 200))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(200, 700, 100))
def test_more_random_graphs(first: int) -> None:
    check_all(random_specs(first, first + 100), first)


#: one value per layer is expanded outside of the C: tests/layers/test_scalar_parameters.py
KNOWN = [entry.formula for name, entry in ZOO.items() if not name.endswith("_scalar")]


def test_zoo() -> None:
    check_all([spec_of(formula, training=n % 3 != 0) for n, formula in enumerate(KNOWN)])


def test_mixed_index_sets_and_tokens() -> None:
    specs = [spec_of(f, memory=("contiguous", "channels_last")[n % 2]) for n, f in enumerate(MIXED)]
    check_all(specs + [spec_of(f, "btc", affine=n % 2 == 0) for n, f in enumerate(TOKENS)])


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
def test_every_layer_shape_and_mode(memory: str, training: bool) -> None:
    formulas = [*KNOWN, *MIXED]
    specs = [spec_of(f, memory=memory, training=training) for f in formulas]
    specs += [spec_of(f, "btc", training=training) for f in TOKENS]
    for i, (spec, made) in enumerate(zip(specs, compiled(specs), strict=True)):
        for n, shape in enumerate(NCHW if spec.layout == "nchw" else BTC):
            check(spec, made, shape, (2, 3, 1, 32)[(i + n) % 4], i)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_large_tensors(memory: str) -> None:
    formulas = [
        "x * sigmoid(v1 * x) / std[w,h,c/g](x)",
        "(x - mean[b,w,h](x)) / std[b,w,h](x)",
        "x - mean[w,h,c](x)",
    ]
    specs = [spec_of(f, memory=memory) for f in formulas]
    for spec, made in zip(specs, compiled(specs), strict=True):
        check(spec, made, (4, 32, 72, 71), 4, 0)
        check(spec, made, (2, 512, 4, 4), 32, 0)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_variance_of_values_far_from_zero(memory: str) -> None:
    """Deviations of one around a mean of ten thousand: sums of squares would keep no digit."""
    spec = spec_of("std[b,w,h](x) + 0 * x", memory=memory, affine=False)
    x = torch.randn((8, 5, 40, 41), generator=torch.Generator().manual_seed(0)) + 1e4
    _, _, batch = c_forward(spec, x, {}, [], 1)
    exact = x.double().transpose(0, 1).reshape(5, -1).var(1, correction=0)
    assert torch.allclose(batch["statistic0"].double(), (exact + spec.eps).sqrt(), rtol=1e-6)


FUNCTIONS = {
    "exp(x)": torch.exp, "tanh(x)": torch.tanh, "sigmoid(x)": torch.sigmoid, "erf(x)": torch.erf,
    "log(x)": lambda a: a.sign() * torch.log((a.abs().float() + 1e-5).double()),  # float32 up to the logarithm
}  # fmt: skip


def test_functions() -> None:
    """Within a few units in the last place everywhere, and like torch where results are not finite."""
    inf = float("inf")
    special = torch.tensor(
        [0.0, -0.0, inf, -inf, float("nan"), 88.7, 89.0, -87.5, -104.0, -200.0, 3e38, -3e38, 1e-40]
    )
    x = torch.cat(
        [
            torch.linspace(-12, 12, 20001),
            torch.logspace(-30, 1.9, 4001),
            -torch.logspace(-30, 1.9, 4001),
            special,
        ]
    )
    for formula, function in FUNCTIONS.items():
        y, _, _ = c_forward(spec_of(formula, affine=False), x.view(1, 1, 1, -1), {}, [], 1)
        y, true = y.view(-1).double(), function(x.double())
        true32 = true.float().double()  # overflows where float32 does
        fine = torch.isfinite(true32)
        assert torch.equal(torch.isnan(y), torch.isnan(true32)), formula
        assert torch.equal(y[~fine & ~torch.isnan(y)], true32[~fine & ~torch.isnan(true32)]), formula
        error = (y - true)[fine].abs() / true[fine].abs().clamp_min(1e-37)
        assert float(error.max()) < 8e-7, (formula, float(error.max()), float(x[fine][error.argmax()]))


@pytest.mark.parametrize("formula", ["max(x, 0)", "max(0, x)", "min(x, v1)", "max(v1, x)"])
def test_nan_goes_through_max_and_min(formula: str) -> None:
    x = torch.tensor([float("nan"), 2.0, -1.0, float("inf")]).view(1, 1, 2, 2)
    layer = CGraphLayer(Graph.parse(formula), 1, strict=True)
    assert torch.equal(torch.isnan(layer(x)), torch.isnan(x))
    assert torch.equal(layer(x)[~torch.isnan(x)], GraphLayer(Graph.parse(formula), 1)(x)[~torch.isnan(x)])


def test_passes_without_autograd() -> None:
    spec = spec_of("(x - mean[b,w,h](x)) / std[b,w,h](x) * sigmoid(v1 * x)")
    layer = reference(spec, 6, 2, 0)
    x, dy = tensors(spec, (4, 6, 5, 3), 0, "normal")
    vectors = {name: getattr(layer, name).detach() for name in spec.vectors}
    y, saved, batch = c_forward(spec, x, vectors, [], 2)
    gradients = c_backward(spec, x, dy, vectors, [], saved, 2)
    exact = by_autograd(layer, x, dy, torch.float64)
    assert set(gradients) == {"x", "v1", "weight", "bias"}
    for name, value in {"y": y, **gradients}.items():
        assert torch.allclose(value.double(), exact[name], rtol=1e-5, atol=1e-5)
    assert torch.allclose(batch["statistic0"], x.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(batch["statistic1"] ** 2, x.var((0, 2, 3), correction=0) + spec.eps, atol=1e-5)


def test_equal_inputs_give_equal_bits() -> None:
    layer = CGraphLayer(Graph.parse("x * sigmoid(v1 * x) / std[b,w,h](x)"), 5, strict=True)
    x = torch.randn((7, 5, 9, 11), generator=torch.Generator().manual_seed(0), requires_grad=True)
    runs = []
    for _ in range(2):
        y = layer(x)
        runs.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_one_library_serves_all_sizes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(tmp_path))
    for channels, side in ((4, 9), (16, 5), (24, 3)):
        layer = CGraphLayer(Graph.parse("x / std[w,h,c/g](x) + 0.125 * x"), channels, groups=4, strict=True)
        layer(torch.ones((2, channels, side, side)))
    assert len(list(tmp_path.glob("*.so"))) == 1
    assert not list(tmp_path.glob("compiling_*"))
    source = next(tmp_path.glob("*.c")).read_text()
    kernels.cache_clear()
    again = c_runtime.compile_source(source, tmp_path)
    assert [again] == list(tmp_path.glob("*.so"))


def test_without_a_compiler(tmp_path, monkeypatch) -> None:
    graph = Graph.parse("x * sigmoid(x) + 0.375")
    x = torch.randn((2, 3, 4, 4))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(tmp_path))
    assert not c_runtime.available()
    with pytest.raises(EnvironmentUnusable, match="C compiler") as caught:
        CGraphLayer(graph, 3, strict=True)(x)
    assert "backend='eager'" in str(caught.value)
    layer = CGraphLayer(graph, 3)
    with pytest.warns(UserWarning, match="eager reference"):
        y = layer(x)
    assert torch.equal(y, GraphLayer(graph, 3)(x))


def test_a_compiler_that_refuses(tmp_path, monkeypatch) -> None:
    bad = tmp_path / "refuses"
    bad.write_text("#!/bin/sh\necho 'internal error 42' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CC", str(bad))
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(tmp_path))
    with pytest.raises(EnvironmentUnusable, match="internal error 42"):
        CGraphLayer(Graph.parse("x * sigmoid(x) + 0.4375"), 3, strict=True)(torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["bn_relu", "evonorm_b0", "evonorm_s0", "frn"])
def test_module_trains_like_the_reference(name: str, memory: str) -> None:
    """Five steps of SGD, running averages, evaluation, and states that fit both."""
    graph = Graph.parse(ZOO[name].formula)
    form = torch.channels_last if memory == "channels_last" else torch.contiguous_format
    layers = [CGraphLayer(graph, 8, groups=4, strict=True), GraphLayer(graph, 8, groups=4)]
    for layer in layers:
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
        for step in range(5):
            x = torch.randn((4, 8, 5, 3), generator=torch.Generator().manual_seed(step)) * 2 + 0.5
            optimiser.zero_grad()
            layer(x.contiguous(memory_format=form)).square().mean().backward()
            optimiser.step()
        layer.eval()
    fast, slow = layers
    assert fast.state_dict().keys() == slow.state_dict().keys()
    for key, value in slow.state_dict().items():
        assert torch.allclose(fast.state_dict()[key], value, rtol=1e-5, atol=1e-6), key
    with torch.no_grad():
        assert torch.allclose(fast(x), slow(x), rtol=1e-5, atol=1e-5)
    slow.load_state_dict(fast.state_dict())
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    twin = copy.deepcopy(fast)
    assert torch.equal(twin(x), fast(x))


@pytest.mark.parametrize(
    "formula", ["mean[b](x) + x", "x / rms[b,w](x)", "x * std[b,c/g](x)", "x - mean[b,h](x)"]
)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_running_averages_of_any_index_set(formula: str, memory: str) -> None:
    form = torch.channels_last if memory == "channels_last" else torch.contiguous_format
    x = torch.randn((3, 6, 4, 5), generator=torch.Generator().manual_seed(1)).contiguous(memory_format=form)
    fast, slow = (
        CGraphLayer(Graph.parse(formula), 6, groups=2, strict=True),
        GraphLayer(Graph.parse(formula), 6, groups=2),
    )
    fast(x), slow(x)
    assert torch.allclose(fast.statistics[0].running, slow.statistics[0].running, rtol=1e-5, atol=1e-6)
    assert torch.allclose(fast.eval()(x), slow.eval()(x), rtol=1e-5, atol=1e-5)


def test_inputs_of_any_memory() -> None:
    graph = Graph.parse("x * sigmoid(v1 * x) / std[w,h,c/g](x)")
    fast, slow = CGraphLayer(graph, 6, groups=2, strict=True), GraphLayer(graph, 6, groups=2)
    base = torch.randn((6, 3, 5, 8), generator=torch.Generator().manual_seed(0))
    for x in (
        base.transpose(0, 1),
        base.transpose(0, 1)[..., ::2],
        base.transpose(0, 1)[:1].expand(3, 6, 5, 8),
    ):
        for loss in (
            lambda y: y.sum(),
            lambda y: y.transpose(2, 3).contiguous().square().sum(),
            lambda y: y[0, 0, 0, 0],
        ):
            got, true = (torch.autograd.grad(loss(m(a)), a)[0] for m in (fast, slow)
                         for a in [x.detach().clone().requires_grad_()])  # fmt: skip
            assert torch.allclose(got, true, rtol=1e-4, atol=1e-5)
        assert torch.allclose(fast(x), slow(x), rtol=1e-5, atol=1e-5)


def test_residual_input() -> None:
    graph = Graph.parse("x / rms[w,h](x)")
    x, r = (
        torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(s), requires_grad=True)
        for s in (0, 1)
    )
    results = []
    for layer in (CGraphLayer(graph, 4, strict=True), GraphLayer(graph, 4)):
        y, total = layer(x, r)
        results.append([y, total, *torch.autograd.grad((y * total).sum(), [x, r])])
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_falls_back_to_the_reference() -> None:
    graph = Graph.parse("x * sigmoid(v1 * x) / std[w,h](x)")
    layer, strict = CGraphLayer(graph, 4), CGraphLayer(graph, 4, strict=True)
    x = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    eager = GraphLayer(graph, 4)
    assert torch.equal(layer(x.bfloat16()), eager(x.bfloat16()))
    for tensor in (x.double(), x.bfloat16(), x[:0]):
        with pytest.raises(UsageError, match="no C kernel"):
            strict(tensor)
    traced = torch.jit.trace(layer, x)
    assert torch.equal(traced(x * 2), eager(x * 2))
    mapped = torch.vmap(layer)(torch.stack([x, 2 * x]))
    assert torch.allclose(mapped, torch.stack([eager(x), eager(2 * x)]), atol=1e-6)
    assert torch.equal(copy.deepcopy(layer).double()(x.double()), copy.deepcopy(eager).double()(x.double()))


def test_no_second_derivative() -> None:
    layer = CGraphLayer(Graph.parse("tanh(x)"), 4, strict=True)
    x = torch.randn((1, 4, 2, 2), requires_grad=True)
    with pytest.raises(UsageError, match="second derivative"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_what_is_refused() -> None:
    x = torch.ones((2, 4, 3, 3))
    spec = spec_of("x * v1")
    vectors = {name: torch.ones(4) for name in spec.vectors}
    with pytest.raises(UsageError, match="'weight'"):
        c_forward(spec, x, {"v1": vectors["v1"]}, [], 1)
    with pytest.raises(UsageError, match="float64"):
        c_forward(spec, x.double(), vectors, [], 1)
    with pytest.raises(UsageError, match="do not divide"):
        c_forward(spec, x, vectors, [], 3)
    with pytest.raises(UsageError, match="residual"):
        kernels(LayerSpec(spec.formula, residual=True))
