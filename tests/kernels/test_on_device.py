"""Kernels on a CUDA device: the same cases as in the interpreter, and what only a device can show."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from evonas.kernels import runtime
from evonas.kernels.linear_attention import lightning_attention
from evonas.kernels.programs import LayerSpec
from evonas.kernels.tiling import LIMITS
from evonas.kernels.verify import verify

import evonas
from evonas.graph import Graph
from evonas.layers.zoo import ZOO

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """The cases of the interpreted tests."""
    path = Path(__file__).parent / "interpreted" / "test_fuzz.py"
    spec = importlib.util.spec_from_file_location("kernel_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_zoo(name: str, fuzz: ModuleType) -> None:
    for seed in range(3):
        one = fuzz.case(str(Graph.parse(ZOO[name].formula)), seed)
        check = fuzz.run(one, device="cuda")
        assert not check.failures, fuzz.describe(one, check)


def test_random_graphs(fuzz: ModuleType) -> None:
    failed = []
    for seed in range(20_000, 20_300):
        graph = fuzz.random_graph(seed)
        if graph is not None:
            one = fuzz.case(str(graph), seed)
            check = fuzz.run(one, device="cuda")
            if check.failures:
                failed.append(fuzz.describe(one, check))
    assert len(failed) <= 2, failed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["evonorm_s0", "gn_silu", "ln_gelu", "bn_relu", "dyt"])
def test_full_size_in_half_precision(name: str, dtype: torch.dtype) -> None:
    check = verify(LayerSpec(ZOO[name].formula), (16, 256, 32, 32), 32, dtype=dtype, device="cuda")
    assert check.strict, check


@pytest.mark.parametrize("name", ["bn_relu", "evonorm_b0", "ln_relu"])
def test_cooperative_kernels(name: str) -> None:
    with runtime.scheduled_with(replace(LIMITS, cooperative=True)):
        check = verify(LayerSpec(ZOO[name].formula), (64, 128, 32, 32), 32, device="cuda")
    assert not check.failures, check


def test_a_graph_is_captured_and_replayed() -> None:
    layer = evonas.layer("evonorm_s0").module(64, backend="triton", device="cuda")
    x = torch.randn(8, 64, 16, 16, device="cuda", requires_grad=True)

    def step() -> torch.Tensor:
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        return gradient

    wanted = step()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    found.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, wanted)


def test_equal_inputs_give_equal_bits() -> None:
    layer = evonas.layer("gn_silu").module(256, backend="triton", device="cuda", dtype=torch.float32)
    x = torch.randn(32, 256, 32, 32, device="cuda", dtype=torch.bfloat16)
    results = []
    for _ in range(3):
        a = x.clone().requires_grad_()
        layer.zero_grad()
        layer(a).float().square().sum().backward()
        results.append([a.grad, *[p.grad for p in layer.parameters()]])
    assert all(torch.equal(p, q) for other in results[1:] for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_torch_compile(mode: str) -> None:
    layer = evonas.layer("evonorm_s0").module(64, backend="auto", device="cuda")
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 64, 3, device="cuda"), layer)
    x = torch.randn(4, 8, 16, 16, device="cuda")
    assert torch.allclose(torch.compile(model, mode=mode)(x), model(x), atol=1e-3)


@pytest.fixture(scope="module")
def attention() -> ModuleType:
    """The cases of the interpreted tests of linear attention."""
    path = Path(__file__).parent / "interpreted" / "test_linear_attention.py"
    spec = importlib.util.spec_from_file_location("attention_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("tokens", [1, 50, 64, 257, 5000])  # the last one in segments
@pytest.mark.parametrize(("features", "values"), [(16, 16), (64, 64), (128, 128), (24, 40)])
def test_linear_attention(
    features: int, values: int, tokens: int, dtype: torch.dtype, attention: ModuleType
) -> None:
    tensors = [t.cuda() for t in attention.drawn(tokens, features, values, dtype, heads=4)]
    attention.compare(tensors, attention.RATES.cuda())
    first, second = (attention.both_passes("triton", tensors, attention.RATES.cuda()) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_attention_in_a_cuda_graph_and_under_compile(attention: ModuleType) -> None:
    q, k, v, _ = (t.cuda() for t in attention.drawn(300, 64, 64, torch.bfloat16, heads=4))
    decay = attention.RATES.cuda()
    want = lightning_attention(q, k, v, decay, form="triton")
    assert torch.equal(torch.compile(lightning_attention, fullgraph=True)(q, k, v, decay), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = lightning_attention(q, k, v, decay, form="triton")
    out.zero_()
    graph.replay()
    assert torch.equal(out, want)
