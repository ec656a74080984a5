"""The Pareto front of everything told so far, kept as it grows."""

from __future__ import annotations

from operator import ge

from evonas.evolution._protocol import Member
from evonas.evolution.dominance import crowding_distances


class FrontArchive:
    """Keeps the non-dominated members, at most ``limit`` of them.

    A member that dominates a newcomer moves to the head of the list, so that most newcomers are turned
    away after one or two comparisons. When the front outgrows the limit by a quarter the members in the
    most crowded places leave, the youngest of them first; the ends of each score stay while there is room.
    """

    __slots__ = ("_limit", "_members")

    def __init__(self, limit: int = 256) -> None:
        if limit < 1:
            raise ValueError(f"a front needs room for at least one member, got {limit}")
        self._limit = limit
        self._members: list[Member] = []

    def add(self, member: Member) -> bool:
        """Take the member in unless one of the front dominates it; True if it is in."""
        members = self._members
        new = member.scores
        for at, other in enumerate(members):
            if all(map(ge, other.scores, new)) and other.scores != new:
                if at:
                    members[at] = members[at - 1]
                    members[at - 1] = other
                return False
        self._members = [m for m in members if m.scores == new or not all(map(ge, new, m.scores))]
        self._members.append(member)
        if len(self._members) > self._limit + self._limit // 4:
            self._prune()
        return True

    def _prune(self) -> None:
        members = sorted(self._members, key=lambda m: m.candidate)
        distance = crowding_distances([m.scores for m in members])
        order = sorted(range(len(members)), key=lambda i: (-distance[i], i))
        kept = sorted(order[: self._limit])
        self._members = [members[i] for i in kept]

    def members(self) -> list[Member]:
        """The front by candidate id."""
        return sorted(self._members, key=lambda m: m.candidate)

    def __len__(self) -> int:
        return len(self._members)
