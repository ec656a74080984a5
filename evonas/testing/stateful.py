"""The contract of a layer with state, as a suite: what it declares is what it does.

Authors subclass it in their own tests::

    class TestAcmeNorm(evonas.testing.StatefulContract):
        layouts = ("btc",)

        def make(self, channels, layout):
            return AcmeNorm(channels, layout=layout, warm_up=5)

A layer whose backward pass is not the derivative of its forward pass also overrides ``reference``, one step of the
published recursion. torch is imported when a test runs.
"""

from __future__ import annotations

import copy
import inspect
import io
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]


class Step(NamedTuple):
    """One training step of a reference: y, dx and dweight as tensors, and all buffers after it, by name."""

    y: Tensor
    dx: Tensor
    dweight: Tensor | None
    state: State


class StatefulContract:
    """Base class of a pytest class: override ``make``, get one test per part of the contract.

    layouts: what ``make`` is asked for. channels: sizes of the test. steps: training steps that a state is made
    with; more than the warm-up of what ``make`` returns. exact: largest difference to the reference over ``steps``
    steps, and to the declared affine form.
    """

    layouts: tuple[str, ...] = ("btc",)
    channels = 6
    steps = 50
    exact = 1e-12

    def make(self, channels: int, layout: str) -> nn.Module:
        """A fresh module with a ``contract``, an affine ``weight`` and ``bias``, and a short warm-up."""
        raise NotImplementedError(f"{type(self).__name__} has to override make")

    def reference(self, state: State, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor) -> Step | None:
        """One training step by the published equations, written without the layer: x and dy are (B, T, C), state maps
        names of buffers to their values before the step. None where the backward pass is the derivative."""
        return None

    def test_declaration(self) -> None:
        """Every buffer is declared with its shape, start and kind, and every part is said in words."""
        import torch

        for layout in self.layouts:
            layer = self.make(self.channels, layout)
            contract = _contract(layer)
            found = dict(layer.named_buffers())
            assert {b.name for b in contract.buffers} == set(found), (
                "buffers that are declared, and that there are"
            )
            assert len(contract.buffers) > 0, "a layer without buffers needs no contract"
            for buffer in contract.buffers:
                tensor = found[buffer.name]
                assert tuple(tensor.shape) == _shape(buffer.shape, layer), buffer.name
                assert torch.all(tensor == buffer.initial), (
                    f"{buffer.name} does not start at {buffer.initial}"
                )
                assert tensor.dtype == (torch.int64 if buffer.counter else torch.float32), buffer.name
                assert buffer.meaning.strip(), f"{buffer.name} says nothing of what it holds"
            for part in ("warm_up", "train_formula", "eval_formula", "gradient_rule"):
                assert getattr(contract, part).strip(), f"{part} says nothing"
            assert contract.affine_at_eval or contract.not_affine.strip(), "not_affine does not say why"

    def test_only_training_moves_buffers(self) -> None:
        """A training step changes some buffer, evaluation none, and evaluation repeats itself."""
        import torch

        for layout in self.layouts:
            layer = self.make(self.channels, layout).double()
            fresh = _state(layer)
            self._train(layer, layout, 2)
            trained = _state(layer)
            assert any(not torch.equal(fresh[name], trained[name]) for name in fresh), (
                "training moves no buffer"
            )
            layer.eval()
            x = self._input(layout, 9)
            first = layer(x)
            assert torch.equal(first, layer(x)), "evaluation does not repeat itself"
            assert all(torch.equal(v, _state(layer)[name]) for name, v in trained.items()), (
                "evaluation moves buffers"
            )

    def test_evaluation_does_not_see_the_batch(self) -> None:
        """A sample alone gives what it gives within a batch."""
        import torch

        for layout in self.layouts:
            layer = self._trained(layout).eval()
            x = self._input(layout, 9)
            alone = torch.cat([layer(x[n : n + 1]) for n in range(len(x))])
            torch.testing.assert_close(alone, layer(x), rtol=1e-12, atol=1e-12)

    def test_shapes_and_precision(self) -> None:
        """The output is like the input; half precision is computed in float32 and keeps float32 buffers."""
        import torch

        for layout in self.layouts:
            for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
                layer = self.make(self.channels, layout).to(dtype)
                x = (100.0 * self._input(layout, 1)).to(dtype).requires_grad_()
                y = layer(x)
                y.float().square().sum().backward()
                assert y.shape == x.shape
                assert y.dtype == dtype
                assert x.grad is not None
                assert torch.isfinite(y).all(), f"{dtype}: output"
                assert torch.isfinite(x.grad).all(), f"{dtype}: gradient"
                wide = [b for b in layer.buffers() if b.is_floating_point()]
                assert all(b.dtype in (torch.float32, torch.float64) for b in wide), f"buffers in {dtype}"
                assert all(torch.isfinite(b).all() for b in wide), f"{dtype}: buffers"

    def test_state_travels(self) -> None:
        """state_dict through torch.save and load(weights_only=True); a deep copy that goes its own way."""
        import torch

        for layout in self.layouts:
            layer = self._trained(layout)
            file = io.BytesIO()
            torch.save(layer.state_dict(), file)
            file.seek(0)
            fresh = self.make(self.channels, layout).double()
            fresh.load_state_dict(torch.load(file, weights_only=True))
            twin = copy.deepcopy(layer)
            for n in range(3):
                wanted, got = self._step(layer, layout, n), self._step(fresh, layout, n)
                assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)), (
                    "after load_state_dict"
                )
            for n in range(3):
                self._step(twin, layout, n)
            assert all(torch.equal(v, _state(twin)[name]) for name, v in _state(layer).items()), "a deep copy"
            before = _state(layer)
            self._step(twin, layout, 7)
            assert all(torch.equal(v, _state(layer)[name]) for name, v in before.items()), (
                "copies share buffers"
            )

    def test_padding(self) -> None:
        """What stands in padding changes neither other outputs nor gradients nor buffers."""
        import torch

        if "mask" not in inspect.signature(self.make(self.channels, self.layouts[0]).forward).parameters:
            return
        for layout in self.layouts:
            results = []
            for filling in (0.0, 1e3):
                layer = self._trained(layout)
                x, dy = self._input(layout, 3), self._input(layout, 4)
                mask = torch.zeros(
                    x.shape[:2] if layout == "btc" else (len(x), *x.shape[2:]), dtype=torch.bool
                )
                mask[0, 2:] = True
                hidden = mask.unsqueeze(-1 if layout == "btc" else 1)
                x = torch.where(hidden, filling, x).requires_grad_()
                y = layer(x, mask=mask)
                y.backward(torch.where(hidden, 0.0, dy))
                assert x.grad is not None
                results.append(
                    [torch.where(hidden, 0.0, y), torch.where(hidden, 0.0, x.grad), *_state(layer).values()]
                )
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    def test_gradient_rule(self) -> None:
        """The derivative by finite differences where that is declared; else every step like the reference, and not
        like the derivative."""
        for layout in self.layouts:
            if _contract(self.make(self.channels, layout)).derivative:
                difference = self._against_differences(layout)
                assert difference < 1e-6, f"the backward pass is off the derivative by {difference:.1e}"
        if not _contract(self.make(self.channels, self.layouts[0])).derivative:
            assert self.layouts[0] == "btc", "a reference is written for btc, name it first"
            self._against_reference()
            assert self._against_differences("btc") > 1e-4, "declared not to be the derivative, and it is"

    def test_evaluation_is_affine_if_declared(self) -> None:
        """One scale and one shift per channel where that is declared, and nowhere else."""
        import torch

        for layout in self.layouts:
            layer = self._trained(layout).eval()
            shape = self._input(layout, 0).shape
            zero, one = (
                layer(torch.zeros(shape, dtype=torch.float64)),
                layer(torch.ones(shape, dtype=torch.float64)),
            )
            x = self._input(layout, 5)
            error = float((layer(x) - ((one - zero) * x + zero)).abs().max().detach())
            declared = _contract(layer).affine_at_eval
            assert (error < 1e-9) == declared, (
                f"affine_at_eval is {declared}, and the layer is off by {error:.1e}"
            )

    def _input(self, layout: str, seed: int) -> Tensor:
        import torch

        c = self.channels
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4, 12, c, generator=generator, dtype=torch.float64)
        x = x * torch.linspace(0.5, 2.0, c, dtype=torch.float64) + 0.3
        return x if layout == "btc" else x.transpose(1, 2).reshape(4, c, 3, 4).contiguous()

    def _step(self, layer: nn.Module, layout: str, seed: int) -> tuple[Tensor, Tensor]:
        x, dy = self._input(layout, 100 + seed).requires_grad_(), self._input(layout, 500 + seed)
        y = layer.train()(x)
        y.backward(dy)
        assert x.grad is not None
        return y.detach(), x.grad

    def _train(self, layer: nn.Module, layout: str, steps: int) -> None:
        for seed in range(steps):
            self._step(layer, layout, seed)

    def _trained(self, layout: str) -> nn.Module:
        import torch

        layer = self.make(self.channels, layout).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        self._train(layer, layout, self.steps)
        layer.zero_grad()
        return layer

    def _against_differences(self, layout: str) -> float:
        """Relative difference between dx and finite differences, each from the same state."""
        import torch

        layer = self._trained(layout)
        x, dy = self._input(layout, 11), self._input(layout, 12)
        twin, own = copy.deepcopy(layer), x.clone().requires_grad_()
        twin(own).backward(dy)
        assert own.grad is not None
        generator, largest = torch.Generator().manual_seed(2), 0.0
        for _ in range(5):
            along = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    ends.append(float((copy.deepcopy(layer)(x + sign * 1e-5 * along) * dy).sum()))
            wanted, got = (ends[0] - ends[1]) / 2e-5, float((own.grad * along).sum())
            largest = max(largest, abs(wanted - got) / (1.0 + abs(wanted)))
        return largest

    def _against_reference(self) -> None:
        import torch

        layer = self.make(self.channels, "btc").double()
        parameters = dict(layer.named_parameters())
        weight, bias = parameters["weight"], parameters["bias"]
        with torch.no_grad():
            weight.add_(torch.linspace(-0.4, 0.4, self.channels))
            bias.add_(torch.linspace(0.2, -0.2, self.channels))
        for n in range(self.steps):
            x, dy = self._input("btc", 1000 + n).requires_grad_(), self._input("btc", 2000 + n)
            wanted = self.reference(_state(layer), x.detach(), dy, weight.detach(), bias.detach())
            assert wanted is not None, "a gradient rule of its own needs a reference: override it"
            weight.grad = None
            y = layer(x)
            y.backward(dy)
            state = _state(layer)
            assert set(wanted.state) == set(state), "the reference gives every buffer"
            pairs: dict[str, tuple[Any, Any]] = {"y": (y, wanted.y), "dx": (x.grad, wanted.dx)}
            if wanted.dweight is not None:
                pairs["dweight"] = (weight.grad, wanted.dweight)
            pairs |= {name: (state[name], value) for name, value in wanted.state.items()}
            for name, (got, want) in pairs.items():
                error = float(((got - want).abs() / (1.0 + want.abs())).max().detach())
                assert error <= self.exact, f"step {n + 1}: {name} is off the reference by {error:.1e}"


def _contract(layer: nn.Module) -> Any:
    contract = getattr(layer, "contract", None)
    assert contract is not None, f"{type(layer).__name__} declares no contract"
    return contract


def _state(layer: nn.Module) -> State:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def _shape(declared: tuple[str | int, ...], layer: Any) -> tuple[int, ...]:
    """Sizes by name: C, g and k of the layer, or an attribute."""

    def size(name: str | int) -> int:
        if isinstance(name, int):
            return name
        if name == "C":
            return int(layer.channels)
        if name == "g":
            return int(layer.groups)
        return int(layer.channels // layer.groups if name == "k" else getattr(layer, name))

    return tuple(map(size, declared))
