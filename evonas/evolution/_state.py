"""A hash of a strategy's state: every value enters with its type and length, floats as their bits."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from evonas.evolution._protocol import Member


class StateHash:
    """Feed values in a fixed order, then read ``hexdigest``."""

    __slots__ = ("_hash",)

    def __init__(self, *header: object) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.text(*header)

    def text(self, *values: object) -> None:
        """Ints, strings, floats and None by their ``repr``."""
        for value in values:
            data = repr(value).encode()
            self._hash.update(b"t%d:" % len(data) + data)

    def member(self, candidate: int, genotype: bytes, scores: tuple[float, ...] | None) -> None:
        packed = b"-" if scores is None else struct.pack(f"<{len(scores)}d", *scores)
        self._hash.update(b"m%d:%d:%d:" % (candidate, len(genotype), len(packed)) + genotype + packed)

    def members(self, name: str, members: Iterable[Member]) -> None:
        self.text(name)
        for m in members:
            self.member(m.candidate, m.genotype, m.scores)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
