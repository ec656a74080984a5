"""What a strategy is given (a space of genotypes) and what it gives back (proposals, members)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from evonas.rng import Draws

Scores = tuple[float, ...]


class GenotypeSpace(Protocol):
    """The part of a search space that evolution uses; genotypes are opaque bytes to it."""

    def random(self, draws: Draws) -> bytes: ...

    def mutate(self, genotype: bytes, draws: Draws) -> tuple[bytes, str]:
        """A child and the kind of mutation that made it."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A genotype to evaluate. ``parent`` is the candidate id of the mutated member, if there is one."""

    genotype: bytes
    #: how it came about: ``random``, ``seed``, ``mutation`` (the paper's: one node replaced), or the name of
    #: another kind of mutation (``insert``, ``remove``, ``rewire``).
    origin: str
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A scored candidate; ``scores`` are maximised, one per proxy."""

    candidate: int
    genotype: bytes
    scores: Scores


class Strategy(Protocol):
    """A pure state machine: the state is a fold over ``tell``, and ``ask`` does not change it.

    So the same tells in the same order give the same proposals, whatever was asked in between, and
    candidates may be told in any order, long after they were asked for.
    """

    def ask(self, candidate: int) -> Proposal:
        """The proposal for this candidate id in the present state."""

    def tell(
        self, candidate: int, genotype: bytes, scores: Scores | None, *, twin: int | None = None
    ) -> None:
        """Report a candidate; ``None`` says that it was rejected or failed.

        ``twin`` names an earlier candidate that computes the same layer: the new one is not evaluated,
        but its genotype may serve in the other's place (neutral drift). ``scores`` are then the twin's,
        or None where they are not known.
        Raises ``ValueError`` for a score that is not finite or for another number of scores than before.
        """

    def population(self) -> list[Member]:
        """The members that are alive, oldest first."""

    def front(self) -> list[Member]:
        """The non-dominated members among everything told so far, by candidate id (bounded in number)."""

    def state_digest(self) -> str:
        """A hash of the whole state, equal exactly when two strategies behave alike from here on."""


def checked_scores(scores: Scores, expected: int) -> Scores:
    """``scores`` as a tuple of finite floats, ``expected`` of them (0: any positive number).

    Raises ``ValueError`` otherwise: a NaN compares false with everything and would survive for ever.
    """
    values = tuple(map(float, scores))
    if not values or (expected and len(values) != expected):
        raise ValueError(f"got {len(values)} scores, needed {expected or 'at least one'}: {values}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"scores must be finite, got {values}: report such a candidate as failed (None)")
    return values
