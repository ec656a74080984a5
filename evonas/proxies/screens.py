"""The two rejection tests of Liu et al. 2020 (section 3.3): quality and stability; of language models too, whose
quality is a loss below the entropy of the tokens' frequencies in place of an accuracy above chance."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from evonas.proxies.building import build
from evonas.proxies.networks.blocks import MakeLayer
from evonas.proxies.problems import problem
from evonas.proxies.registry import Proxy
from evonas.proxies.trainer import Trainer


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """``accuracy`` on the validation part after ``steps`` steps, of a language model ``loss`` in nats per token and
    ``bits_per_byte`` (None where they are not finite); ``needed`` is the threshold."""

    passed: bool
    accuracy: float | None
    needed: float
    steps: int
    reason: str | None
    diverged_at: int | None
    last_loss: float | None
    seconds: float
    loss: float | None = None
    bits_per_byte: float | None = None

    def evidence(self) -> dict[str, float | int | None]:
        """What the log holds of it."""
        found: dict[str, float | int | None] = {"needed": self.needed, "steps": self.steps}
        if self.accuracy is not None:
            found = {"accuracy": self.accuracy, **found}
        else:
            found = {"loss": self.loss, "bits_per_byte": self.bits_per_byte, **found}
        return found | {"diverged_at": self.diverged_at, "last_loss": self.last_loss}


@dataclass(frozen=True, slots=True)
class StabilityVerdict:
    """``norms``: the gradient norm before each ascent step; ``step``: where it broke (from 0), or None."""

    passed: bool
    step: int | None
    reason: str | None
    largest: float
    seconds: float
    norms: list[float] = field(default_factory=list)


def quality_test(
    trainer: Trainer, *, steps: int | None = None, threshold: float | None = None
) -> QualityVerdict:
    """Train to ``steps`` (100 in the paper) and ask for ``threshold`` times chance (2 in the paper); of a language
    model for a validation loss of at most ``threshold`` times the entropy of the tokens' frequencies.

    The trainer goes on from there: nothing of the training is repeated or lost.
    """
    spec = trainer.proxy.spec
    started = trainer.seconds
    trainer.run(spec.quality_steps if steps is None else steps)
    score = trainer.validation()
    judged = trainer.problem.judge(score, spec.quality_threshold if threshold is None else threshold)
    reason = "diverged" if trainer.diverged_at is not None else judged.reason
    return QualityVerdict(
        passed=reason is None,
        accuracy=score.value if trainer.problem.unit == "accuracy" else None,
        loss=score.evidence.get("loss"),
        bits_per_byte=score.evidence.get("bits_per_byte"),
        needed=judged.needed,
        steps=trainer.step,
        reason=reason,
        diverged_at=trainer.diverged_at,
        last_loss=trainer.losses[-1] if trainer.losses else None,
        seconds=trainer.seconds - started,
    )


def stability_test(
    proxy: Proxy,
    make_layer: MakeLayer,
    *,
    seed: int = 0,
    steps: int | None = None,
    limit: float | None = None,
    lr: float | None = None,
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> StabilityVerdict:
    """Gradient ascent on the norm of the loss gradient, from fresh weights, on one fixed small batch.

    theta <- theta + lr * d ||g|| / d theta with g = d loss / d theta over all weights, v0, v1 and affines
    included. Rejected as soon as ||g|| exceeds ``limit`` or is not finite. The network is the test's own
    and is thrown away, so no running statistic of a training is touched. The paper leaves the rate,
    the start and the batch open; they are fields of the spec, as are the steps.
    """
    started = time.perf_counter()
    spec = proxy.spec
    steps = spec.stability_steps if steps is None else steps
    limit = spec.stability_limit if limit is None else limit
    lr = spec.stability_lr if lr is None else lr
    network = build(proxy, make_layer, seed, device).network
    asked = problem(proxy)
    inputs, targets = asked.small_batch(
        spec.stability_batch if batch is None else batch, seed=seed, device=torch.device(device)
    )
    weights = [p for p in network.parameters() if p.requires_grad]
    norms: list[float] = []
    reason, at = None, None
    for step in range(steps + 1):
        # fused attention has no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            loss = asked.loss(network(inputs), targets)
        gradients = torch.autograd.grad(loss, weights, create_graph=step < steps, allow_unused=True)
        used = [g for g in gradients if g is not None]
        norm = torch.stack(torch._foreach_norm(used)).norm()
        norms.append(float(norm.detach()))
        if not math.isfinite(norms[-1]):
            reason = "gradient_not_finite"
        elif norms[-1] > limit:
            reason = "gradient_norm_above_limit"
        if reason is not None:
            at = step
            break
        if step == steps or not norm.requires_grad or norms[-1] == 0.0:
            break
        ascents = torch.autograd.grad(norm, weights, allow_unused=True)
        with torch.no_grad():
            for weight, ascent in zip(weights, ascents, strict=True):
                if ascent is not None:
                    weight.add_(ascent, alpha=lr)
    finite = [n for n in norms if math.isfinite(n)]
    return StabilityVerdict(
        passed=reason is None,
        step=at,
        reason=reason,
        largest=max(finite) if finite else math.nan,
        seconds=time.perf_counter() - started,
        norms=norms,
    )
