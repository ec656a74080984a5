"""Transformer and TransNormer: slots, causality, the published pieces, decoding."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from evonas.kernels.linear_attention import decay_rates
from torch import nn

import evonas
import evonas.proxies as proxies
from evonas.errors import UsageError
from evonas.layers import resolve_candidate
from evonas.proxies.networks.decoding import Session
from evonas.proxies.networks.tokens import RMSNorm, SimpleRMSNorm, rotate

NAMES = ("transformer", "transnormer")
SMALL = {"width": 24, "depth": 3, "heads": 2, "sequence": 16, "batch": 2, "steps": 2}


def own(channels, slot):
    return None


def model(name, make=own, seed=0, **changes):
    return proxies.build(proxies.get(name, **{**SMALL, **changes}), make, seed).network


def asked(name, **changes):
    found = []
    model(name, lambda channels, slot: found.append((slot, channels)), **changes)
    return found


def test_slots():
    block = [("pre_attention", 24), ("pre_ffn", 24), ("ffn", 64)]
    assert asked("transformer") == block * 3 + [("final", 24)]
    post = [("pre_attention", 24), ("post_attention", 24), ("pre_ffn", 24), ("ffn", 64), ("post_ffn", 24)]
    assert sorted(asked("transformer", post_norms=True)) == sorted(post * 3 + [("final", 24)])
    block = [("pre_attention", 24), ("post_attention", 24), ("pre_ffn", 24), ("ffn", 64)]
    assert asked("transnormer") == block * 3 + [("final", 24)]


def test_a_layer_of_one_argument_fills_every_slot():
    built = proxies.build(proxies.get("transformer", **SMALL), lambda channels: SimpleRMSNorm(), 0)
    assert len(built.sites) == 3 * 3 + 1


def test_what_stands_where_no_layer_is_given():
    kinds = [type(m) for m in model("transformer").modules()]
    assert (kinds.count(RMSNorm), kinds.count(nn.SiLU), kinds.count(SimpleRMSNorm)) == (7, 3, 0)
    kinds = [type(m) for m in model("transnormer").modules()]
    assert (kinds.count(SimpleRMSNorm), kinds.count(nn.Identity), kinds.count(nn.SiLU)) == (10, 3, 0)
    sandwich = [type(m) for m in model("transformer", post_norms=True).modules()]
    assert sandwich.count(RMSNorm) == 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ffn", ["swiglu", "mlp"])
def test_a_token_changes_nothing_before_it(name, ffn):
    network = model(name, ffn=ffn).double()
    tokens = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(0))
    before = network(tokens)
    for t in (0, 5, 11):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 100) % 256
        after = network(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone(name):
    def weights(make, seed):
        built = proxies.build(proxies.get(name, **SMALL), make, seed)
        inside = {id(p) for site in built.sites for p in site.parameters()}
        return {n: p for n, p in built.network.named_parameters() if id(p) not in inside and p.ndim > 1}

    def greedy(channels, slot):
        torch.randn(100)
        return nn.Linear(channels, channels)

    one, same, other = weights(own, 1), weights(greedy, 1), weights(own, 2)
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", NAMES)
def test_initial_sizes_of_weights(name):
    network = model(name, width=128, depth=1)
    embedding = proxies.get(name).spec.embedding  # a Transformer at tiny starts with wide ones
    assert network.embedding.weight.std().item() == pytest.approx(embedding, rel=0.05)
    assert network.readout.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    published = model(name, width=128, depth=1, init=0.02)
    assert published.blocks[0].ffn.down.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_decay_of_weights_spares_embeddings_angles_and_layers():
    built = proxies.build(
        proxies.get("transnormer", **SMALL), lambda c, s: evonas.layer("x").module(c, layout="btc"), 0
    )
    named = {id(p): n for n, p in built.network.named_parameters()}
    decayed = {named[id(p)] for p in built.decayed()}
    assert not [n for n in decayed if "embedding" in n or "theta" in n or "norm" in n]
    assert "blocks.0.attention.qkvu.weight" in decayed
    assert "readout.weight" in decayed
    assert len(decayed) == 3 * 5 + 1


def test_rope_depends_on_the_distance_alone():
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=g, dtype=torch.float64) for _ in range(2))
    products = [(rotate(q, n + 7) * rotate(k, n)).sum().item() for n in (0, 3, 50)]
    assert products == pytest.approx([products[0]] * 3, abs=1e-12)
    assert rotate(q, 5).norm().item() == pytest.approx(q.norm().item())


def test_transnormer_by_its_definition():
    """One block written out with the whole matrix of decays, in double precision."""
    network = model("transnormer", depth=1, decay="paper", lrpe="first").double()
    block, attention = network.blocks[0], network.blocks[0].attention
    tokens = torch.randint(256, (1, 9), generator=torch.Generator().manual_seed(1))
    x = network.embedding.weight[tokens[0]] * math.sqrt(24)

    def srms(y):
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    q, k, v, u = (srms(x) @ attention.qkvu.weight.T).chunk(4, -1)
    q, k = F.silu(q), F.silu(k)
    theta = attention.positions.theta
    mixed = []
    for h in range(2):
        here = slice(12 * h, 12 * h + 12)
        rows = []
        for i in range(9):
            row = torch.zeros(12, dtype=torch.float64)
            for j in range(i + 1):
                weight = (q[i, here] * k[j, here] * torch.cos((i - j) * theta[h])).sum()
                row += math.exp(-float(attention.decay[h]) * (i - j)) * weight * v[j, here]
            rows.append(row)
        mixed.append(torch.stack(rows))
    x = x + (srms(torch.cat(mixed, -1)) * u) @ attention.out.weight.T
    gate, up = (srms(x) @ m.weight.T for m in (block.ffn.gate, block.ffn.up))
    x = x + (gate * up) @ block.ffn.down.weight.T
    expected = srms(x) @ network.readout.weight.T
    assert (network(tokens)[0] - expected).abs().max().item() < 1e-10


@pytest.mark.parametrize("form", ["code", "paper"])
def test_decay_of_every_layer_is_that_of_the_schedule(form):
    network = model("transnormer", depth=4, decay=form, lrpe="all")
    for layer, block in enumerate(network.blocks):
        assert torch.equal(block.attention.decay, decay_rates(2, layer, 4, form))
        assert block.attention.positions is not None
    assert [b.attention.positions is None for b in model("transnormer").blocks] == [False, True, True]
    single = model("transnormer", depth=1, decay=form)
    assert torch.isfinite(single.blocks[0].attention.decay).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "layer", ["own", "tanh(0.5 * v1 * x)", "x / crms[t,c](x)", "(x - cmean[t](x)) / cstd[t](x + v0)"]
)
def test_decoding_equals_running_the_model_on_the_whole_prefix(name, layer):
    def make(channels, slot):
        return None if layer == "own" else evonas.layer(layer).module(channels, layout="btc", backend="eager")

    network = model(name, make, lrpe="all", post_norms=True).double()
    prompt = torch.randint(256, (2, 5), generator=torch.Generator().manual_seed(2))
    session, seen = Session(20), prompt
    with torch.no_grad():
        logits = network.read(prompt, session)
        assert (logits - network(prompt)).abs().max() < 1e-10
        for _ in range(12):
            following = logits[:, -1:].argmax(-1)
            seen = torch.cat([seen, following], 1)
            logits = network.read(following, session)
            assert (logits[:, 0] - network(seen)[:, -1]).abs().max() < 1e-10
    assert torch.equal(network.generate(prompt, 12), seen[:, 5:])


def test_what_the_transnormer_remembers_does_not_grow():
    layer = evonas.layer("x / crms[t,c](x)")
    network = model(
        "transnormer", lambda channels, slot: layer.module(channels, layout="btc", backend="eager")
    )

    def size(value):
        if isinstance(value, torch.Tensor):
            return value.numel()
        return sum(map(size, value))

    session, sizes = Session(100), set()
    with torch.no_grad():
        for token in range(60):
            network.read(torch.tensor([[token]]), session)
            sizes.add(size(session._memory.values()))
    assert len(sizes) == 1
    assert session.position == 60


@pytest.mark.parametrize("name", NAMES)
def test_generate(name):
    network = model(name)
    first = network.generate(b"The ", 10)
    assert first.shape == (10,)
    assert torch.equal(first, network.generate(list(b"The "), 10))
    drawn = [network.generate(b"The ", 10, temperature=1.5, seed=s) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert network.training
    assert network.generate(torch.zeros(3, 2, dtype=torch.int64), 4).shape == (3, 4)
    assert network.generate(b"x", 0).shape == (0,)


def test_draws_follow_the_temperature():
    network = model("transformer", vocabulary=256)
    with torch.no_grad():
        network.readout.weight.zero_()
    cold = network.generate(b"a", 300, temperature=1.0, seed=3)
    assert len(cold.unique()) > 100  # all tokens are equally likely
    assert set(network.generate(b"a", 5).tolist()) == {0}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (b"", "a prompt of shape"),
        ([1, 256], "token 256 in the prompt, the model has a vocabulary of 256"),
        ([-1], "token -1 in the prompt"),
        (torch.zeros(2), "needed are whole numbers"),
    ],
)
def test_prompts_that_do_not_fit(prompt, words):
    with pytest.raises(UsageError, match=words):
        model("transnormer").generate(prompt, 3)


def test_counts_that_do_not_fit():
    with pytest.raises(UsageError, match="-1 tokens"):
        model("transformer").generate(b"a", -1)
    with pytest.raises(UsageError, match="temperature -1"):
        model("transformer").generate(b"a", 1, temperature=-1)


@pytest.mark.parametrize("name", NAMES)
def test_training_is_the_same_in_pieces(name):
    proxy = proxies.get(name, **{**SMALL, "steps": 4})
    one, pieces = proxies.Trainer(proxy, own, seed=3), proxies.Trainer(proxy, own, seed=3)
    one.run()
    pieces.run(2)
    pieces.validate()
    pieces.run()
    assert one.losses == pieces.losses
    assert one.finish().score == pieces.finish().score


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_clipping_and_adamw_are_used(name):
    proxy = proxies.get(name, **{**SMALL, "steps": 20, "warmup": 0.1})
    trainer = proxies.Trainer(proxy, own)
    assert [trainer.rate(s) for s in range(3)] == pytest.approx(
        [proxy.spec.lr / 2, proxy.spec.lr, proxy.spec.lr]
    )
    assert isinstance(trainer._optimiser, torch.optim.AdamW)
    assert [g["weight_decay"] for g in trainer._optimiser.param_groups] == [0.1, 0.0]
    still = proxies.Trainer(proxies.get(name, **SMALL, clip=1e-12, optimiser="sgd", weight_decay=0.0), own)
    still.run()
    start = proxies.build(still.proxy, own, 0).network.state_dict()
    assert max((p - start[n]).abs().max().item() for n, p in still.network.named_parameters()) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_the_stability_test_differentiates_twice(name):
    verdict = proxies.stability_test(proxies.get(name, **SMALL), own, steps=3)
    assert len(verdict.norms) == 4
    assert verdict.norms[0] != verdict.norms[1]
    exploding = evonas.layer("1000 * x * x")
    bad = proxies.stability_test(
        proxies.get(name, **SMALL), lambda c, slot: exploding.module(c, layout="btc"), steps=10
    )
    assert not bad.passed


@pytest.mark.parametrize("name", NAMES)
def test_a_model_learns_to_repeat(name):
    """On a text with a period, a few hundred steps bring the loss near nothing."""
    from evonas.data import RawText
    from evonas.data.text import split_text

    data = split_text("t", RawText((b"abcdefgh" * 60,) * 20, source="t"), None, 0)
    proxy = proxies.get(name, data=data, **{**SMALL, "steps": 80, "lr": 0.01, "batch": 4})
    result = proxies.train(proxy, own)
    assert result.evidence["bits_per_byte"] < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_at_the_base_width_both_parametrizations_are_the_same(name):
    proxy = proxies.get(name, **{**SMALL, "base_width": 24, "steps": 3})
    one, other = (proxies.Trainer(proxy, own, seed=1, parametrization=kind) for kind in ("standard", "mup"))
    one.run()
    other.run()
    assert one.losses == other.losses


@pytest.mark.parametrize("name", NAMES)
def test_mup_slows_hidden_matrices_and_shrinks_logits_of_a_wide_model(name):
    proxy = proxies.get(name, **{**SMALL, "width": 96, "base_width": 24, "steps": 3})
    plain, mup = (proxies.Trainer(proxy, own, seed=1, parametrization=kind) for kind in ("standard", "mup"))
    network = mup.network
    scale = {id(p): g["lr_scale"] for g in mup._optimiser.param_groups for p in g["params"]}
    block = network.blocks[0]
    assert scale[id(block.ffn.down.weight)] == pytest.approx(0.25, rel=0.05)
    assert scale[id(block.attention.out.weight)] == 0.25
    assert scale[id(network.embedding.weight)] == scale[id(network.readout.weight)] == 1.0
    tokens = torch.arange(16).reshape(1, 16)
    assert network(tokens).std() < plain.network(tokens).std() * 0.6
    if name == "transformer":
        assert block.attention.logit_scale == pytest.approx(12**-0.5 / 4)
    else:
        assert network.input_scale == pytest.approx(24**0.5)
        positions = block.attention.positions  # angles are no readout: nothing is scaled by them
        assert not positions._forward_pre_hooks
        assert torch.equal(positions.theta, plain.network.blocks[0].attention.positions.theta)
    mup.run()
    assert mup.diverged_at is None


def test_mup_needs_a_base_width_and_a_known_name():
    with pytest.raises(UsageError, match="names no base width"):
        proxies.Trainer(proxies.get("resnet", base_width=None), lambda c: nn.ReLU(), parametrization="mup")
    with pytest.raises(UsageError, match="unknown parametrization 'ntk'"):
        proxies.Trainer(proxies.get("transformer", **SMALL), own, parametrization="ntk")
    trainer = proxies.Trainer(
        proxies.get("resnet", width=1 / 8, steps=1, batch=8), lambda c: nn.ReLU(), parametrization="mup"
    )
    trainer.run()
    assert {g["lr_scale"] for g in trainer._optimiser.param_groups} >= {1.0, 2.0}


#: parameters with RMSNorm and SiLU in every slot; the page on language models says them too.
PARAMETERS = {
    ("transformer", "tiny"): 424_064,
    ("transformer", "small"): 6_414_848,
    ("transformer", "paper"): 302_417_920,
    ("transnormer", "tiny"): 470_208,
    ("transnormer", "small"): 7_090_944,
    ("transnormer", "paper"): 334_121_984,
}


def known(channels, slot):
    return resolve_candidate("rms_norm+silu").laid_out("btc").module(channels, slot=slot, layout="btc")


@pytest.mark.parametrize(("name", "scale"), PARAMETERS)
def test_every_scale_has_the_parameters_that_the_page_says(name, scale):
    """Built, and run on a batch, without memory for it: shapes are checked as they would be with it."""
    proxy = proxies.get(name, scale)
    with torch.device("meta"):
        network = proxy.network(proxy.spec, known, proxy.spec.vocabulary, proxy.spec.vocabulary)
        tokens = torch.zeros(proxy.spec.batch, proxy.spec.sequence, dtype=torch.int64)
        logits = network(tokens)
    assert logits.shape == (proxy.spec.batch, proxy.spec.sequence, proxy.spec.vocabulary)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name, scale]
    page = (Path(__file__).parents[2] / "docs" / "language-models.md").read_text("utf-8")
    assert f"{PARAMETERS[name, scale]:,}" in page


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_small_scale_takes_a_step(name):
    trainer = proxies.Trainer(proxies.get(name, "small"), known)
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    trainer.run(1)
    assert trainer.diverged_at is None
    assert trainer.losses[0] == pytest.approx(math.log(256), rel=0.35)  # of a network that has seen nothing
    assert any(not torch.equal(p, before[n]) for n, p in trainer.network.named_parameters())
