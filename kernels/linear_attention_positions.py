"""Where a token stands, for linear attention: decay rates of heads and layers, and LRPE, a rotation that is relative.

Source: TransNormerLLM (arXiv 2307.14995), and its released code where the two differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evonas.errors import UsageError

FORMS = ("code", "paper")


def decay_rates(heads: int, layer: int, layers: int, form: str = "code") -> Tensor:
    """Rate of decay of every head of a layer: token j weighs exp(-rate (i - j)) for token i.

    With h heads counted from 0, ``layer`` from 0:

    - ``code``, what was released: slope_h (1 - layer / (layers - 1) + 1e-5), slope_h = 2^(-8 (h + 1) / heads) as in
      ALiBi (arXiv 2108.12409), and ALiBi's interpolation where heads is not a power of two. A single layer counts as
      the first of many. The 1e-5 keeps some decay in the last layer.
    - ``paper``: (8 h / heads) (1 - (layer + 1) / layers). Head 0 and the last layer have no decay.

    Returns:
        (heads,), float32, each at least 0.

    Raises:
        UsageError: no heads, no layers, a layer that is not there, an unknown form.
    """
    if heads < 1 or layers < 1 or not 0 <= layer < layers:
        raise UsageError(
            f"decay of layer {layer} of {layers} with {heads} heads",
            hint="layer 0 to layers - 1, heads 1 or more",
        )
    if form == "code":
        depth = 1 - layer / (layers - 1) + 1e-5 if layers > 1 else 1 + 1e-5
        rates = [slope * depth for slope in _slopes(heads)]
    elif form == "paper":
        rates = [8 * h / heads * (1 - (layer + 1) / layers) for h in range(heads)]
    else:
        raise UsageError(f"decay in the form {form!r}", hint=f"one of {', '.join(FORMS)}")
    return torch.tensor(rates, dtype=torch.float32)


def _slopes(heads: int) -> list[float]:
    """ALiBi's slopes; between two powers of two, every other one of the larger's fills up."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
    if power < heads:
        slopes += _slopes(2 * power)[0::2][: heads - power]
    return slopes


def lrpe_angles(heads: int, features: int, base: float = 10000.0) -> Tensor:
    """Initial angles per token of ``lrpe``: base^(-2 j / d), j over all d = heads * features places of all heads.

    Returns:
        (heads, features), float32, from 1 downwards.

    Raises:
        UsageError: no heads or features, a base that is not above 0.
    """
    if heads < 1 or features < 1 or not base > 0:
        raise UsageError(
            f"angles for {heads} heads of {features} features with base {base}", hint="all above 0"
        )
    places = heads * features
    at = torch.arange(places, dtype=torch.float64)
    return torch.exp(-2 * at / places * math.log(base)).reshape(heads, features).float()


def lrpe(x: Tensor, theta: Tensor, offset: int = 0) -> Tensor:
    """Linearized relative position encoding: token n becomes [x cos(n theta), x sin(n theta)].

    The product of two of them depends on the distance alone: f(q, s) . f(k, t) = sum of q k cos((s - t) theta).

    Args:
        x: (..., heads, tokens, features), floating.
        theta: (heads, features), angle per token; may have a gradient.
        offset: position of the first token, for decoding.

    Returns:
        (..., heads, tokens, 2 features) in the dtype of x. Angles and products are in float32, in float64 for
        float64 tensors: in float32 the angle of position n is off by up to n theta / 2^24.

    Raises:
        UsageError: shapes that do not fit, a dtype that is not floating, a negative offset.
    """
    if not x.is_floating_point() or x.ndim < 3 or theta.shape != (x.shape[-3], x.shape[-1]):
        raise UsageError(
            f"lrpe of x {tuple(x.shape)} in {x.dtype} with theta {tuple(theta.shape)}",
            hint="x (..., heads, tokens, features), theta (heads, features)",
        )
    if offset < 0:
        raise UsageError(f"lrpe from position {offset}", hint="offset=0 or more")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    at = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=wide)
    angles = at[:, None] * theta.to(wide)[:, None, :]
    turned = x.to(wide)
    return torch.cat([turned * angles.cos(), turned * angles.sin()], dim=-1).to(x.dtype)
