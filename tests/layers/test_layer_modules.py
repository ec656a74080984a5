"""Modules: state, copies, precision, compilation, groups, shapes, running averages."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch

from evonas.errors import EnvironmentUnusable, EvonasError, FormulaError, UsageError
from evonas.graph import Graph
from evonas.layers import ZOO, GraphLayer, Layer, named_layer, resolve_layer

C = 6


def data(
    seed: int = 0, shape: tuple[int, ...] = (4, C, 5, 3), dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.5 * x + 0.3).to(dtype)


def trained(name: str, channels: int = C) -> GraphLayer:
    module = named_layer(name).module(channels, groups=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        module(data(seed, (4, channels, 5, 3))).square().mean().backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("name", [n for n in ZOO if ZOO[n].affine])
def test_state_dict_round_trip(name):
    module = trained(name)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = named_layer(name).module(C, groups=3)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for m in (module.train(), fresh.train()):
        m(data(5))
    assert torch.equal(module.eval()(data(9)), fresh.eval()(data(9)))


@pytest.mark.parametrize("name", ["bn_relu", "evonorm_b0", "evonorm_s0", "frn", "identity"])
def test_deepcopy_is_independent(name):
    module = trained(name)
    twin = copy.deepcopy(module)
    assert torch.equal(module.eval()(data(9)), twin.eval()(data(9)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    twin.train()(data(4))
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not torch.equal(module(data(9)), twin.eval()(data(9)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bn_silu", "gn_relu", "evonorm_b0", "evonorm_s0", "frn"])
def test_half_precision_input_is_computed_in_float32(name, dtype):
    module = trained(name)
    twin = copy.deepcopy(module)
    x = data(7, dtype=dtype)
    y, wanted = module(x), twin(x.float())
    assert y.dtype == dtype
    assert torch.equal(y, wanted.to(dtype))
    for a, b in zip(module.buffers(), twin.buffers(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["bn_silu", "evonorm_b0", "evonorm_s0"])
def test_autocast_does_not_reach_the_statistics(name):
    module, x = trained(name), data(7)
    wanted = copy.deepcopy(module)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), wanted)
        low = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
    assert low.dtype == torch.bfloat16  # autocast was on


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "bn_relu",
        "gn_silu",
        "in_relu",
        "ln_relu",
        "frn",
        "evonorm_b0",
        "evonorm_b2",
        "evonorm_s0",
        "evonorm_s2",
    ],
)
def test_large_inputs_do_not_overflow_statistics(name, dtype):
    x = (1e4 * data(3).clamp(-3, 3)).to(dtype).requires_grad_()
    assert not torch.isfinite(x.detach().square()).all() or dtype == torch.bfloat16
    module = named_layer(name).module(C, groups=3)
    y = module(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert y.abs().max() < 100
    assert all(torch.isfinite(b).all() for b in module.buffers())


@pytest.mark.parametrize("name", ["bn_relu", "evonorm_s0"])
def test_a_module_in_half_precision_keeps_float32_statistics(name):
    module = trained(name).to(torch.bfloat16)
    y = module(data(1, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert torch.isfinite(y).all()
    made = named_layer(name).module(C, dtype=torch.bfloat16)
    assert made.weight.dtype == torch.bfloat16
    assert all(b.dtype == torch.float32 for b in made.buffers())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0"])
def test_torch_compile(name):
    torch.compiler.reset()
    module = trained(name)
    twin = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True)
    for seed in range(2):
        x, z = data(seed).requires_grad_(), data(seed).requires_grad_()
        y, wanted = compiled(x), twin(z)
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        wanted.square().sum().backward()
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.eval()(data(5)), twin.eval()(data(5)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups", "used"),
    [(64, 32, 32), (48, 32, 24), (16, 32, 16), (7, 4, 1), (6, 4, 3), (1, 8, 1)],
)
def test_groups_rule(channels, groups, used):
    module = named_layer("gn_relu").module(channels, groups=groups).double()
    assert module.groups == used
    x = data(0, (2, channels, 3, 4), torch.float64)
    wanted = torch.relu(torch.nn.functional.group_norm(x, used))
    torch.testing.assert_close(module(x), wanted)


def test_group_size():
    module = named_layer("gn_relu").module(12, group_size=4)
    assert module.groups == 3
    for size in (5, 0, -1, 24):
        with pytest.raises(UsageError, match=rf"group_size={size} does not divide 12 channels"):
            named_layer("gn_relu").module(12, group_size=size)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("shape", [(1, C, 1, 1), (1, C, 7, 5), (3, C, 1, 9), (2, C, 4, 1)])
def test_small_and_odd_sizes_give_finite_results(name, shape):
    module = named_layer(name).module(C, groups=3)
    x = data(1, shape).requires_grad_()
    y = module(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ["bn_relu", "evonorm_s0"])
def test_memory_format_and_strides_do_not_matter(name):
    module, x = named_layer(name).module(C), data(1)
    wanted = copy.deepcopy(module)(x)
    torch.testing.assert_close(copy.deepcopy(module)(x.contiguous(memory_format=torch.channels_last)), wanted)
    torch.testing.assert_close(copy.deepcopy(module)(x.transpose(2, 3).contiguous().transpose(2, 3)), wanted)


WRONG = [
    (
        "nchw",
        (4, C, 5),
        r"input of shape \(4, 6, 5\), a nchw layer of 6 channels needs \(batch, channels, height",
    ),
    ("nchw", (4, 5, C, 3), "with 6 channels"),
    ("nchw", (C,), "needs"),
    ("btc", (4, 5, C, 3), r"a btc layer of 6 channels needs \(batch, tokens, channels\)"),
    ("btc", (4, C, 5), "with 6 channels"),
]


@pytest.mark.parametrize(("layout", "shape", "message"), WRONG)
def test_wrong_shapes_are_explained(layout, shape, message):
    with pytest.raises(UsageError, match=message):
        resolve_layer("x / rms[c](x)").module(C, layout=layout)(torch.zeros(shape))


def test_what_a_layer_refuses():
    with pytest.raises(FormulaError, match="uses axis 'w', which layout 'btc'"):
        named_layer("in_relu").module(C, layout="btc")
    with pytest.raises(UsageError, match="unknown layout 'nhwc'"):
        named_layer("relu").module(C, layout="nhwc")
    with pytest.raises(UsageError, match="unknown backend 'cuda'"):
        named_layer("relu").module(C, backend="cuda")
    with pytest.raises(UsageError, match="channels=0"):
        named_layer("relu").module(0)
    with pytest.raises(UsageError, match="did you mean 'evonorm_s0'"):
        resolve_layer("evonorm_s00")
    with pytest.raises(UsageError, match=r"cannot read a layer from .*nowhere\.json"):
        resolve_layer("nowhere.json")


@pytest.mark.usefixtures("without_triton")
def test_without_triton():
    """The backend "triton" is refused at once, "auto" is the eager reference."""
    with pytest.raises(
        EnvironmentUnusable, match=r"(?s)needs triton, which is not installed.*pip install triton"
    ):
        named_layer("gn_silu").module(C, backend="triton", groups=3)
    made = named_layer("gn_silu").module(C, groups=3)
    assert type(made) is GraphLayer
    assert torch.equal(made(data()), named_layer("gn_silu").module(C, backend="eager", groups=3)(data()))


def test_tokens_with_batch_statistics():
    module = resolve_layer("x / std[b,t](x)").module(C, layout="btc").double()
    x = data(0, (3, 5, C), torch.float64)
    wanted = x / torch.sqrt(x.var((0, 1), unbiased=False, keepdim=True) + 1e-5)
    torch.testing.assert_close(module(x), wanted)
    running = 0.9 + 0.1 * x.var((0, 1), unbiased=False)
    torch.testing.assert_close(module.statistics[0].running.flatten(), running)
    torch.testing.assert_close(module.eval()(x), x / torch.sqrt(running + 1e-5))


@pytest.mark.parametrize(
    ("formula", "moment", "back"),
    [
        ("x - mean[b,w,h](x)", lambda x: x.mean((0, 2, 3)), lambda x, r: x - r),
        ("x / rms[b,w,h](x)", lambda x: x.square().mean((0, 2, 3)), lambda x, r: x / torch.sqrt(r + 1e-5)),
        (
            "x / std[b,w,h](x)",
            lambda x: x.var((0, 2, 3), unbiased=False),
            lambda x, r: x / torch.sqrt(r + 1e-5),
        ),
        ("x - mean[b,w,h](tanh(x))", lambda x: x.tanh().mean((0, 2, 3)), lambda x, r: x - r),
    ],
)
def test_running_average_rule(formula, moment, back):
    module = resolve_layer(formula).module(C, momentum=0.3).double()
    running = torch.full((C,), 0.0 if "mean" in formula else 1.0, dtype=torch.float64)
    for seed in range(5):
        x = data(seed, dtype=torch.float64)
        module(x)
        running = 0.7 * running + 0.3 * moment(x)
    torch.testing.assert_close(module.statistics[0].running.flatten(), running)
    module.eval()
    before = module.statistics[0].running.clone()
    x = data(20, dtype=torch.float64)
    torch.testing.assert_close(module(x), back(x, running.view(1, -1, 1, 1)))
    assert torch.equal(module.statistics[0].running, before)


def test_every_batch_node_has_a_buffer_of_its_own():
    module = resolve_layer("x / (std[b,w,h](x) + std[b,w,h](tanh(x)) + rms[b](x)) - mean[b,w,h,c](x)").module(
        C
    )
    shapes = {name: tuple(b.shape) for name, b in module.named_buffers()}
    assert len(shapes) == 4
    assert sorted(torch.Size(s).numel() for s in shapes.values()) == [1, C, C, C]
    module(data())
    assert len({tuple(b.flatten().tolist()) for b in module.buffers()}) == 4
    assert module.eval()(data()).shape == data().shape


def test_gradients_do_not_flow_into_running_averages():
    module = named_layer("bn_relu").module(C)
    for seed in range(3):
        module(data(seed).requires_grad_()).sum().backward()
    assert all(b.grad_fn is None and not b.requires_grad for b in module.buffers())


def test_layers_from_files_and_texts(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"formula": "max(x, 0)", "name": "mine"}))
    (tmp_path / "b.txt").write_text("x * sigmoid(x)\n")
    assert resolve_layer(str(tmp_path / "a.json")).name == "mine"
    assert resolve_layer(tmp_path / "b.txt").formula == "x * sigmoid(x)"
    assert resolve_layer("x").formula == "x"
    assert resolve_layer(Graph.parse("tanh(x)")).formula == "tanh(x)"
    layer = named_layer("evonorm_s0")
    assert resolve_layer(layer) is layer
    assert str(layer) == layer.formula == str(layer.module(4).formula)
    assert layer.cost((1, 8, 4, 4)).parameters == 24
    assert isinstance(layer, Layer)
    for name, text in {
        "c.json": "{",
        "d.json": '{"form": 1}',
        "e.txt": "x **",
        "f.json": '{"formula": "x", "layout": "no"}',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(EvonasError, match=name):
            resolve_layer(tmp_path / name)
    (tmp_path / "g.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read a layer"):
        resolve_layer(tmp_path / "g.txt")


@pytest.mark.parametrize(
    "text",
    ["(" * 300, "[" * 300, "(" * 300 + "x" + ")" * 300, "a" * 300, "./" + "b" * 300, "/" + "c" * 5000,
     "x\0.json", "./x\0", "/", "max(x, 0).json", "+".join("x" * 3000)],
    ids=lambda text: f"{text[:4]!a}-{len(text)}",
)  # fmt: skip
def test_long_and_odd_texts_are_refused_in_words(text):
    with pytest.raises(UsageError) as caught:
        resolve_layer(text)
    assert "\0" not in str(caught.value)
