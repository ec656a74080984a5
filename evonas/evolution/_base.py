"""What every strategy shares: checked scores, the front, seeds, and counts of what was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evonas.errors import UsageError
from evonas.evolution._protocol import GenotypeSpace, Member, Proposal, Scores, checked_scores
from evonas.evolution._state import StateHash
from evonas.evolution.archive import FrontArchive
from evonas.rng import Draws


class BaseStrategy:
    """Tells are counted and archived here; a subclass proposes (``_propose``) and keeps (``_keep``).

    ``seeds`` are genotypes for the candidate ids 0, 1, ...; an id below their number gets its seed.
    """

    name = ""

    def __init__(
        self,
        space: GenotypeSpace,
        seed: int,
        arm: str,
        *,
        seeds: Sequence[bytes] = (),
        front_limit: int = 256,
    ) -> None:
        self._space = space
        self._seed = seed
        self._arm = arm
        self._seeds = tuple(seeds)
        self._archive = FrontArchive(front_limit)
        #: per living member the latest (id, genotype) with its function: what a mutation starts from.
        self._forms: dict[int, tuple[int, bytes]] = {}
        self._scores = 0
        self.told = 0
        self.survivors = 0

    def ask(self, candidate: int) -> Proposal:
        """The proposal for ``candidate``: a function of (seed, arm, candidate) and the tells so far."""
        if candidate < len(self._seeds):
            return Proposal(self._seeds[candidate], "seed")
        return self._propose(Draws("ask", self._seed, self._arm, candidate))

    def tell(
        self, candidate: int, genotype: bytes, scores: Scores | None, *, twin: int | None = None
    ) -> None:
        """Report a candidate (None: rejected or failed).

        ``twin``: the earlier candidate with the same function; such a report is neither a survivor nor a
        member of the front. Raises ``ValueError`` for scores that are not finite and for a living candidate.
        """
        if candidate in self._forms:
            raise ValueError(f"candidate {candidate} was told before and is alive")
        if scores is not None:
            scores = checked_scores(scores, self._scores)
            self._scores = len(scores)
        self.told += 1
        if twin is not None:
            self._keep_twin(candidate, genotype, scores, twin)
        elif scores is None:
            self._keep_rejected(candidate, genotype)
        else:
            member = Member(candidate, genotype, scores)
            self.survivors += 1
            self._archive.add(member)
            self._keep(member)

    def front(self) -> list[Member]:
        """The non-dominated members of everything told, by candidate id."""
        return self._archive.members()

    def state_digest(self) -> str:
        """32 hexadecimal digits over options, counts, living members and front."""
        state = StateHash(self.name, self._seed, self._arm, self._options(), self.told, self.survivors)
        state.text(*self._seeds)
        state.members("front", self._archive.members())
        self._hash_state(state)
        return state.hexdigest()

    def _random(self, draws: Draws) -> Proposal:
        return Proposal(self._space.random(draws), "random")

    def _child(self, candidate: int, genotype: bytes, draws: Draws) -> Proposal:
        child, kind = self._space.mutate(genotype, draws)
        return Proposal(child, "mutation" if kind == "replace" else kind, candidate)

    def population(self) -> list[Member]:
        """The members that are alive, oldest first."""
        raise NotImplementedError

    def _propose(self, draws: Draws) -> Proposal:
        raise NotImplementedError

    def _keep(self, member: Member) -> None:
        raise NotImplementedError

    def _keep_rejected(self, candidate: int, genotype: bytes) -> None:
        """Most strategies forget what was rejected."""

    def _keep_twin(self, candidate: int, genotype: bytes, scores: Scores | None, twin: int) -> None:
        """Most strategies forget a candidate that repeats another."""

    def _hash_state(self, state: StateHash) -> None:
        raise NotImplementedError

    def _options(self) -> Any:
        return None


def need(condition: bool, option: str, given: object, needed: str) -> None:
    """``UsageError`` that names the option, what was given and what it needs."""
    if not condition:
        raise UsageError(f"evolution option {option} = {given!r}: it must be {needed}")


def need_share(option: str, value: object) -> None:
    need(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1,
        option,
        value,
        "a number from 0 to 1",
    )


def need_count(option: str, value: object, least: int = 1) -> None:
    need(
        isinstance(value, int) and not isinstance(value, bool) and value >= least,
        option,
        value,
        f"an integer of at least {least}",
    )


def need_choice(option: str, value: object, known: Mapping[str, object]) -> None:
    need(isinstance(value, str) and value in known, option, value, "one of " + ", ".join(sorted(known)))
