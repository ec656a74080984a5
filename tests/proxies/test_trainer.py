"""Training: bit-identical, resumable in pieces, divergence as a result; the two rejection tests."""

import math
import subprocess
import sys

import pytest
import torch
from reference_layers import BAD, GOOD, Constant, EvoNormB0, EvoNormS0, Exp, Identity, Square, bn
from torch import nn

import evonas.data
import evonas.proxies as proxies

NAMES = ("resnet", "mobilenet", "efficientnet")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    proxies.configure_process()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_in_one_go_or_in_pieces(name):
    proxy = proxies.get(name, steps=4)
    make = EvoNormB0 if name == "mobilenet" else bn(nn.ReLU)
    one, pieces, other = (proxies.Trainer(proxy, make, seed=s) for s in (3, 3, 4))
    one.run()
    pieces.run(1)
    pieces.validate()
    pieces.run(4)
    other.run()
    assert one.losses == pieces.losses
    assert one.losses != other.losses
    for a, b in zip(one.network.state_dict().values(), pieces.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert one.finish().score == pieces.finish().score


def test_the_same_in_another_process():
    program = (
        "import evonas.proxies as P; from torch import nn; P.configure_process()\n"
        "t = P.Trainer(P.get('mobilenet', steps=3), lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()))\n"
        "t.run(); print([x.hex() for x in t.losses])"
    )
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    here = proxies.Trainer(proxies.get("mobilenet", steps=3), bn(nn.ReLU))
    here.run()
    assert there.strip() == str([x.hex() for x in here.losses])


def test_all_candidates_see_the_same_batches():
    proxy = proxies.get("resnet")
    first, second = (proxies.Trainer(proxy, make, seed=1) for make in (Identity, EvoNormS0))
    for step in (0, 150):
        assert torch.equal(first._batches(step)[0], second._batches(step)[0])


def test_divergence_is_a_result():
    result = proxies.train(proxies.get("resnet", steps=60), Identity)
    assert result.diverged_at is not None
    assert result.diverged_at == result.steps <= 60
    assert result.score == 0.0
    assert result.final_loss is None
    assert result.last_finite_loss is not None
    assert math.isfinite(result.last_finite_loss)


def test_weights_that_are_not_finite_count_as_divergence():
    trainer = proxies.Trainer(proxies.get("resnet", steps=2), bn(nn.ReLU))
    trainer.run(1)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.inf)
    assert trainer.validate() == 0.0
    assert trainer.finish().diverged_at == 1


def test_rates_and_budget():
    proxy = proxies.get("resnet", steps=100)
    trainer = proxies.Trainer(proxy, Identity, budget=0.5)
    assert trainer.total == 50
    assert trainer.rate(0) == proxy.spec.lr
    assert trainer.rate(25) == pytest.approx(proxy.spec.lr / 2)
    constant = proxies.Trainer(proxies.get("resnet", schedule="constant"), Identity)
    assert constant.rate(99) == constant.rate(0)


def test_optimiser_follows_the_recipe():
    """Two steps equal SGD with Nesterov momentum and decay on the matrices alone, done by hand."""
    proxy = proxies.get("mobilenet", schedule="constant", weight_decay=0.01, lr=0.01)
    trainer = proxies.Trainer(proxy, bn(nn.ReLU))
    built = proxies.build(proxy, bn(nn.ReLU), 0)
    decayed = {id(p) for p in built.decayed()}
    momentum: dict[str, torch.Tensor] = {}
    for step in range(2):
        trainer.run(step + 1)
        trained = dict(trainer.network.named_parameters())
        with torch.no_grad():
            for name, p in built.network.named_parameters():
                g = trained[name].grad + (0.01 * p if id(p) in decayed else 0)
                m = momentum[name] = g if step == 0 else 0.9 * momentum[name] + g
                p -= 0.01 * (g + 0.9 * m)
                torch.testing.assert_close(trained[name], p, rtol=1e-5, atol=1e-7)


def test_clipping_and_flipping_are_used():
    plain, clipped, flipped = (
        proxies.Trainer(proxies.get("resnet", steps=3, **changes), bn(nn.ReLU))
        for changes in ({}, {"clip": 1e-9, "weight_decay": 0.0}, {"flip": True})
    )
    for trainer in (plain, clipped, flipped):
        trainer.run()
    start = proxies.build(proxies.get("resnet"), bn(nn.ReLU), 0).network.state_dict()
    moved = max((p - start[n]).abs().max().item() for n, p in clipped.network.named_parameters())
    assert moved < 1e-6
    assert plain.losses[0] == clipped.losses[0] != flipped.losses[0]


def test_heldout_accuracy_needs_the_data_set_itself():
    data = evonas.data.load()
    trainer = proxies.Trainer(proxies.get("resnet", data=data), bn(nn.ReLU))
    accuracy = trainer.accuracy(data.heldout)
    assert 0.0 <= accuracy <= 1.0
    assert accuracy == trainer.accuracy(data.heldout)


def test_quality_test_is_the_start_of_the_training():
    proxy = proxies.get("mobilenet", steps=6)
    tested, straight = proxies.Trainer(proxy, bn(nn.ReLU)), proxies.Trainer(proxy, bn(nn.ReLU))
    verdict = proxies.quality_test(tested, steps=4, threshold=0.0)
    assert verdict.passed
    assert verdict.steps == tested.step == 4
    assert tested.finish().score == straight.finish().score


@pytest.mark.parametrize(("layer", "reason"), [(Constant, "low_accuracy"), (Exp, "diverged")])
def test_quality_test_rejects(layer, reason):
    verdict = proxies.quality_test(proxies.Trainer(proxies.get("resnet"), layer), steps=15)
    assert not verdict.passed
    assert verdict.reason == reason
    assert verdict.needed == pytest.approx(0.2)


def test_stability_test_rejects_exploding_layers_at_once():
    for layer in (Exp, Square):
        verdict = proxies.stability_test(proxies.get("resnet"), layer, steps=10)
        assert not verdict.passed
        assert verdict.step is not None
        assert verdict.step <= 5
        assert len(verdict.norms) == verdict.step + 1


def test_stability_test_ascends_and_repeats():
    proxy = proxies.get("mobilenet")
    first, second = (proxies.stability_test(proxy, EvoNormS0, steps=4) for _ in range(2))
    assert first.passed
    assert first.norms == second.norms
    assert len(first.norms) == 5
    assert first.norms[-1] > first.norms[0]


def test_stability_test_agrees_with_finite_differences():
    """The first ascent step raises the norm by lr * ||grad of norm||^2, to first order."""
    proxy = proxies.get("mobilenet")
    rates = (1e-7, 2e-7)
    rises = []
    for lr in rates:
        norms = proxies.stability_test(proxy, bn(nn.SiLU), steps=1, lr=lr).norms
        rises.append((norms[1] - norms[0]) / lr)
    assert rises[0] > 0
    assert rises[0] == pytest.approx(rises[1], rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_two_tests_separate_the_reference_layers(name):
    proxy = proxies.get(name)
    scores = {}
    for layer, make in {**GOOD, **BAD}.items():
        trainer = proxies.Trainer(proxy, make)
        quality = proxies.quality_test(trainer)
        scores[layer] = trainer.finish().score
        if layer in GOOD:
            assert quality.passed, layer
            assert proxies.stability_test(proxy, make).passed, layer
        else:
            assert not quality.passed, layer
    assert min(scores[layer] for layer in GOOD) > max(scores[layer] for layer in BAD) + 0.1


def test_a_factor_on_the_rate_and_a_share_of_the_data():
    """The factor is the rate that the spec could have named; a share changes the batches and not the steps."""
    scaled = proxies.Trainer(proxies.get("resnet", steps=3), bn(nn.ReLU), lr_factor=0.5)
    named = proxies.Trainer(proxies.get("resnet", steps=3, lr=0.07 * 0.5), bn(nn.ReLU))
    part = proxies.Trainer(proxies.get("resnet", steps=3, lr=0.07 * 0.5), bn(nn.ReLU), share=0.1)
    for trainer in (scaled, named, part):
        trainer.run()
    assert scaled.losses == named.losses
    assert part.total == named.total
    assert part.losses != named.losses
    assert part._batches.per_epoch == 12
