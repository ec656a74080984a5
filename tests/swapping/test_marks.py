"""What a layer makes for an activation elsewhere says so; nothing else may take it for something that it is not."""

from __future__ import annotations

import copy
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

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """conv, norm, and what a function makes of both and the norm's output."""

    def __init__(self, behind: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.behind = behind
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self, self.bn(self.conv(x)))


class ByGraph(Net):
    """The same with a second input, which no example is guessed for."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


def made(model: nn.Module, x: Tensor = IMAGE) -> Tensor:
    """What the new layer makes, as a plain tensor."""
    return plain(model.bn(model.conv(x)))


def swapped(behind: Callable[[Net, Tensor], Tensor]) -> Net:
    model = Net(behind)
    report = evonas.swap(model, "evonorm_s1", backend="eager")
    assert report.counts == {"layers": 1, "affine": 0, "left": 0}
    return model


def statement(model: Net, y: Tensor) -> Tensor:
    y.relu_()
    y += 1
    return F.relu(y)


def returned(model: Net, y: Tensor) -> Tensor:
    F.relu(y, inplace=True)
    return y


def positional(model: Net, y: Tensor) -> Tensor:
    F.elu(y, 1.0, True)
    return F.relu(y - 0.5)


WRITING = {
    statement: lambda y: F.relu(y + 1),
    returned: lambda y: y,
    positional: lambda y: F.relu(y - 0.5),
}


@pytest.mark.parametrize("behind", WRITING)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_mark_is_over_after_an_activation_in_place(
    behind: Callable[[Net, Tensor], Tensor], compiled: bool
) -> None:
    model = swapped(behind)
    wanted = WRITING[behind](made(model))
    torch._dynamo.reset()
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    y = run(IMAGE)
    assert torch.equal(y, wanted)
    assert type(y) is Tensor or compiled
    (y + 1).sum().backward()


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda y: y.float(),
    "to": lambda y: y.to(torch.float32),
    "type_as": lambda y: y.type_as(y),
    "contiguous": lambda y: y.contiguous(),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_does_nothing_on_the_example_is_not_between(name: str) -> None:
    """It does something in another dtype or memory format, and its result has no mark."""
    model = Net(lambda model, y: F.relu(BETWEEN[name](y)))
    report = evonas.swap(model, "evonorm_s1", dry_run=True)
    assert {e.path: e.reason for e in report.left}["bn"] == f"has {name}() between norm and the function relu"


@pytest.mark.parametrize("name", ["clone", *BETWEEN])
def test_nor_in_the_graph_of_fx(name: str) -> None:
    between = BETWEEN.get(name, lambda y: y.clone())
    model = ByGraph(lambda model, y: F.relu(between(y)))
    report = evonas.swap(model, "evonorm_s1", dry_run=True)
    assert "fx" in report.found
    assert not [entry for entry in report.replaced if entry.by != "affine"]


def test_nor_before_a_shared_activation() -> None:
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__(lambda model, y: y)
            self.relu, self.head = nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.head(self.relu(super().forward(x).float())))

    report = evonas.swap(Shared(), "evonorm_s1", dry_run=True)
    assert {e.path: e.reason for e in report.left}["bn"] == (
        "has float() between norm and activation, and the activation is used elsewhere too"
    )


@pytest.mark.parametrize("in_place", [True, False])
def test_a_graph_of_torch_compile_may_end_between_the_two(in_place: bool) -> None:
    def behind(model: Net, y: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return F.relu(y, inplace=in_place)

    model = swapped(behind)
    torch._dynamo.reset()
    y = torch.compile(model, backend="eager")(IMAGE)
    assert torch.allclose(y, made(model))
    y.sum().backward()


OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": lambda y: y.clone(),
    "add_": lambda y: y.add_(1),
    "cat": lambda y: torch.cat([y, y], 1),
    "__setitem__": lambda y: (y.__setitem__(0, 0.0), y)[1],
    "unbind": lambda y: torch.stack(y.unbind()),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_path_in_training_is_an_error(name: str) -> None:
    model = swapped(lambda model, y: F.relu(OTHER[name](y) if model.training else y))
    assert torch.equal(model.eval()(IMAGE), made(model))
    with pytest.raises(UsageError, match=f"^bn, a layer .*, and {name} uses it") as raised:
        model.train()(IMAGE)
    assert "skip='bn'" in str(raised.value.hint)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_shared_activation_alike(in_place: bool, compiled: bool) -> None:
    """It passes what the layer makes, and nothing else may use that."""

    class Shared(Net):
        def __init__(self) -> None:
            super().__init__(lambda model, y: y)
            self.relu, self.wrong = nn.ReLU(in_place), False

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            y = self.relu(y * 2 if self.wrong else y)
            return self.relu(y - 0.1)

    model = Shared()
    assert evonas.swap(model, "evonorm_s1", backend="eager").counts["layers"] == 1
    torch._dynamo.reset()
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    y = run(IMAGE)
    assert torch.equal(y, F.relu(made(model) - 0.1))
    assert type(y) is Tensor
    model.wrong = True
    run = torch.compile(model, backend="eager") if compiled else model
    with pytest.raises(UsageError, match=r"^bn, a layer .* mul uses it"):
        run(IMAGE)


def test_a_shared_activation_in_an_export_that_is_not_strict() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3)).eval()
    model.append(model[2])
    assert evonas.swap(model, "evonorm_s1", backend="eager").counts["layers"] == 1
    for strict in (True, False):
        program = torch.export.export(model, (IMAGE,), strict=strict)
        assert torch.allclose(program.module()(IMAGE), model(IMAGE))
        assert sum("relu" in str(node.target) for node in program.graph.nodes) == 1


def test_sizes_words_and_hooks_may_be_read() -> None:
    seen = []

    def behind(model: Net, y: Tensor) -> Tensor:
        seen.extend([y.shape, y.size(0), y.dtype, y.is_contiguous(), len(repr(y)), y.requires_grad])
        if y.requires_grad:
            y.register_hook(lambda g: seen.append(float(g.sum())))
        return F.relu(y)

    def watch(module: nn.Module, args: object, out: Tensor) -> None:
        seen.append(plain(out).mean())
        out.register_hook(lambda g: seen.append(float(g.sum())))

    model = swapped(behind)
    model.bn.register_forward_hook(watch)
    y = model(IMAGE)
    y.sum().backward()
    assert seen[-2:] == [float(y.numel())] * 2
    assert torch.equal(y, made(model))


def test_a_backward_hook_is_an_error() -> None:
    """torch gives the output on as another tensor then, which has no mark."""
    shared = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))
    shared.append(shared[2])
    evonas.swap(shared, "evonorm_s1", backend="eager")
    for model, layer in ((swapped(lambda model, y: F.relu(y)), "bn"), (shared, "1")):
        wanted = model(IMAGE)
        handles = (
            lambda one: one.register_full_backward_hook(lambda m, gi, go: None),
            lambda one: one.register_full_backward_pre_hook(lambda m, go: None),
            lambda one: torch.nn.modules.module.register_module_full_backward_hook(lambda m, gi, go: None),
        )
        for add in handles:
            handle = add(model.get_submodule(layer))
            try:
                with pytest.raises(UsageError, match=f"^{layer} has a backward hook"):
                    model(IMAGE)
                with torch.no_grad():
                    assert torch.equal(model(IMAGE), wanted)
            finally:
                handle.remove()
        assert torch.equal(model(IMAGE), wanted)


def test_tensors_of_other_classes_are_named() -> None:
    class TensorImage(Tensor):
        """As fastai has it."""

    model = swapped(lambda model, y: F.relu(y))
    with pytest.raises(UsageError, match=r"^bn .* makes a TensorImage, which cannot be marked") as raised:
        model(IMAGE.as_subclass(TensorImage))
    assert "give plain tensors" in str(raised.value.hint)
    assert model(IMAGE).shape == (2, 8, 7, 7)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_distributed_tensors_take_a_module() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_module, distribute_tensor

    class Tokens(nn.Module):
        def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.norm, self.act = nn.LayerNorm(4), act

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(x))

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = torch.randn(2, 3, 4)
        for act in (F.relu, nn.ReLU()):
            model = Tokens(act)
            evonas.swap(model, "x / rms[c](x)", what="norm_act", backend="eager", example=x)
            wanted = model(x)
            distribute_module(model, mesh)
            given = distribute_tensor(x, mesh, [Replicate()])
            if isinstance(act, nn.Module):
                assert torch.allclose(model(given).to_local(), wanted)
                continue
            with pytest.raises(UsageError, match="makes a DTensor, which cannot be marked") as raised:
                model(given)
            assert "a module of its own" in str(raised.value.hint)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_that_ends_between_the_two(reentrant: bool) -> None:
    class Saving(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(lambda x: self.bn(self.conv(x)), x, use_reentrant=reentrant)
            return F.relu(y)

    model = Saving(lambda model, y: y)
    report = evonas.swap(model, "evonorm_s1", backend="eager")
    assert report.counts["layers"] == 1
    y = model(IMAGE.clone().requires_grad_())
    assert torch.equal(y, made(model))
    y.square().sum().backward()
    wanted = copy.deepcopy(model.conv.weight.grad)
    model.zero_grad()
    made(model).square().sum().backward()
    assert torch.equal(model.conv.weight.grad, wanted)


def test_a_second_swap_keeps_the_mark_of_the_first() -> None:
    model = swapped(lambda model, y: F.relu(y))
    second = evonas.swap(model, "evonorm_b0", backend="eager")
    assert second.counts["layers"] == 1
    assert torch.equal(model(IMAGE), made(model))
    second.undo()
    assert isinstance(model.bn, GraphLayer)
    assert torch.equal(model(IMAGE), made(model))
