"""From bytes to tokens and back: every byte a token, or byte pairs that were merged on the training text.

Both keep every byte, so a loss per token becomes bits per byte by the true number of bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evonas.errors import EnvironmentUnusable, UsageError, unknown_name

if TYPE_CHECKING:
    from evonas.data.text import TextSplit

TOKENIZERS = ("byte", "bpe")
BYTES = 256
#: what merges do not cross: a word with the blank before it, a number, other signs, white space.
_PIECES = r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+"


class Vocabulary(Protocol):
    """``size`` tokens, numbered from 0; ``lengths``: int64, (size,), bytes of each."""

    name: str
    size: int
    lengths: NDArray[np.int64]

    def __hash__(self) -> int: ...

    def encode(self, data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
        """Token numbers, int64, (n,)."""
        ...

    def decode(self, tokens: NDArray[np.int64] | list[int]) -> bytes:
        """The bytes that the tokens stand for. Raises UsageError for a number outside of the vocabulary."""
        ...


class ByteVocabulary:
    """Every byte is a token: nothing to learn, nothing unknown."""

    name, size = "byte", BYTES

    def __init__(self) -> None:
        self.lengths = np.ones(BYTES, np.int64)

    def encode(self, data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.frombuffer(bytes(data), np.uint8).astype(np.int64)

    def decode(self, tokens: NDArray[np.int64] | list[int]) -> bytes:
        return bytes(_checked(tokens, self.size).astype(np.uint8))


class BytePairs:
    """Byte-pair encoding over bytes (Sennrich et al. 2016; over bytes as in GPT-2), merges learned on ``text``.

    Every byte is read as the character of its number, so that any bytes can be encoded and nothing is lost.
    Raises UsageError where ``text`` has too few pairs for ``size`` tokens, and EnvironmentUnusable without
    the package tokenizers.
    """

    name = "bpe"

    def __init__(self, text: bytes | NDArray[np.uint8], size: int) -> None:
        if size <= BYTES:
            raise UsageError(f"a BPE vocabulary of {size} tokens, needed are more than the {BYTES} bytes")
        made = _learned(bytes(text).decode("latin-1"), size)
        if made.get_vocab_size() != size:
            raise UsageError(
                f"the training text gives a BPE vocabulary of {made.get_vocab_size()} tokens, the model has {size}",
                hint=f"set vocabulary to {max(BYTES + 1, made.get_vocab_size())} or less, or tokenizer to byte",
            )
        self.size = size
        self._tokenizer = made
        by_number = sorted((number, token) for token, number in made.get_vocab().items())
        self._bytes = [token.encode("latin-1") for _, token in by_number]
        self.lengths = np.array([len(b) for b in self._bytes], np.int64)

    def encode(self, data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.array(self._tokenizer.encode(bytes(data).decode("latin-1")).ids, np.int64)

    def decode(self, tokens: NDArray[np.int64] | list[int]) -> bytes:
        return b"".join(self._bytes[int(t)] for t in _checked(tokens, self.size))


def _learned(text: str, size: int) -> Any:
    try:
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import Split
        from tokenizers.trainers import BpeTrainer
    except ImportError as error:
        raise EnvironmentUnusable(
            "tokenizer 'bpe' needs the package tokenizers, which is not installed",
            hint="pip install tokenizers, or set tokenizer to byte",
        ) from error
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Split(Regex(_PIECES), behavior="isolated")
    trainer = BpeTrainer(
        vocab_size=size,
        initial_alphabet=[chr(b) for b in range(BYTES)],
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def _checked(tokens: NDArray[np.int64] | list[int], size: int) -> NDArray[np.int64]:
    found = np.asarray(tokens, np.int64).reshape(-1)
    wrong = found[(found < 0) | (found >= size)]
    if len(wrong):
        raise UsageError(f"token {int(wrong[0])}, needed are numbers from 0 to {size - 1}")
    return found


_BYTE = ByteVocabulary()


def vocabulary(tokenizer: str, size: int, train: TextSplit) -> Vocabulary:
    """The vocabulary ``tokenizer`` ("byte" or "bpe") of ``size`` tokens; merges are learned on ``train`` alone.

    The same vocabulary for the same text within a process. Raises UsageError for an unknown name and for a size
    that the tokenizer or the text does not give.
    """
    if tokenizer not in TOKENIZERS:
        raise unknown_name("tokenizer", tokenizer, TOKENIZERS)
    if tokenizer == "byte":
        if size != BYTES:
            raise UsageError(
                f"vocabulary is {size} and tokenizer is 'byte', which has {BYTES} tokens",
                hint=f"set vocabulary to {BYTES}, or tokenizer to bpe",
            )
        return _BYTE
    return _byte_pairs(train, size)


@lru_cache(maxsize=8)
def _byte_pairs(train: TextSplit, size: int) -> BytePairs:
    return BytePairs(train.data, size)
