"""Regularized (ageing) evolution with Pareto or average tournaments: the search of the EvoNorm paper.

Steady state and asynchronous: only the most recently told survivors are alive (a sliding window), a
uniform tournament among them picks a parent, its mutated child is proposed, and a share of the proposals
(the paper's is half) are fresh random genotypes instead. Real et al. 2019 (regularized evolution);
Liu et al. 2020, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evonas.evolution._base import BaseStrategy, need, need_choice, need_count, need_share
from evonas.evolution._protocol import GenotypeSpace, Member, Proposal, Scores
from evonas.evolution._state import StateHash
from evonas.evolution.selection import SELECTIONS
from evonas.rng import Draws


@dataclass(frozen=True, slots=True)
class AgeingOptions:
    """The defaults are scaled to a search of a few hundred survivors; ``PAPER`` has the paper's."""

    #: how many of the most recently told survivors are alive.
    window: int = 100
    #: a share of those alive (a float up to 1.0) or a number of members (an integer).
    tournament: float | int = 0.05
    #: the least number of members in a tournament whose size is a share.
    tournament_min: int = 5
    #: the probability that a fresh random genotype replaces the child.
    p_random: float = 0.2
    #: ``pareto``: a random non-dominated member wins; ``average``: the highest mean score wins.
    selection: str = "pareto"
    #: proposals are random until this many candidates survived (None: a quarter of the window).
    initial: int | None = None
    #: True: a rejected candidate takes a place in the window too; it never wins, but it ages others out.
    keep_rejected: bool = False
    #: what a candidate does that repeats a living member's function. ``enter``: it joins the window with its
    #: twin's scores and ages others out, as in the paper's search, which evaluates it again. ``drift``: the
    #: member stays as old as it is, and its mutations start from the new genotype. ``ignore``: nothing.
    twins: str = "enter"
    #: the most score vectors that ``front()`` keeps (of equal ones, eight members).
    front_limit: int = 256

    def __post_init__(self) -> None:
        need_count("window", self.window)
        if isinstance(self.tournament, float):
            need(0 < self.tournament <= 1, "tournament", self.tournament, "a share above 0 and up to 1.0")
        else:
            need_count("tournament", self.tournament)
        need_count("tournament_min", self.tournament_min)
        need_share("p_random", self.p_random)
        need_choice("selection", self.selection, SELECTIONS)
        if self.initial is not None:
            need_count("initial", self.initial, 0)
        need(isinstance(self.keep_rejected, bool), "keep_rejected", self.keep_rejected, "true or false")
        need_choice("twins", self.twins, dict.fromkeys(("drift", "enter", "ignore")))
        need_count("front_limit", self.front_limit, 2)

    def tournament_size(self, alive: int) -> int:
        """How many of ``alive`` members meet, at least one and at most all."""
        if isinstance(self.tournament, float):
            size = max(self.tournament_min, math.ceil(self.tournament * alive - 1e-9))
        else:
            size = self.tournament
        return max(1, min(size, alive))


#: 2,500 alive, tournaments of 5 % (125), half of the proposals random; the window is first filled at random.
PAPER = AgeingOptions(window=2500, p_random=0.5, initial=2500)
#: 100 alive, tournaments of 5, a fifth of the proposals random, 25 random survivors first: in a search of a
#: few hundred evaluations, half of the proposals is more than chance repays.
SCALED = AgeingOptions()

PRESETS = {"paper": PAPER, "scaled": SCALED}


class AgeingEvolution(BaseStrategy):
    """See the module. Age is the order of ``tell``, so a log of the tells rebuilds the state."""

    name = "ageing"

    def __init__(
        self,
        space: GenotypeSpace,
        seed: int,
        arm: str = "search",
        options: AgeingOptions = SCALED,
        *,
        seeds: Sequence[bytes] = (),
    ) -> None:
        super().__init__(space, seed, arm, seeds=seeds, front_limit=options.front_limit)
        self.options = options
        self._initial = options.window // 4 if options.initial is None else options.initial
        self._select = SELECTIONS[options.selection]
        #: a ring: the slot at ``_next`` is the oldest once the ring is full. (id, genotype) if rejected.
        self._ring: list[Member | tuple[int, bytes]] = []
        self._next = 0

    def _propose(self, draws: Draws) -> Proposal:
        ring = self._ring
        if self.survivors < self._initial or not ring or draws.uniform() < self.options.p_random:
            return self._random(draws)
        picked = [ring[i] for i in draws.sample(len(ring), self.options.tournament_size(len(ring)))]
        rivals = [m for m in picked if type(m) is Member] if self.options.keep_rejected else picked
        if not rivals:
            return self._random(draws)
        parent = rivals[self._select([m.scores for m in rivals], draws)]  # type: ignore[union-attr]
        return self._child(*self._forms[parent.candidate], draws)  # type: ignore[union-attr]

    def _keep(self, member: Member) -> None:
        self._push(member)
        self._forms[member.candidate] = (member.candidate, member.genotype)

    def _keep_twin(self, candidate: int, genotype: bytes, scores: Scores | None, twin: int) -> None:
        if self.options.twins == "drift":
            if twin in self._forms:
                self._forms[twin] = (candidate, genotype)
        elif self.options.twins == "enter" and scores is not None:
            self._keep(Member(candidate, genotype, scores))

    def _keep_rejected(self, candidate: int, genotype: bytes) -> None:
        if self.options.keep_rejected:
            self._push((candidate, genotype))

    def _push(self, entry: Member | tuple[int, bytes]) -> None:
        if len(self._ring) < self.options.window:
            self._ring.append(entry)
        else:
            oldest = self._ring[self._next]
            if isinstance(oldest, Member):
                del self._forms[oldest.candidate]
            self._ring[self._next] = entry
            self._next = (self._next + 1) % self.options.window

    def _by_age(self) -> list[Member | tuple[int, bytes]]:
        return self._ring[self._next :] + self._ring[: self._next]

    def population(self) -> list[Member]:
        """The living members, oldest first; rejected ones that hold a place are not among them."""
        return [m for m in self._by_age() if isinstance(m, Member)]

    def _options(self) -> Any:
        return sorted(asdict(self.options).items())

    def _hash_state(self, state: StateHash) -> None:
        state.text("ring", self._next)
        for entry in self._by_age():
            if isinstance(entry, Member):
                state.member(entry.candidate, entry.genotype, entry.scores)
                state.member(*self._forms[entry.candidate], None)
            else:
                state.member(*entry, None)
