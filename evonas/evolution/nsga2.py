"""NSGA-II (Deb et al. 2002) without generations of waiting: children are told as they come.

The parents breed by binary tournament on (rank, crowding distance) and mutation; there is no crossover,
because two genotypes have no parts that correspond. Whenever as many survivors were told as the
population holds, the best half of parents and children becomes the new population. A candidate that
repeats a living member's function lends it its genotype for further mutation (neutral drift).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evonas.evolution._base import BaseStrategy, need_count, need_share
from evonas.evolution._protocol import GenotypeSpace, Member, Proposal, Scores
from evonas.evolution._state import StateHash
from evonas.evolution.dominance import crowding_distances, ranks
from evonas.rng import Draws


@dataclass(frozen=True, slots=True)
class NSGA2Options:
    #: how many parents there are, and how many children make a generation.
    population: int = 50
    #: the probability that a fresh random genotype replaces the child.
    p_random: float = 0.1
    #: the most score vectors that ``front()`` keeps (of equal ones, eight members).
    front_limit: int = 256

    def __post_init__(self) -> None:
        need_count("population", self.population, 2)
        need_share("p_random", self.p_random)
        need_count("front_limit", self.front_limit, 2)


def survivors(points: Sequence[Scores], keep: int) -> tuple[list[int], list[int], list[float]]:
    """The ``keep`` best of the points by rank, then by crowding distance within their front.

    Returns their indices (ascending) with the rank and the crowding distance of each; equally crowded
    points of the last front are taken in order of position.
    """
    rank = ranks(points)
    fronts: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    for i, r in enumerate(rank):
        fronts[r].append(i)
    crowding = [0.0] * len(points)
    chosen: list[int] = []
    for front in fronts:
        if len(chosen) >= keep:
            break
        for i, d in zip(front, crowding_distances([points[i] for i in front]), strict=True):
            crowding[i] = d
        room = keep - len(chosen)
        if len(front) > room:
            front = sorted(front, key=lambda i: (-crowding[i], i))[:room]
        chosen += front
    chosen.sort()
    return chosen, [rank[i] for i in chosen], [crowding[i] for i in chosen]


class NSGA2(BaseStrategy):
    """See the module. The first population is random; a generation ends with its last tell."""

    name = "nsga2"

    def __init__(
        self,
        space: GenotypeSpace,
        seed: int,
        arm: str = "search",
        options: NSGA2Options | None = None,
        *,
        seeds: Sequence[bytes] = (),
    ) -> None:
        self.options = options or NSGA2Options()
        super().__init__(space, seed, arm, seeds=seeds, front_limit=self.options.front_limit)
        self._parents: list[Member] = []
        self._rank: list[int] = []
        self._crowding: list[float] = []
        self._children: list[Member] = []

    def _propose(self, draws: Draws) -> Proposal:
        n = len(self._parents)
        if not n or draws.uniform() < self.options.p_random:
            return self._random(draws)
        a = draws.below(n)
        b = draws.below(n - 1)
        b += b >= a
        better = (self._rank[b], -self._crowding[b]) < (self._rank[a], -self._crowding[a])
        return self._child(*self._forms[self._parents[b if better else a].candidate], draws)

    def _keep(self, member: Member) -> None:
        self._children.append(member)
        self._forms[member.candidate] = (member.candidate, member.genotype)
        if len(self._children) < self.options.population:
            return
        pool = self._parents + self._children
        chosen, self._rank, self._crowding = survivors([m.scores for m in pool], self.options.population)
        self._parents = [pool[i] for i in chosen]
        self._children = []
        self._forms = {m.candidate: self._forms[m.candidate] for m in self._parents}

    def _keep_twin(self, candidate: int, genotype: bytes, scores: Scores | None, twin: int) -> None:
        if twin in self._forms:
            self._forms[twin] = (candidate, genotype)

    def population(self) -> list[Member]:
        """The parents in the order in which they were told; before there are any, the survivors so far."""
        return list(self._parents or self._children)

    def _options(self) -> Any:
        return sorted(asdict(self.options).items())

    def _hash_state(self, state: StateHash) -> None:
        state.members("parents", self._parents)
        state.text(*self._rank, *self._crowding)
        state.members("children", self._children)
        for member in (*self._parents, *self._children):
            state.member(*self._forms[member.candidate], None)
