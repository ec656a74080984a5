"""Layers with one value per layer, s0 and s1, as modules: eager and on generated C."""

from __future__ import annotations

import copy

import pytest
import torch
from evonas.kernels import c_runtime
from evonas.kernels.vm import CandidateBatch

import evonas
from evonas.graph import Graph
from evonas.layers import vector_parameters

FORMULAS = ["tanh(s1 * x)", "erf(0.5 * s1 * x + s0)", "x / rms[c](x + s0) * s1 * v1"]


@pytest.mark.parametrize("layout", ["nchw", "btc"])
@pytest.mark.parametrize("text", FORMULAS)
def test_parameters(text, layout):
    module = evonas.layer(text).module(8, layout=layout)
    used = {n for n in ("v0", "v1", "s0", "s1") if n in text}
    assert {n for n, _ in module.named_parameters()} == used | {"weight", "bias"}
    for name in used:
        parameter = getattr(module, name)
        assert parameter.shape == ((1,) if name.startswith("s") else (8,))
        assert (parameter == float(name.endswith("1"))).all()
    assert {id(p) for p in vector_parameters(module)} == {id(p) for p in module.parameters()}
    again = evonas.layer(text).module(8, layout=layout)
    again.load_state_dict(module.state_dict())


def test_dyt_as_published():
    """gamma * tanh(alpha * x) + beta with one alpha, by hand and by autograd."""
    module = evonas.layer("tanh(0.5 * s1 * x)").module(6, layout="btc").double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha = torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
    wanted = torch.tanh(alpha * x)
    y = module(x)
    torch.testing.assert_close(y, wanted, rtol=1e-14, atol=0)
    (got,) = torch.autograd.grad(y.square().sum(), [module.s1])
    (expected,) = torch.autograd.grad(wanted.square().sum(), [alpha])
    torch.testing.assert_close(got, 0.5 * expected, rtol=1e-12, atol=0)


@pytest.mark.skipif(not c_runtime.available(), reason="no C compiler")
@pytest.mark.parametrize(("layout", "shape"), [("nchw", (3, 6, 5, 3)), ("btc", (3, 7, 6))])
@pytest.mark.parametrize("text", FORMULAS)
def test_generated_c_sums_the_gradient_over_channels(text, layout, shape, tmp_path, monkeypatch):
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(tmp_path))
    layer, random = evonas.layer(text), torch.Generator().manual_seed(1)
    eager = layer.module(6, layout=layout, backend="eager", groups=3)
    with torch.no_grad():
        for p in eager.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=random))
    fast = layer.module(6, layout=layout, backend="c", groups=3)
    fast.load_state_dict(eager.state_dict())
    eager = copy.deepcopy(eager).double()
    x, dy = (torch.randn(shape, generator=random) for _ in range(2))
    fast(x).backward(dy)
    eager(x.double()).backward(dy.double())
    for (name, p), (_, q) in zip(fast.named_parameters(), eager.named_parameters(), strict=True):
        torch.testing.assert_close(
            p.grad.double(), q.grad, rtol=2e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    with torch.no_grad():
        torch.testing.assert_close(fast(x).double(), eager(x.double()), rtol=1e-5, atol=1e-5)


def test_the_batch_machine_says_that_it_has_no_scalars():
    batch = CandidateBatch([Graph.parse("tanh(x)"), Graph.parse("tanh(s1 * x)")])
    assert list(batch.unexpressible) == [1]
    assert "'s1' cannot be loaded" in batch.unexpressible[1]
