"""Activations that the model calls as functions: the layer takes their place too, and the model's code stays."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from swap_support import plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import evonas
from evonas.errors import UsageError
from evonas.layers.module import GraphLayer
from evonas.swapping.functions import FUNCTIONS

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "by keyword": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "torch.selu": torch.selu,
    "torch.celu": torch.celu,
    "method": lambda x: x.relu(),
    "method inplace": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "F.silu": F.silu,
    "F.gelu": lambda x: F.gelu(x, approximate="tanh"),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "F.elu": F.elu,
    "F.selu": F.selu,
    "F.celu": F.celu,
    "F.mish": F.mish,
}


class Net(nn.Module):
    """conv, norm, a function, and the same again in a block."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.act = act
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)

    def first(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn2(self.conv2(self.first(x))))


def bare(model: Net, x: Tensor) -> Tensor:
    """What the model computes when no function is left."""
    return plain(model.bn2(model.conv2(plain(model.bn(model.conv(x))))))


@pytest.mark.parametrize("call", CALLS)
def test_the_function_is_gone_in_both_modes(call: str) -> None:
    model = Net(CALLS[call])
    before = model(IMAGE)
    old = model.bn
    report = evonas.swap(model, "evonorm_s1", backend="eager")
    assert report.counts == {"layers": 2, "affine": 0, "left": 0}
    assert report.replaced[0].was.startswith("BatchNorm2d + ")
    for mode in (True, False):
        y = model.train(mode)(IMAGE)
        assert type(y) is Tensor
        assert y.min() < 0
        assert torch.equal(y, bare(model, IMAGE))
    report.undo()
    assert model.bn is old
    model.train()
    assert torch.allclose(model(IMAGE), before)


def test_every_function_of_the_table_is_tried() -> None:
    names = {name.rpartition(".")[2] for name in CALLS}
    assert {f.__name__ for functions in FUNCTIONS.values() for f in functions} <= {*names, "relu_"}


@pytest.mark.parametrize("call", CALLS)
def test_torch_compile_sees_every_function(call: str) -> None:
    model = Net(CALLS[call])
    evonas.swap(model, "evonorm_s1", backend="eager")
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(IMAGE), bare(model, IMAGE))


@pytest.mark.parametrize(
    "function", [torch.relu_, F.leaky_relu_, F.elu_, torch.selu_, torch.celu_, F.hardswish]
)
def test_functions_that_torch_compile_does_not_see_are_left(function: Callable[[Tensor], Tensor]) -> None:
    report = evonas.swap(Net(function), "evonorm_s1", dry_run=True)
    assert report.counts["layers"] == 0
    assert "neither a module nor one function" in report.left[0].reason


def test_gradients_are_those_without_the_function() -> None:
    model = Net()
    evonas.swap(model, "evonorm_s0", backend="eager")
    twin = copy.deepcopy(model)
    for one, compute in ((model, lambda: model(IMAGE)), (twin, lambda: bare(twin, IMAGE))):
        compute().square().sum().backward()
        assert all(p.grad is not None for p in one.parameters())
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_in_a_part_that_is_checkpointed(reentrant: bool) -> None:
    """The backward pass calls the part again, outside of the model."""

    class Saving(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.bn2(self.conv2(checkpoint(self.first, x, use_reentrant=reentrant))))

    model = Saving()
    report = evonas.swap(model, "evonorm_s0", backend="eager")
    assert report.counts["layers"] == 2
    other = Net()
    evonas.swap(other, "evonorm_s0", backend="eager")
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        one(IMAGE.clone().requires_grad_()).square().sum().backward()
    assert torch.equal(model.conv.weight.grad, other.conv.weight.grad)


def test_copies_files_and_parts_by_themselves() -> None:
    model = Net()
    evonas.swap(model, "evonorm_s1", backend="eager")
    wanted = bare(model, IMAGE)
    assert torch.equal(copy.deepcopy(model)(IMAGE), wanted)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(IMAGE), wanted)
    assert torch.equal(model.first(IMAGE), plain(model.bn(model.conv(IMAGE))))
    fresh = Net()
    evonas.swap(fresh, "evonorm_s1", backend="eager")
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(IMAGE), wanted)


def test_compiled_and_exported() -> None:
    model = Net().eval()
    evonas.swap(model, "evonorm_s1", backend="eager")
    wanted = model(IMAGE)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(IMAGE), wanted)
    program = torch.export.export(model, (IMAGE,), strict=True)
    assert torch.allclose(program.module()(IMAGE), wanted)
    assert not [n for n in program.graph.nodes if "relu" in str(n.target)]
    with pytest.raises(UsageError, match="FakeTensor, which cannot be marked") as raised:
        torch.export.export(model, (IMAGE,), strict=False)
    assert "strict=True" in str(raised.value.hint)


def test_by_the_graph_of_fx() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + y)

    model = Two(lambda x: x.relu())
    report = evonas.swap(model, "evonorm_s1", backend="eager")
    assert "fx" in report.found
    assert report.counts == {"layers": 2, "affine": 0, "left": 0}
    assert torch.equal(model(IMAGE, IMAGE), bare(model, IMAGE + IMAGE))


def test_a_second_swap_and_the_way_back() -> None:
    model = Net()
    first = evonas.swap(model, "evonorm_s1", backend="eager")
    second = evonas.swap(model, "evonorm_b0", backend="eager")
    assert second.counts["layers"] == 2
    assert torch.equal(model(IMAGE), bare(model, IMAGE))
    second.undo()
    assert torch.equal(model(IMAGE), bare(model, IMAGE))
    first.undo()
    assert not any(isinstance(m, GraphLayer) for m in model.modules())
    assert float(model(IMAGE).detach().min()) == 0


def test_norms_alone_leave_the_function() -> None:
    model = Net()
    report = evonas.swap(model, "x / rms[w,h](x)", what="norm", backend="eager")
    assert report.counts == {"layers": 2, "affine": 0, "left": 0}
    assert float(model(IMAGE).detach().min()) == 0


def test_what_is_no_such_function_is_left() -> None:
    class Own(torch.autograd.Function):
        """An activation with a backward pass of its own, which has to stay."""

        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return F.relu(x)

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            return g

    class Dropped(Net):
        def first(self, x: Tensor) -> Tensor:
            return F.relu(F.dropout(self.bn(self.conv(x)), 0.5, self.training))

    class Twice(Net):
        def first(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            return F.relu(y) + y

    for model, reason in (
        (Net(Own.apply), "neither a module nor one function"),
        (Net(torch.sigmoid), "neither a module nor one function"),
        (Dropped(), "has a dropout between norm and the function relu"),
        (Twice(), "neither a module nor one function"),
    ):
        report = evonas.swap(model, "evonorm_s1", dry_run=True)
        assert reason in {e.path: e.reason for e in report.left}["bn"]
        assert isinstance(model.bn, nn.BatchNorm2d)
