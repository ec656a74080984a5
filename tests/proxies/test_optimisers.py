"""Optimisers by name, and AdamP and SGDP against the equations and against what they are for."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evonas.errors import UsageError
from evonas.proxies.adamp import SGDP, AdamP, project
from evonas.proxies.optimisers import OPTIMISERS, make_optimiser
from evonas.proxies.schedules import set_rate


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _regression(optimiser, steps=300):
    """Linear 32 -> 16 with batch norm on a fixed regression; the final loss and the mean length of a row."""
    g = _generator()
    x = torch.randn(256, 32, generator=g)
    target = F.batch_norm(x @ torch.randn(32, 16, generator=g), None, None, training=True)
    target = target + 0.1 * torch.randn(256, 16, generator=g)
    weight = nn.Parameter(torch.randn(16, 32, generator=g) / math.sqrt(32))
    optimiser = optimiser([weight])
    loss = torch.zeros(())
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.mse_loss(F.batch_norm(x @ weight.T, None, None, training=True), target)
        loss.backward()
        optimiser.step()
    return float(loss.detach()), float(weight.detach().norm(dim=1).mean()), optimiser


def test_sgdp_keeps_scale_invariant_weights_short_at_the_same_loss():
    plain, long, _ = _regression(lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9))
    projected, short, optimiser = _regression(lambda p: SGDP(p, lr=1.0, momentum=0.9))
    assert short <= 0.5 * long
    assert projected == pytest.approx(plain, rel=0.05)
    assert optimiser.fired["seen"] == 300
    assert 100 <= optimiser.fired["rows"] + optimiser.fired["whole"] <= 300


def test_projection_by_rows_leaves_nothing_along_the_rows():
    g = _generator(1)
    weight, update = torch.randn(16, 32, generator=g), torch.randn(16, 32, generator=g)
    gradient = torch.randn(16, 32, generator=g)
    unit = weight / weight.norm(dim=1, keepdim=True)
    gradient -= unit * (unit * gradient).sum(1, keepdim=True)
    result, fired = project(update, gradient, weight, delta=0.1, eps=1e-8)
    assert fired == 1
    assert (result * unit).sum(1).abs().max() <= 1e-6
    expected = update - unit * (unit * update).sum(1, keepdim=True)
    torch.testing.assert_close(result, expected)


def test_projection_of_the_whole_where_only_that_is_invariant():
    g = _generator(2)
    weight, gradient, update = (torch.randn(8, 3, 2, 2, generator=g) for _ in range(3))
    gradient[0] += weight[0]  # one row has a radial gradient
    unit = weight / weight.norm()
    gradient -= unit * (unit * gradient).sum()
    result, fired = project(update, gradient, weight, delta=0.1, eps=1e-8)
    assert fired == 2
    assert abs(float((result * unit).sum())) <= 1e-6
    rows = (result * weight).flatten(1).sum(1).abs()
    assert rows.max() > 1e-3  # the rows keep theirs


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_fires_along_a_gradient_that_is_parallel_to_the_weight(sign):
    g = _generator(3)
    weight, update = torch.randn(4, 64, generator=g), torch.randn(4, 64, generator=g)
    gradient = sign * weight + 0.05 * torch.randn(4, 64, generator=g)
    result, fired = project(update, gradient, weight, delta=0.1, eps=1e-8)
    assert fired == 0
    assert torch.equal(result, update)


def _steps(make, dtype=torch.float32, steps=20):
    """A small regression without any norm; the weights after it, and the optimiser."""
    g = _generator(4)
    x = torch.randn(64, 6, generator=g, dtype=dtype)
    weights = [
        nn.Parameter(torch.randn(5, 6, generator=g, dtype=dtype)),
        nn.Parameter(torch.zeros(5, dtype=dtype)),
    ]
    target = torch.randn(64, 5, generator=g, dtype=dtype)
    optimiser = make(weights)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(torch.tanh(x @ weights[0].T + weights[1]), target).backward()
        optimiser.step()
    return weights, optimiser


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamp_without_firing_is_adam(decay):
    theirs, _ = _steps(lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=decay))
    ours, optimiser = _steps(lambda p: AdamP(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=decay, delta=0.0))
    assert optimiser.fired == {"seen": 20, "rows": 0, "whole": 0}
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).detach().abs().max()) <= 1e-6


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgdp_without_firing_is_sgd(nesterov):
    theirs, _ = _steps(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=nesterov))
    ours, _ = _steps(lambda p: SGDP(p, lr=0.05, momentum=0.9, nesterov=nesterov, delta=0.0))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_projected_step_of_adamp_by_hand(nesterov):
    """Numbers of the equations, in double precision, with decay."""
    g = _generator(5)
    w0 = torch.randn(3, 40, generator=g, dtype=torch.float64)
    unit = w0 / w0.norm(dim=1, keepdim=True)
    gradient = torch.randn(3, 40, generator=g, dtype=torch.float64)
    gradient -= unit * (unit * gradient).sum(1, keepdim=True)
    weight = nn.Parameter(w0.clone())
    weight.grad = gradient.clone()
    optimiser = AdamP([weight], lr=0.01, betas=(0.9, 0.99), weight_decay=0.5, nesterov=nesterov)
    optimiser.step()
    m = 0.1 * gradient
    direction = (0.9 * m + 0.1 * gradient if nesterov else m) / (
        (0.01 * gradient**2).sqrt() / math.sqrt(0.01) + 1e-8
    )
    direction = direction - unit * (unit * direction).sum(1, keepdim=True)
    expected = w0 * (1 - 0.01 * 0.5 * 0.1) - 0.01 / 0.1 * direction
    assert optimiser.fired == {"seen": 1, "rows": 1, "whole": 0}
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-9)


def test_decay_of_sgdp_by_hand():
    """Where nothing fires the decay is lr wd / (1 - momentum); of vectors too, which are never projected."""
    weight, vector = nn.Parameter(torch.ones(2, 50)), nn.Parameter(torch.ones(4))
    weight.grad, vector.grad = torch.ones(2, 50), torch.zeros(4)
    optimiser = SGDP([weight, vector], lr=0.1, momentum=0.9, weight_decay=0.01)
    optimiser.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 50), 1 - 0.1 * 0.01 / 0.1 - 0.1))
    torch.testing.assert_close(vector.detach(), torch.full((4,), 1 - 0.1 * 0.01 / 0.1))
    assert optimiser.fired["seen"] == 1


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_training_goes_on_from_a_state_dict(name):
    def make(p):
        return make_optimiser(
            name,
            [
                {"params": p[:1], "weight_decay": 0.1, "lr_scale": 0.5},
                {"params": p[1:]},
                {"params": []},
            ],
            lr=0.02,
        )

    weights, optimiser = _steps(make, steps=7)
    assert [g["lr"] for g in optimiser.param_groups] == [0.01, 0.02]
    copies = [nn.Parameter(w.detach().clone()) for w in weights]
    other = make(copies)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    if name.endswith("p"):
        assert other.fired == optimiser.fired
    for step in range(3):
        for pair, one in ((weights, optimiser), (copies, other)):
            for i, p in enumerate(pair):
                p.grad = torch.randn(p.shape, generator=_generator(10 * step + i))
            set_rate(one.param_groups, 0.04)
            one.step()
    assert [g["lr"] for g in other.param_groups] == [0.02, 0.04]
    for a, b in zip(weights, copies, strict=True):
        assert torch.equal(a, b)


def test_sgd_by_name_is_the_training_of_before():
    a, _ = _steps(lambda p: make_optimiser("sgd", [{"params": p, "weight_decay": 1e-2}], lr=0.05))
    b, _ = _steps(
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2, fused=True)
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_bad_input_says_what_is_needed():
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(UsageError, match="adamw"):
        make_optimiser("adam", [{"params": [weight]}], lr=0.1)
    with pytest.raises(UsageError, match="nothing to train"):
        make_optimiser("sgd", [{"params": []}], lr=0.1)
    with pytest.raises(UsageError, match="betas"):
        AdamP([weight], betas=(0.9, 1.0))
    with pytest.raises(UsageError, match="momentum"):
        SGDP([weight], momentum=1.0)
    with pytest.raises(UsageError, match="delta"):
        AdamP([weight], delta=-1.0)
