"""Randomness as a function of its key: no global generator, no clock, no state to save.

A decision draws from ``Draws("what", run_seed, candidate_id, ...)``. The stream is the SHAKE-128
output of the key, so it is the same on every machine, Python version and process.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")
#: 32-bit words per block: one output block of SHAKE-128 (168 bytes), which is the cheapest to make.
_WORDS = 42
_UNPACK = struct.Struct(f"<{_WORDS}I").unpack


def derive_seed(*key: object) -> int:
    """A 63-bit seed for a generator of another library (torch, numpy) from a key of ints and strings."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws:
    """A stream of uniform draws that is a pure function of its key (ints and strings)."""

    __slots__ = ("_at", "_block", "_key", "_words")

    def __init__(self, *key: object) -> None:
        self._key = "\x1f".join(map(str, key)).encode()
        self._words = _UNPACK(hashlib.shake_128(self._key).digest(4 * _WORDS))
        self._block = 0
        self._at = 0

    def _word(self) -> int:
        at = self._at
        if at == _WORDS:
            self._block += 1
            key = self._key + b"\x1e%d" % self._block
            self._words = _UNPACK(hashlib.shake_128(key).digest(4 * _WORDS))
            at = 0
        self._at = at + 1
        return self._words[at]

    def words(self, n: int) -> tuple[int, ...]:
        """The next ``n`` words of 32 random bits, the same that ``n`` single draws would take."""
        end = self._at + n
        if end > _WORDS:
            return tuple(self._word() for _ in range(n))
        words = self._words[self._at : end]
        self._at = end
        return words

    def below(self, n: int) -> int:
        """An int in [0, n); the bias is below n / 2**32."""
        return (self._word() * n) >> 32

    def uniform(self) -> float:
        """A float in [0, 1) with 32 random bits."""
        return self._word() / 4294967296.0

    def choice(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[(self._word() * len(items)) >> 32]

    def sample(self, n: int, k: int) -> list[int]:
        """``k`` distinct ints of range(n), by Floyd's algorithm; all of them if k >= n."""
        if k >= n:
            return list(range(n))
        chosen: dict[int, None] = {}
        for j in range(n - k, n):
            t = (self._word() * (j + 1)) >> 32
            chosen[j if t in chosen else t] = None
        return list(chosen)

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Fisher-Yates, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = (self._word() * (i + 1)) >> 32
            items[i], items[j] = items[j], items[i]
