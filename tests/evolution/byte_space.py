"""The smallest space that evolution can walk: 30 bytes, a mutation redraws three of them.

It keeps the tests of the state machines independent of any graph space.
"""

from __future__ import annotations

from evonas.evolution import Member
from evonas.rng import Draws

LENGTH = 30


class ByteSpace:
    def random(self, draws: Draws) -> bytes:
        return bytes(draws.below(256) for _ in range(LENGTH))

    def mutate(self, genotype: bytes, draws: Draws) -> tuple[bytes, str]:
        at = 3 * draws.below(LENGTH // 3)
        return genotype[:at] + bytes(draws.below(256) for _ in range(3)) + genotype[at + 3 :], "replace"


def scores_of(genotype: bytes) -> tuple[float, float, float]:
    """Three conflicting objectives in [0, 1]: the mean of each third, less a part of the next one."""
    thirds = [sum(genotype[i : i + 10]) / 2550 for i in (0, 10, 20)]
    return (
        thirds[0] - 0.5 * thirds[1],
        thirds[1] - 0.5 * thirds[2],
        thirds[2] - 0.5 * thirds[0],
    )


def member(candidate: int, *scores: float) -> Member:
    return Member(candidate, b"g%d" % candidate, scores)
