"""Times of linear attention on a device, against flash-linear-attention and PyTorch's softmax attention.

What is compared: ``lightning_attention`` (its kernels on CUDA, chunks elsewhere), ``chunk_simple_gla`` and
``chunk_lightning_attn`` of flash-linear-attention with the same decay, and causal ``scaled_dot_product_attention``,
which computes another function at the same shape. Linear ones count only if they agree with the definition.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from evonas.kernels.linear_attention import decay_rates, lightning_attention
from evonas.kernels.linear_attention_passes import Heads, least_bytes, least_flops
from evonas.kernels.timing import Clock, copy_bandwidth, time_steps
from torch import Tensor
from torch.nn import functional as F

#: (batch, heads, tokens, head size): flash-linear-attention's and Lightning Attention's own benchmark shapes, then
#: 65,536 tokens in sequences of growing length.
SHAPES = (
    (8, 16, 2048, 128),
    (4, 64, 4096, 128),
    (4, 32, 8192, 128),
    (2, 64, 16384, 128),
    (8, 16, 2048, 64),
    *((65536 // tokens, 16, tokens, 128) for tokens in (1024, 2048, 4096, 8192, 16384, 32768, 65536)),
)
#: Microseconds to be reached on an H200, in bfloat16, by shape: half to two thirds of what the traffic of
#: flash-linear-attention's kernels alone takes at 4.3 TB/s (about 620 and 2,100 us).
TARGETS_US = {(4, 64, 4096, 128): {"forward": 400.0, "backward": 1000.0}}
LAYERS = 24  # the decay is that of the first of them, in the paper's form
AGREEMENT = 4e-2  # of the largest value, in bfloat16

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Step:
    """What ``time_steps`` measures: forward, and backward to q, k and v. Tensors are (batch, tokens, heads, size)."""

    function: Attention
    leaves: tuple[Tensor, ...]
    gradient: Tensor

    def forward(self) -> Tensor:
        return self.function(*self.leaves)

    def backward(self, out: Tensor) -> object:
        return torch.autograd.grad([out], self.leaves, [self.gradient])


def contenders(heads: int) -> dict[str, Attention]:
    """Functions on (batch, tokens, heads, size), as projections give them."""
    decay = decay_rates(heads, 0, LAYERS, "paper")

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        moved = (t.transpose(1, 2) for t in (q, k, v))
        return lightning_attention(*moved, decay.to(q.device)).transpose(1, 2)

    def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        moved = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(*moved, is_causal=True).transpose(1, 2)

    found: dict[str, Attention] = {"evonas": ours, "torch softmax": softmax}
    if importlib.util.find_spec("fla") is not None and torch.cuda.is_available():
        from fla.ops.lightning_attn import chunk_lightning_attn
        from fla.ops.simple_gla import chunk_simple_gla

        on_device = decay.to("cuda")
        found["fla simple_gla"] = lambda q, k, v: chunk_simple_gla(q, k, v, g_gamma=-on_device, scale=1.0)[0]
        found["fla lightning"] = lambda q, k, v: chunk_lightning_attn(q, k, v, 1, LAYERS, scale=1.0)[0]
    return found


def disagreement(
    function: Attention, heads: int, size: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Largest difference from the definition in float64 on 300 tokens, in units of the largest value."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(1, 300, heads, size, generator=generator).to(device, dtype) / size**0.25 for _ in range(3)
    )
    decay = decay_rates(heads, 0, LAYERS, "paper").to(device)
    moved = (t.transpose(1, 2).double() for t in (q, k, v))
    want = lightning_attention(*moved, decay, form="masked").transpose(1, 2)
    return float((function(q, k, v).double() - want).abs().max() / want.abs().max())


def measure(
    device: torch.device,
    shapes: Sequence[tuple[int, int, int, int]] = SHAPES,
    rounds: int = 15,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Any]:
    """Medians of both passes at every shape, with bytes over time of the least that must move."""
    clock = Clock(device)
    rows = []
    for batch, heads, tokens, size in shapes:
        generator = torch.Generator().manual_seed(0)
        made = [
            torch.randn(batch, tokens, heads, size, generator=generator).to(device, dtype) for _ in range(4)
        ]
        steps, left_out = {}, {}
        for name, function in contenders(heads).items():
            error = 0.0 if name == "torch softmax" else disagreement(function, heads, size, device, dtype)
            if error > AGREEMENT:
                left_out[name] = error
                continue
            leaves = tuple(t.detach().clone().requires_grad_() for t in made[:3])
            steps[name] = Step(function, leaves, made[3])
        sizes = Heads(batch, heads, tokens, size, size)
        times: Any = time_steps(steps, clock, rounds)  # type: ignore[arg-type]
        bytes_, flops = least_bytes(sizes), least_flops(sizes)
        row: dict[str, Any] = {"shape": [batch, heads, tokens, size], "left_out": left_out, "times": {}}
        for name, both in times.items():
            row["times"][name] = {
                which: {
                    "us": 1e6 * one.median,
                    "low_us": 1e6 * one.low,
                    "high_us": 1e6 * one.high,
                    "floor_bytes_per_s": bytes_[which] / one.median,
                    "flops_per_s": flops[which] / one.median,
                }
                for which, one in zip(("forward", "backward"), both, strict=True)
            }
        targets = TARGETS_US.get((batch, heads, tokens, size))
        if targets is not None:
            ours = row["times"]["evonas"]
            row["targets"] = {
                which: {"us": most, "reached": ours[which]["us"] <= most} for which, most in targets.items()
            }
        rows.append(row)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"device": name, "dtype": str(dtype), "copy_bytes_per_s": copy_bandwidth(clock), "rows": rows}
