"""What a network is asked to learn: batches, loss, score, and the loss of guessing.

A score is in [0, 1] and larger is better: accuracy for images, ``1 - bits_per_byte / 8`` for text, which is the
share of the eight bits of a byte that a model saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evonas.data.batches import Batches, whole
from evonas.data.text import TextSplit, TextView
from evonas.data.types import SearchView
from evonas.data.vocabulary import Vocabulary, vocabulary
from evonas.data.windows import Windows, fixed_windows
from evonas.proxies.language_spec import LanguageSpec
from evonas.proxies.registry import Proxy

#: step (from 0) -> what the network is given, and what it should say.
Source = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Score:
    """``value`` in [0, 1], larger is better; ``evidence``: numbers of the problem's own, for the log."""

    value: float
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The quality test's: ``passed``; ``needed`` of the quantity it looks at; the reason if it did not pass."""

    passed: bool
    needed: float
    reason: str | None


class Problem(Protocol):
    """One per proxy; holds nothing of a training."""

    #: "accuracy" or "bits_per_byte"
    unit: str

    @property
    def guess(self) -> float:
        """Loss in nats of a guess that does not look at the input."""
        ...

    @property
    def hurdle(self) -> float:
        """Share of ``guess`` that the training loss must be below to pass the hurdle."""
        ...

    def batches(self, *, seed: int, share: float, device: torch.device) -> Source:
        """The training batches, a function of the step."""
        ...

    def small_batch(self, batch: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The one batch of the stability test."""
        ...

    def scored(self, split: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that a score on ``split`` is made of."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Mean loss in nats."""
        ...

    def score(self, network: nn.Module, split: Any, device: torch.device) -> Score:
        """Score of a network that is in evaluation mode; no gradient is recorded."""
        ...

    def judge(self, score: Score, threshold: float) -> Judgement:
        """Whether the quality test is passed."""
        ...


class Classification:
    """Images into classes: cross-entropy and accuracy (Liu et al. 2020, section 4)."""

    unit = "accuracy"
    #: share of log(classes) that the hurdle asks for
    hurdle = 0.985

    def __init__(self, proxy: Proxy) -> None:
        assert isinstance(proxy.data, SearchView)
        self._data, self._spec = proxy.data, proxy.spec
        self.guess = math.log(len(proxy.data.classes))

    def batches(self, *, seed: int, share: float, device: torch.device) -> Batches:
        spec = self._spec
        return Batches(
            self._data, batch=spec.batch, crop=spec.crop, pool=spec.pool, flip=spec.flip, seed=seed, share=share,
            device=device,
        )  # fmt: skip

    def small_batch(self, batch: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
        spec = self._spec
        made = Batches(self._data, batch=batch, crop=spec.crop, pool=spec.pool, seed=seed, device=device)
        return made(0)

    def scored(self, split: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        spec = self._spec
        return whole(
            split, self._data, batch=spec.eval_batch, crop=spec.eval_crop, pool=spec.pool, device=device
        )

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def score(self, network: nn.Module, split: Any, device: torch.device) -> Score:
        right = torch.zeros((), dtype=torch.int64, device=device)
        with torch.no_grad():
            for images, labels in self.scored(split, device):
                logits = network(images)
                correct = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
                right += correct.sum()
        return Score(int(right) / len(split))

    def judge(self, score: Score, threshold: float) -> Judgement:
        """Accuracy of at least ``threshold`` times chance (2 in the paper)."""
        needed = threshold * (1.0 / len(self._data.classes))
        passed = score.value >= needed
        return Judgement(passed, needed, None if passed else "low_accuracy")


class LanguageModel:
    """The next token of a text: cross-entropy per token, bits per byte of the text.

    A window's bits are counted against the bytes of the tokens that were predicted, so vocabularies compare.
    """

    unit = "bits_per_byte"

    def __init__(self, proxy: Proxy) -> None:
        assert isinstance(proxy.data, TextView)
        assert isinstance(proxy.spec, LanguageSpec)
        self._data, self._spec = proxy.data, proxy.spec
        self.vocabulary = vocabulary(self._spec.tokenizer, self._spec.vocabulary, self._data.train)
        self._lengths: Tensor | None = None

    @property
    def guess(self) -> float:
        """Entropy of the training tokens' frequencies, in nats per token."""
        return unigram_entropy(self._data.train, self.vocabulary)

    @property
    def hurdle(self) -> float:
        """Share of ``guess``. The spec's is set for bytes; for other vocabularies, whose tokens are less uneven, it
        is also below the loss of the uniform guess."""
        if self._spec.tokenizer == "byte":
            return self._spec.hurdle
        return min(self._spec.hurdle, 0.985 * math.log(self.vocabulary.size) / self.guess)

    def batches(self, *, seed: int, share: float, device: torch.device) -> Windows:
        spec = self._spec
        return Windows(
            self._data, self.vocabulary, batch=spec.batch, sequence=spec.sequence, seed=seed, share=share,
            device=device,
        )  # fmt: skip

    def small_batch(self, batch: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
        sequence = min(self._spec.sequence, self._spec.stability_sequence)
        made = Windows(self._data, self.vocabulary, batch=batch, sequence=sequence, seed=seed, device=device)
        return made(0)

    def scored(self, split: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        spec = self._spec
        return fixed_windows(
            split, self.vocabulary, count=spec.eval_windows, sequence=spec.sequence, batch=spec.eval_batch,
            name=self._data.name, device=device,
        )  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)

    def score(self, network: nn.Module, split: Any, device: torch.device) -> Score:
        """``evidence``: bits_per_byte, and loss in nats per token; neither where the loss is not finite."""
        if self._lengths is None or self._lengths.device != device:
            self._lengths = torch.from_numpy(self.vocabulary.lengths).to(device)
        nats = torch.zeros((), dtype=torch.float64, device=device)
        count, length = 0, torch.zeros((), dtype=torch.int64, device=device)
        with torch.no_grad():
            for tokens, following in self.scored(split, device):
                logits = network(tokens).flatten(0, 1)
                nats += F.cross_entropy(logits, following.flatten(), reduction="sum").double()
                length += self._lengths[following].sum()
                count += following.numel()
        total = float(nats)
        if not math.isfinite(total):
            return Score(0.0)
        bits = total / math.log(2) / int(length)
        return Score(max(0.0, 1.0 - bits / 8), {"bits_per_byte": bits, "loss": total / count})

    def judge(self, score: Score, threshold: float) -> Judgement:
        """A loss per token of at most ``threshold`` times the entropy of the tokens' frequencies."""
        needed = threshold * self.guess
        passed = score.evidence.get("loss", math.inf) <= needed
        return Judgement(passed, needed, None if passed else "high_loss")


@lru_cache(maxsize=32)
def unigram_entropy(train: TextSplit, tokens: Vocabulary) -> float:
    """Entropy of the frequencies of the training tokens, nats per token: the loss of the best constant guess."""
    counts = np.bincount(tokens.encode(train.data), minlength=tokens.size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def problem(proxy: Proxy) -> Problem:
    """What the network of ``proxy`` is asked to learn.

    Raises UsageError for a vocabulary that the text does not give, EnvironmentUnusable without a package it needs.
    """
    return LanguageModel(proxy) if proxy.kind == "text" else Classification(proxy)
