"""Windows of text as a function of (seed, step): no loader processes, no state.

The tokens of a part stay in one tensor per process and device; a batch is gathered when it is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor

from evonas.data.batches import shared
from evonas.data.text import BLOCK, TextSplit, TextView
from evonas.data.vocabulary import Vocabulary
from evonas.errors import UsageError
from evonas.rng import derive_seed

_TOKENS: OrderedDict[tuple[int, int, str], tuple[TextSplit, Vocabulary, Tensor]] = OrderedDict()
_KEPT = 16


def tokens(split: TextSplit, vocabulary: Vocabulary, device: torch.device) -> Tensor:
    """The split as int64 token numbers, (n,), on ``device``, made once per process."""
    key = (id(split), id(vocabulary), str(device))
    if key not in _TOKENS:
        _TOKENS[key] = split, vocabulary, torch.from_numpy(vocabulary.encode(split.data)).to(device)
        if len(_TOKENS) > _KEPT:
            _TOKENS.popitem(last=False)
    return _TOKENS[key][2]


def _long_enough(stream: Tensor, sequence: int, what: str) -> None:
    if len(stream) <= sequence:
        raise UsageError(
            f"{what} has {len(stream)} token{'s' * (len(stream) != 1)}, "
            f"needed are {sequence + 1}: a sequence of {sequence} and the token after it",
            hint="make sequence smaller, or take a longer text",
        )


class Windows:
    """Training batches: for every step, windows at places drawn uniformly and independently."""

    def __init__(
        self,
        view: TextView,
        vocabulary: Vocabulary,
        *,
        batch: int,
        sequence: int,
        seed: int = 0,
        share: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``batch`` windows a step, of ``sequence`` tokens and the one after.

        ``share``: of the training tokens, that are seen at all, in whole blocks of 4,096 that ``seed`` chooses; a
        smaller share is part of a larger one.

        Raises UsageError where the training part, or the share of it, is shorter than a window.
        """
        self.device = torch.device(device)
        self.stream = tokens(view.train, vocabulary, self.device)
        kept = shared(-(-len(self.stream) // BLOCK), share, seed=seed, what=f"blocks of {view.name!r}")
        if kept is not None:
            blocks = self.stream.split(BLOCK)
            self.stream = torch.cat([blocks[i] for i in sorted(kept.tolist())])
        _long_enough(self.stream, sequence, f"the training part of data set {view.name!r}")
        self.batch, self.sequence, self.seed = batch, sequence, seed
        self._offsets = torch.arange(sequence + 1, device=self.device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Step number ``step`` (from 0): int64 (batch, sequence) tokens, and the tokens that follow each."""
        generator = torch.Generator().manual_seed(derive_seed("text windows", self.seed, step))
        starts = torch.randint(len(self.stream) - self.sequence, (self.batch, 1), generator=generator)
        window = self.stream[starts.to(self.device) + self._offsets]
        return window[:, :-1], window[:, 1:]


def fixed_windows(
    split: TextSplit,
    vocabulary: Vocabulary,
    *,
    count: int,
    sequence: int,
    batch: int,
    name: str = "text",
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """``count`` windows spread evenly over ``split``, fewer where they would overlap: int64 (n, sequence), twice.

    Raises UsageError where the part is shorter than a window.
    """
    device = torch.device(device)
    stream = tokens(split, vocabulary, device)
    _long_enough(stream, sequence, f"the part of data set {name!r} that is scored")
    room = len(stream) - sequence - 1
    count = max(1, min(count, len(stream) // (sequence + 1)))
    starts = [room * i // max(1, count - 1) for i in range(count)]
    offsets = torch.arange(sequence + 1, device=device)
    for at in range(0, count, batch):
        window = stream[torch.tensor(starts[at : at + batch], device=device)[:, None] + offsets]
        yield window[:, :-1], window[:, 1:]
