"""``GraphLayer.step``: a layer token by token gives what it gives on the whole sequence, state of constant size."""

from __future__ import annotations

import pytest
import torch

import evonas
from evonas.errors import UsageError

CAUSAL = [
    "x / crms[t,c](x)",
    "(x - cmean[t](x)) / cstd[t](x)",
    "x * sigmoid(s1 * x) / cstd[t,c/g](x + v0) * crms[t](cmean[t,c](x) * x)",
    "x / std[b,t](cmean[t](x))",
]


def module_of(text: str, channels: int = 6) -> torch.nn.Module:
    module = evonas.layer(text).module(channels, layout="btc", groups=3, backend="eager").double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=random, dtype=p.dtype))
    return module.eval()


@pytest.mark.parametrize("text", [*CAUSAL, "x / rms[c](x)", "tanh(s1 * x)"])
def test_like_the_whole_sequence(text):
    module = module_of(text)
    x = 3.0 + torch.randn(4, 40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted, state, sizes = module(x), None, set()
    for t in range(x.shape[1]):
        y, state = module.step(x[:, t], state)
        torch.testing.assert_close(y, wanted[:, t], rtol=1e-12, atol=1e-12)
        sizes.add(sum(s.numel() for one in state for s in one))
    assert len(sizes) == 1
    assert len(state) == sum(text.count(name) for name in ("cmean", "crms", "cstd"))


def test_half_precision_is_computed_in_float32():
    module = evonas.layer("x / crms[t,c](x)").module(4, layout="btc").eval()
    x = (200 * torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(2))).half()
    y, state = module.step(x[:, 0])
    assert y.dtype == torch.float16
    assert {s.dtype for s in state[0]} == {torch.float32}
    assert torch.isfinite(y).all()


def test_a_state_is_not_changed_by_what_follows():
    module = module_of(CAUSAL[1])
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    _, first = module.step(x[:, 0])
    kept = [tuple(s.clone() for s in one) for one in first]
    one, _ = module.step(x[:, 1], first)
    module.step(x[:, 2], first)
    again, _ = module.step(x[:, 1], first)
    assert torch.equal(one, again)
    assert all(torch.equal(a, b) for p, q in zip(first, kept, strict=True) for a, b in zip(p, q, strict=True))


def test_what_cannot_step():
    x = torch.zeros(2, 6)
    for text, message in (("x / rms[t](x)", "token by token"), ("x / rms[t,c](x)", "token by token")):
        with pytest.raises(UsageError, match=message):
            evonas.layer(text).module(6, layout="btc").eval().step(x)
    batch = evonas.layer("x / rms[b,t](x)").module(6, layout="btc")
    with pytest.raises(UsageError, match="in training mode"):
        batch.step(x)
    batch.eval().step(x)
    with pytest.raises(UsageError, match="no tokens"):
        evonas.layer("x / rms[c](x)").module(6).step(x)
    with pytest.raises(UsageError, match=r"needed is \(batch, 6\)"):
        evonas.layer("x").module(6, layout="btc").step(torch.zeros(2, 5))


def test_kernels_give_way_to_the_reference():
    """Causal moments have no Triton expression yet: the layer runs on the reference as a whole."""
    layer = evonas.layer("x / crms[t,c](x + 0.5)")
    with pytest.raises(UsageError, match="crms"):
        layer.module(4, layout="btc", backend="triton")
    with pytest.warns(UserWarning, match="the eager reference is used"):
        made = layer.module(4, layout="btc", backend="auto")
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(made(x), layer.module(4, layout="btc", backend="eager")(x))
