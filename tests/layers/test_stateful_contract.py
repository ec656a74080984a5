"""Layers with state keep their contract: the published ones, running statistics of graphs, and planted breaches."""

from __future__ import annotations

import pytest
import torch

from evonas.layers import Buffer, StateContract, StatefulLayer, named_layer, resolve_layer
from evonas.layers.stateful import PowerNorm, UnifiedNorm
from evonas.testing import StatefulContract, Step


def over(a: torch.Tensor) -> torch.Tensor:
    return a.mean((0, 1))


class TestPowerNorm(StatefulContract):
    """The reference is the paper's recursion nu = (1 - a_b) E, which is another form of the released code's."""

    layouts = ("btc", "nchw")
    warm_up = 12

    def make(self, channels, layout):
        return PowerNorm(channels, layout=layout, warm_up=self.warm_up, scaling_groups=2)

    def reference(self, state, x, dy, weight, bias):
        eps, decay, step = 1e-5, 0.9, int(state["step"]) + 1
        leaf = x.clone().requires_grad_()
        groups = leaf.view(*x.shape[:2], 2, -1)
        scaled = (groups / (groups.square().mean(-1, keepdim=True) + eps).sqrt()).view(x.shape)
        s = scaled.detach()
        v, phi = over(s.square()), state["phi"]
        z = s / ((v if step <= self.warm_up else phi) + eps).sqrt()
        g, nu = dy * weight, (1 - decay) * state["gradient_average"]
        approximate = g - nu * z
        (dx,) = torch.autograd.grad(scaled, leaf, approximate / (v + eps).sqrt())
        gamma, lam = over(z.square()), over(g * z)
        nu = nu * (1 - (1 - decay) * gamma) + (1 - decay) * lam
        if step < self.warm_up:
            phi = phi * (step - 1) / step + v / step
        phi = decay * phi + (1 - decay) * v
        after = {"phi": phi, "gradient_average": nu / (1 - decay), "step": torch.tensor(step)}
        return Step(weight * z + bias, dx, (dy * z).sum((0, 1)), after)


class TestPowerNormWithoutWarmUp(TestPowerNorm):
    layouts = ("btc",)
    warm_up = 0


class TestUnifiedNorm(StatefulContract):
    layouts = ("btc", "nchw")
    warm_up, window, filtering, absorb, uncorrected = 10, 4, True, True, 1000

    def make(self, channels, layout):
        return UnifiedNorm(
            channels, layout=layout, warm_up=self.warm_up, window=self.window, filter_outliers=self.filtering,
            absorb_outliers=self.absorb,
        )  # fmt: skip

    def reference(self, state, x, dy, weight, bias):
        eps, m, decay = 1e-5, self.window, 0.9
        step = int(state["step"]) + 1
        squares, gradients = state["window_squares"].clone(), state["window_gradients"].clone()
        running, average, skips = state["running_var"], state["gradient_average"], int(state["skips"])
        q, spread = over(x.square()), torch.var(squares.sqrt())
        squares[step % m] = q
        outlier = False
        if step >= self.warm_up and self.filtering:
            away = squares.mean(0) - squares.log().mean(0).exp()
            if (away > m * spread).any():
                squares[step % m], outlier, skips = running, True, skips + 1
        alone = step <= m or step < self.warm_up or outlier
        var = q if alone else squares.log().mean(0).exp()
        r = torch.ones_like(var)
        if step > max(self.uncorrected, self.warm_up) and not outlier:
            r = ((var + eps).sqrt() / (running + eps).sqrt()).clamp(0.2, 5)
        z = x / (var + eps).sqrt()
        if self.absorb or not outlier:
            running = decay * running + (1 - decay) * var
        g = dy * weight * r
        gz = over(g * z)
        gradients[step % m] = average if outlier else gz
        mean = gz if alone else gradients.mean(0)
        average = decay * average + (1 - decay) * mean
        dx = (g - (mean if outlier else average) * z) / (var + eps).sqrt()
        after = {
            "window_squares": squares, "window_gradients": gradients, "running_var": running,
            "gradient_average": average, "step": torch.tensor(step), "skips": torch.tensor(skips),
        }  # fmt: skip
        return Step(weight * z + bias, dx, (dy * r * z).sum((0, 1)), after)

    def _input(self, layout, seed):
        """The batch of step 31 is an outlier, in what a state is trained on and against the reference."""
        return super()._input(layout, seed) * (50.0 if seed in (130, 1030) else 1.0)

    def test_the_outlier_alone_is_skipped(self):
        assert self._trained("btc").skips == int(self.filtering)


class TestUnifiedNormCorrected(TestUnifiedNorm):
    """The correction r, which the released code leaves at 1 for a thousand steps."""

    layouts = ("btc",)
    filtering, uncorrected = False, 0

    @pytest.fixture(autouse=True)
    def _corrected_at_once(self, monkeypatch):
        monkeypatch.setattr("evonas.layers.stateful.unified_norm._UNCORRECTED", 0)


class TestUnifiedNormThatLeavesOutliersOut(TestUnifiedNorm):
    layouts = ("btc",)
    absorb = False


class TestBatchNorm(StatefulContract):
    """Running statistics of a graph, under the same contract."""

    layouts = ("nchw",)

    def make(self, channels, layout):
        return resolve_layer("(x - mean[b,w,h](x)) / std[b,w,h](x)").module(channels, layout=layout)


class TestEvoNormB0(TestBatchNorm):
    def make(self, channels, layout):
        return named_layer("evonorm_b0").module(channels, layout=layout)


class TestGroupsOverTheBatch(TestBatchNorm):
    layouts = ("btc",)

    def make(self, channels, layout):
        return resolve_layer("x / rms[b,t,c/g](x) + mean[b](x)").module(channels, layout=layout, groups=3)


class Liar(StatefulLayer):
    """Divides by a running mean of squares and says whatever it is told to."""

    contract = StateContract(
        buffers=(Buffer("square", ("C",), 1.0, "0.9 * old + 0.1 * mean square"),),
        warm_up="none", train_formula="x / sqrt(square)", eval_formula="x / sqrt(square)",
        gradient_rule="square is held constant", derivative=True, affine_at_eval=True,
    )  # fmt: skip

    def train_form(self, x, kept):
        y = self.with_affine(x / torch.sqrt(self.square.to(x.dtype) + self.eps))
        with torch.no_grad():
            self.square.lerp_(x.square().mean((0, 1)).to(self.square.dtype), 0.1)
        return y

    def eval_affine(self):
        return self.folded(torch.rsqrt(self.square + self.eps))


class Silent(Liar):
    contract = StateContract((), "", "", "", "", True, True)


class SeesTheBatch(Liar):
    def eval_form(self, x):
        return x / x.square().mean((0, 1)).sqrt()


class HalfTheGradient(Liar):
    def train_form(self, x, kept):
        return super().train_form(0.5 * x + 0.5 * x.detach(), kept)


class ForgetsPadding(Liar):
    """Its mean takes padding in, although it accepts a mask."""


class NotAffine(Liar):
    def eval_form(self, x):
        return torch.tanh(super().eval_form(x))


class MovesInEvaluation(Liar):
    def eval_form(self, x):
        self.square.mul_(1.01)
        return super().eval_form(x)


def suite(cls) -> StatefulContract:
    class Suite(StatefulContract):
        def make(self, channels, layout):
            return cls(channels, layout=layout)

    return Suite()


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (Silent, "test_declaration"),
        (SeesTheBatch, "test_evaluation_does_not_see_the_batch"),
        (HalfTheGradient, "test_gradient_rule"),
        (ForgetsPadding, "test_padding"),
        (NotAffine, "test_evaluation_is_affine_if_declared"),
        (MovesInEvaluation, "test_only_training_moves_buffers"),
    ],
)
def test_a_breach_is_found(cls, test):
    with pytest.raises((AssertionError, AttributeError)):
        getattr(suite(cls), test)()


def test_the_honest_twin_passes_what_the_breaches_fail():
    """Apart from padding, which it does not care for."""
    for name in ("declaration", "only_training_moves_buffers", "evaluation_does_not_see_the_batch", "gradient_rule",
                 "evaluation_is_affine_if_declared", "shapes_and_precision", "state_travels"):  # fmt: skip
        getattr(suite(Liar), f"test_{name}")()


def test_a_rule_of_its_own_needs_a_reference():
    class Suite(StatefulContract):
        def make(self, channels, layout):
            return PowerNorm(channels, layout=layout, warm_up=3)

    with pytest.raises(AssertionError, match="override it"):
        Suite().test_gradient_rule()


def test_a_layer_without_state_has_no_contract():
    assert named_layer("evonorm_s0").contract is None
    assert named_layer("evonorm_s0").module(8).contract is None
