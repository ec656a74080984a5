"""The Pareto front of everything told so far, kept as it grows."""

from __future__ import annotations

from operator import ge

from evonas.evolution._protocol import Member, Scores
from evonas.evolution.dominance import crowding_distances


class FrontArchive:
    """Keeps the non-dominated members: at most ``limit`` score vectors, ``ties`` members of each.

    A vector that dominates a newcomer moves towards the head of the list, so that most newcomers are
    turned away after one or two comparisons. When the front outgrows the limit by a quarter, the vectors
    in the most crowded places leave; the ends of each score stay while there is room. Of equal vectors the
    first told stay.
    """

    __slots__ = ("_limit", "_members", "_ties", "_vectors")

    def __init__(self, limit: int = 256, ties: int = 8) -> None:
        if limit < 1 or ties < 1:
            raise ValueError(f"a front needs room for at least one member, got limit {limit} and ties {ties}")
        self._limit = limit
        self._ties = ties
        self._vectors: list[Scores] = []
        self._members: dict[Scores, list[Member]] = {}

    def add(self, member: Member) -> bool:
        """Take the member in unless one of the front dominates it; True if it is in."""
        new = member.scores
        equal = self._members.get(new)
        if equal is not None:
            if len(equal) < self._ties:
                equal.append(member)
                return True
            return False
        vectors = self._vectors
        for at, other in enumerate(vectors):
            if all(map(ge, other, new)):
                if at:
                    vectors[at] = vectors[at - 1]
                    vectors[at - 1] = other
                return False
        beaten = [v for v in vectors if all(map(ge, new, v))]
        if beaten:
            for v in beaten:
                del self._members[v]
            self._vectors = vectors = [v for v in vectors if v in self._members]
        vectors.append(new)
        self._members[new] = [member]
        if len(vectors) > self._limit + self._limit // 4:
            self._prune()
        return True

    def _prune(self) -> None:
        vectors = sorted(self._vectors, key=lambda v: self._members[v][0].candidate)
        distance = crowding_distances(vectors)
        order = sorted(range(len(vectors)), key=lambda i: (-distance[i], i))
        self._vectors = [vectors[i] for i in sorted(order[: self._limit])]
        self._members = {v: self._members[v] for v in self._vectors}

    def members(self) -> list[Member]:
        """The front by candidate id."""
        found = [m for equal in self._members.values() for m in equal]
        return sorted(found, key=lambda m: m.candidate)

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))
