"""``backend="triton"`` as a module: like the eager layer in everything that a user can see."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from evonas.kernels.operator import decode, encode, layer_forward
from evonas.kernels.programs import LayerSpec
from torch import Tensor

import evonas
from evonas.errors import UsageError
from evonas.layers.module import GraphLayer

CASES = [
    ("evonorm_s0", "nchw", (2, 8, 5, 6)),
    ("evonorm_b0", "nchw", (3, 8, 5, 6)),
    ("bn_relu", "nchw", (3, 8, 5, 6)),
    ("x - mean[b](x)", "nchw", (3, 4, 2, 2)),
    ("dyt", "btc", (2, 5, 8)),
    ("x / rms[c](x)", "btc", (2, 5, 8)),
    ("erf(0.5 * s1 * x + s0) / rms[c](v1 * x)", "btc", (2, 5, 8)),
    ("tanh(s1 * x) + mean[c](s0)", "nchw", (2, 8, 5, 6)),
]


def pair(name: str, layout: str, shape: tuple[int, ...], **options: object) -> tuple[GraphLayer, GraphLayer]:
    """An eager and a Triton module with the same random parameters."""
    channels = shape[1] if layout == "nchw" else shape[2]
    layer = evonas.layer(name)
    eager = layer.module(channels, layout=layout, backend="eager", groups=4, **options)
    fused = layer.module(channels, layout=layout, backend="triton", groups=4, **options)
    with torch.no_grad():
        for p in eager.parameters():
            p.add_(0.3 * torch.randn_like(p))
    fused.load_state_dict(eager.state_dict())
    return eager, fused


def close(found: Tensor | None, wanted: Tensor | None, dtype: torch.dtype) -> bool:
    assert found is not None
    assert wanted is not None
    allowed = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}[dtype]
    return bool((found.float() - wanted.float()).abs().max() <= allowed * (1 + wanted.float().abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "layout", "shape"), CASES)
def test_like_the_eager_layer(
    name: str, layout: str, shape: tuple[int, ...], form: torch.memory_format, dtype: torch.dtype
) -> None:
    if form == torch.channels_last and layout == "btc":
        return
    torch.manual_seed(0)
    eager, fused = pair(name, layout, shape)
    x = torch.randn(shape).to(dtype).contiguous(memory_format=form)
    dy = torch.randn(shape).to(dtype)
    for training in (True, False):
        inputs = []
        for module in (eager.train(training), fused.train(training)):
            module.zero_grad()
            inputs.append(x.clone(memory_format=torch.preserve_format).requires_grad_())
            y = module(inputs[-1])
            assert y.is_contiguous(memory_format=form)
            assert y.dtype == dtype
            y.backward(dy)
        assert close(fused(x), eager(x), dtype)
        assert close(inputs[1].grad, inputs[0].grad, dtype)
        for p, q in zip(fused.parameters(), eager.parameters(), strict=True):
            assert p.grad is not None
            assert p.grad.dtype == p.dtype
            assert close(p.grad / x.numel() ** 0.5, q.grad / x.numel() ** 0.5, dtype)
        for p, q in zip(fused.buffers(), eager.buffers(), strict=True):
            assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "formula",
    [
        "x - mean[b,w,h](mean[w,h,c](x))",
        "x - mean[b,w,h](mean[w,h,c/g](x))",
        "x - mean[b,w,h](tanh(1))",
        "x - mean[b](v0)",
        "x - mean[b](mean[w,h](x))",
        "x / std[b,w,h](x) * mean[w,h,c/g](v0)",
        "std[b](x) + rms[b,w,h,c](x * v1)",
    ],
)
def test_statistics_that_vary_over_little(formula: str) -> None:
    torch.manual_seed(0)
    eager, fused = pair(formula, "nchw", (3, 8, 4, 5))
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 8, 4, 5).contiguous(memory_format=form)
        grads = []
        for module in (eager, fused):
            module.zero_grad()
            a = x.clone().requires_grad_()
            module(a).square().sum().backward()
            grads.append(
                [a.grad, *[p.grad if p.grad is not None else torch.zeros(()) for p in module.parameters()]]
            )
        for found, wanted in zip(grads[1], grads[0], strict=True):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
        for p, q in zip(fused.buffers(), eager.buffers(), strict=True):
            assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)


def test_frozen_statistics_are_used() -> None:
    eager, fused = pair(*CASES[2])
    x = torch.randn(3, 8, 5, 6)
    for module in (eager, fused):
        module.train()
        module.statistics.eval()
    assert close(fused(x), eager(x), torch.float32)
    for p, q in zip(fused.buffers(), eager.buffers(), strict=True):
        assert torch.equal(p, q)


def test_groups_that_do_not_divide_the_channels() -> None:
    """The module takes the largest count that does; the operator, which is given a count, refuses one that does not."""
    torch.manual_seed(0)
    layer = evonas.layer("evonorm_s0")
    for channels, groups, taken in ((10, 4, 2), (7, 4, 1), (9, 32, 9), (65, 32, 13)):
        fused = layer.module(channels, backend="triton", groups=groups)
        exact = layer.module(channels, backend="eager", group_size=channels // taken).double()
        assert fused.groups == exact.groups == taken
        x = torch.randn(2, channels, 3, 5)
        grads = []
        for module, given in ((fused, x.clone()), (exact, x.double())):
            given.requires_grad_()
            module(given).square().sum().backward()
            grads.append((given.grad, *(p.grad for p in module.parameters())))
        assert close(fused(x), exact(x.double()), torch.float32)
        for found, wanted in zip(*grads, strict=True):
            assert close(found, wanted, torch.float32)
    with pytest.raises(UsageError, match="group_size=3 does not divide 10 channels"):
        layer.module(10, backend="triton", group_size=3)
    vectors = [torch.ones(10)] * 3
    text = encode(LayerSpec(layer.formula))
    with pytest.raises(UsageError, match="4 groups do not divide 10 channels"):
        layer_forward(torch.randn(2, 10, 3, 5), None, vectors, [], text, 4)


def test_a_diverged_network_looks_diverged() -> None:
    for case in (CASES[1], CASES[2]):
        eager, fused = pair(*case)
        x = torch.randn(case[2])
        x[1, 2, 3, 4] = float("nan")
        assert torch.equal(fused(x).isnan(), eager(x).isnan())


@pytest.mark.parametrize(
    ("formula", "scale"),
    [
        ("tanh(x) + (square(x) - abs(x) * abs(x))", 1e4),
        ("sigmoid(x) + (exp(x) - exp(abs(x)))", 20.0),
        ("exp(x) * (exp(x) * exp(-square(x)))", 50.0),
    ],
)
def test_sums_and_products_keep_their_order(formula: str, scale: float) -> None:
    eager, fused = pair(formula, "nchw", (2, 4, 3, 3))
    x = scale * (1 + 0.01 * torch.rand(2, 4, 3, 3))
    assert torch.allclose(fused(x), eager(x), rtol=1e-4, atol=1e-5)


def test_the_operator_refuses_what_it_would_read_wrongly() -> None:
    spec = encode(LayerSpec("max(x, 0)"))
    x, ones = torch.randn(2, 6, 3, 3), torch.ones(6)
    with pytest.raises(UsageError, match=r"vectors of shapes \[\(3,\), \(6,\)\]"):
        layer_forward(x, None, [ones[:3], ones], [], spec, 1)
    with pytest.raises(UsageError, match="no residual"):
        layer_forward(x, None, [ones, ones], [], encode(LayerSpec("max(x, 0)", residual=True)), 1)
    with pytest.raises(UsageError, match="beside x of"):
        layer_forward(x, x[:1], [ones, ones], [], encode(LayerSpec("max(x, 0)", residual=True)), 1)
    x.requires_grad_()
    y, *extra = layer_forward(x, None, [ones, ones], [], encode(LayerSpec("x / std[w,h](x)")), 1)
    assert y.requires_grad
    assert not any(t.requires_grad for t in extra)


@pytest.mark.parametrize(("name", "layout", "shape"), CASES)
def test_a_residual_is_added_before_and_returned(name: str, layout: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    eager, fused = pair(name, layout, shape)
    x, r = torch.randn(shape), torch.randn(shape)
    grads = []
    for module in (eager, fused):
        a, b = x.clone().requires_grad_(), r.clone().requires_grad_()
        y, total = module(a, b)
        assert torch.equal(total, x + r)
        (y.square().sum() + total.sin().sum()).backward()
        grads.append((y.detach(), a.grad, b.grad))
    for found, wanted in zip(grads[1], grads[0], strict=True):
        assert close(found, wanted, torch.float32)
    with pytest.raises(UsageError, match="have to be alike"):
        fused(x, r[..., :1])


def test_the_operator_passes_pytorchs_own_checks() -> None:
    _, fused = pair(*CASES[1])
    spec = next(s for s in fused._specs.values() if decode(s).training and not decode(s).residual)  # type: ignore[attr-defined]
    vectors = [getattr(fused, n) for n in decode(spec).vectors]
    x = torch.randn(3, 8, 5, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.evonas.layer_forward.default, (x, None, vectors, [], spec, 4))


def test_torch_compile_and_export_see_one_operator() -> None:
    eager, fused = pair(*CASES[0])
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert close(compiled(x), eager(x), torch.float32)
    compiled(x).sum().backward()
    assert x.grad is not None
    program = torch.export.export(fused, (x.detach(),))
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert torch.ops.evonas.layer_forward.default in called
    assert close(program.module()(x.detach()), eager(x), torch.float32)


def test_autocast_leaves_the_layer_alone() -> None:
    eager, fused = pair(*CASES[0])
    x = torch.randn(2, 8, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(x)
        half = fused(x.bfloat16())
    assert y.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert close(y, eager(x), torch.float32)


def test_copies_and_state() -> None:
    eager, fused = pair(*CASES[1])
    x = torch.randn(3, 8, 5, 6)
    file = io.BytesIO()
    torch.save(fused.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(fused)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert list(again.state_dict()) == list(eager.state_dict())
    assert torch.equal(again(x), fused(x))


def test_equal_inputs_give_equal_bits() -> None:
    _, fused = pair(*CASES[0])
    results = []
    for _ in range(2):
        x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
        fused.zero_grad()
        fused(x).square().sum().backward()
        results.append([x.grad, *[p.grad for p in fused.parameters()]])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_ties_in_max_split_the_gradient() -> None:
    layer = evonas.layer("max(x, 0)").module(4, backend="triton", affine=False)
    x = torch.zeros(2, 4, 1, 3, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 0.5))


def test_any_memory_is_taken() -> None:
    eager, fused = pair(*CASES[0])
    wide = torch.randn(2, 16, 6, 5)
    for x in (
        wide[:, ::2].transpose(2, 3),
        wide[:, 3:11].transpose(2, 3),
        wide[:1, :8, :, :].expand(2, 8, 6, 5),
    ):
        assert not x.is_contiguous()
        assert close(fused(x), eager(x), torch.float32)


def test_input_without_kernels() -> None:
    layer = evonas.layer("relu")
    with pytest.raises(UsageError, match=r"(?s)no kernel for dtype torch.float64.*backend='auto'"):
        layer.module(4, backend="triton")(torch.randn(1, 4, 2, 2, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"empty tensor of shape \(0, 4, 2, 2\)"):
        layer.module(4, backend="triton")(torch.randn(0, 4, 2, 2))
    auto = layer.module(4)
    assert auto(torch.randn(1, 4, 2, 2, dtype=torch.float64)).dtype == torch.float64
    assert auto(torch.randn(0, 4, 2, 2)).shape == (0, 4, 2, 2)


def third_cube(xp: object, a: Tensor) -> Tensor:
    """A third of the cube."""
    return a * a * a / 3


def test_a_layer_that_cannot_be_lowered() -> None:
    plug_in = evonas.primitive(
        "third_cube", gradient=lambda ops, g, y, a: (ops.mul(g, ops.square(a)),), source="this test"
    )
    plug_in(third_cube)
    layer = evonas.layer("third_cube(x)")
    with pytest.raises(UsageError, match=r"(?s)third_cube\(x\) cannot be lowered.*no Triton expression"):
        layer.module(4, backend="triton")
    with pytest.warns(UserWarning, match="eager reference"):
        module = layer.module(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        layer.module(4)
    x = torch.randn(1, 4, 2, 2)
    assert torch.allclose(module(x), x**3 / 3)
