"""Candidates as modules: one layer for all places, or one per group of slots."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from evonas.errors import EvonasError, UsageError
from evonas.graph import Assembly, Graph
from evonas.graph.slots import NORM_SLOTS, SLOTS
from evonas.layers import ZOO, AssembledLayer, Layer, resolve_candidate, resolve_layer

C = 8


def test_a_layer_fills_all_slots():
    layer = resolve_candidate("evonorm_s0")
    assert isinstance(layer, Layer)
    assert layer.layers == (layer,)
    assert {layer.module(C, slot=slot, layout="nchw").formula for slot in SLOTS} == {layer.formula}
    with pytest.raises(UsageError, match="unknown slot"):
        layer.module(C, slot="ffm")


def test_an_assembly_fills_some():
    made = resolve_candidate("pre_ffn+final: rms_norm; act: x * sigmoid(v1 * x)")
    assert isinstance(made, AssembledLayer)
    assert made.module(C, slot="pre_attention") is None
    norm, act = made.module(C, slot="final"), made.module(2 * C, slot="ffn")
    assert (norm.formula, norm.channels, norm.layout.name) == ("x / rms[c](x)", C, "btc")
    assert (act.formula, act.channels, act.weight) == ("x * sigmoid(v1 * x)", 2 * C, None)
    assert made.module(C, slot="final") is not norm
    assert [layer.formula for layer in made.layers] == [norm.formula, act.formula]
    assert list(made.parts) == ["pre_ffn+final", "act"]
    assert made.formula == "pre_ffn+final: x / rms[c](x); act: x * sigmoid(v1 * x)"
    assert resolve_candidate(made.formula).digest == made.digest
    assert r"pre\_ffn" in made.latex


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("rms_norm+silu", lambda x: F.rms_norm(x, (C,), eps=1e-5)),
        ("layer_norm+gelu", lambda x: F.layer_norm(x, (C,), eps=1e-5)),
        ("simple_rms_norm+silu", lambda x: F.rms_norm(x, (C,), eps=1e-5)),
        ("dyt+silu", lambda x: torch.tanh(0.5 * x)),
        ("derf+silu", lambda x: torch.erf(0.5 * x)),
    ],
)
def test_named_assemblies(name, norm):
    made = resolve_candidate(name)
    x = torch.randn(2, 5, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for slot in NORM_SLOTS:
        module = made.module(C, slot=slot).double()
        torch.testing.assert_close(module(x), norm(x), rtol=1e-9, atol=1e-9)
        assert (module.weight is None) == name.startswith("simple")
        assert (module.s1 is None) == (not name.startswith("d"))
    act = made.module(C, slot="ffn").double()
    torch.testing.assert_close(act(x), {"silu": F.silu, "gelu": F.gelu}[name.split("+")[1]](x))
    assert not list(act.parameters())
    assert resolve_candidate(made.formula).digest == made.digest
    assert resolve_candidate(made.formula).formula == made.formula


def test_rms_norms_with_and_without_gain_are_different_candidates():
    digests = {
        resolve_candidate(n).digest
        for n in ("rms_norm", "simple_rms_norm", "rms_norm+silu", "simple_rms_norm+silu")
    }
    assert len(digests) == 4
    assert resolve_candidate("simple_rms_norm").formula == "all (no affine): x / rms[c](x)"
    assert resolve_layer("simple_rms_norm").module(C).weight is None
    assert resolve_layer("simple_rms_norm").module(C, affine=True).weight is not None


def test_one_kind_of_place():
    """Norm and then activation, as image networks have them; the affine is the last thing."""
    made = resolve_candidate("layer_norm+silu")
    module = made.module(C, layout="nchw").double()
    x = torch.randn(2, C, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = F.silu(F.layer_norm(x.movedim(1, -1), (C,), eps=1e-5)).movedim(-1, 1)
    torch.testing.assert_close(module(x), wanted)
    assert module.weight is not None
    assert resolve_candidate("act: x * sigmoid(x)").module(C, layout="nchw").weight is None
    assert resolve_candidate("simple_rms_norm").module(C, layout="nchw").formula == "x / rms[c](x)"
    assert (
        resolve_candidate("simple_rms_norm+relu").module(C, layout="nchw").formula == "max(x / rms[c](x), 0)"
    )
    for text, message in (
        ("pre_ffn: x / rms[c](x); final: x", "its norms differ"),
        ("pre_ffn: x / rms[c](x); act: x", "its norms differ"),
        ("norm: x * v1; act: sigmoid(v1 * x)", "both have v1"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_candidate(text).module(C)


def test_what_can_be_given():
    graph = Graph.parse("x / rms[c](x)")
    made = Assembly.of({"norm": graph, "act": Graph.parse("max(x, 0)")})
    assert resolve_candidate(made).formula == str(made)
    assert resolve_candidate(graph).formula == str(graph)
    assert resolve_candidate(resolve_candidate(made)).formula == str(made)
    assert resolve_candidate("x+v1").formula == "x + v1"
    assert isinstance(resolve_candidate("(n := x / rms[c](x)) * sigmoid(n)"), Layer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rms_nrm+silu", "did you mean 'rms_norm'"),
        ("rms_norm+silo", "did you mean 'silu'"),
        ("norm: rms_nrm", "unknown input"),
        ("nrm: x", "unknown slot"),
        ("x; act: x", "names no slot"),
        ("rms_nrm", "did you mean 'rms_norm'"),
    ],
)
def test_what_cannot(text, message):
    with pytest.raises(EvonasError, match=message):
        resolve_candidate(text)


def test_every_norm_of_tokens_is_in_the_zoo():
    assert {"rms_norm", "simple_rms_norm", "layer_norm", "dyt_scalar", "derf_scalar"} <= set(ZOO)
