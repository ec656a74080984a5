"""What a data set of text is: bytes in three parts, cut by documents that interleave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonas.errors import DataError, UsageError

#: of the documents that a source does not hold out itself, every tenth is held out.
HELDOUT = 10
#: tokens of a block, the unit in which shares of a training part are taken.
BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class TextSplit:
    """``data``: uint8, (N,), the documents of one part one after the other. Read-only. Any bytes, UTF-8 or not."""

    data: NDArray[np.uint8]

    def __len__(self) -> int:
        """Bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class RawText:
    """What a loader of text returns. ``load`` cuts validation (and held-out, when None) off ``documents``.

    ``documents``: in an order in which neighbours are alike, for instance by date: the parts interleave.
    """

    documents: tuple[bytes, ...]
    heldout: tuple[bytes, ...] | None = None
    #: fraction of the documents that becomes the validation part when the caller names none.
    validation: float = 0.1
    #: says where the text came from in error messages.
    source: str = "text"


@dataclass(frozen=True, slots=True, eq=False)
class TextView:
    """The part of a text that the search may see. There is no way from here to the held-out part."""

    name: str
    train: TextSplit
    validation: TextSplit

    kind = "text"


@dataclass(frozen=True, slots=True, eq=False)
class TextData:
    """A text with its three parts. ``heldout`` is for the final report alone."""

    name: str
    train: TextSplit
    validation: TextSplit
    heldout: TextSplit

    kind = "text"

    def search_view(self) -> TextView:
        """Train and validation parts only."""
        return TextView(self.name, self.train, self.validation)


def split_text(name: str, raw: RawText, validation: float | None, seed: int) -> TextData:
    """The three parts of ``raw``. Every tenth document is held out, whatever the seed, unless the source has held
    some out; of the others, one in 1 / ``validation`` (None: the source's own), rounded to a whole number, is for
    validation, beginning with one that ``seed`` chooses. So every part reaches from the first document to the last.

    Raises DataError for a text without bytes, or with too few documents for three parts, UsageError for a share of
    validation above one half.
    """
    documents: Sequence[bytes] = [d for d in raw.documents if d]
    if not documents:
        raise DataError(f"{raw.source}: no text in it", hint="name a file with text")
    heldout: Sequence[bytes] | None = raw.heldout
    if heldout is None:
        first = min(HELDOUT - 1, len(documents) - 1)
        heldout = documents[first::HELDOUT]
        documents = [d for i, d in enumerate(documents) if i % HELDOUT != first]
    fraction = raw.validation if validation is None else validation
    if fraction > 0.5:
        raise UsageError(f"validation is {fraction:g}, needed for a text is a fraction up to 0.5")
    stride = round(1 / fraction)
    start = (stride // 2 + seed) % min(stride, max(1, len(documents)))
    scored = documents[start::stride]
    kept = [d for i, d in enumerate(documents) if i % stride != start]
    if not (kept and scored and any(heldout)):
        total = sum(map(len, raw.documents))
        raise DataError(
            f"{raw.source}: {total} byte{'s' * (total != 1)} of text, too few for training, validation and held-out",
            hint="name a longer text: some thousand bytes at least, some million for training that says anything",
        )
    return TextData(name, _joined(kept), _joined(scored), _joined(heldout))


def _joined(documents: Sequence[bytes]) -> TextSplit:
    data = np.frombuffer(b"".join(documents), np.uint8)
    data.flags.writeable = False
    return TextSplit(data)
