"""Random search: the control arm that every discovery is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evonas.evolution._base import BaseStrategy, need_count
from evonas.evolution._protocol import GenotypeSpace, Member, Proposal
from evonas.evolution._state import StateHash
from evonas.rng import Draws


@dataclass(frozen=True, slots=True)
class RandomOptions:
    #: how many of the most recently told survivors ``population()`` lists, and a bar is made of.
    window: int = 100
    #: the most score vectors that ``front()`` keeps (of equal ones, eight members).
    front_limit: int = 256

    def __post_init__(self) -> None:
        need_count("window", self.window)
        need_count("front_limit", self.front_limit, 2)


class RandomSearch(BaseStrategy):
    """Every proposal is a fresh random genotype; the same stages and budget judge it."""

    name = "random"

    def __init__(
        self,
        space: GenotypeSpace,
        seed: int,
        arm: str = "control",
        options: RandomOptions | None = None,
        *,
        seeds: Sequence[bytes] = (),
    ) -> None:
        self.options = options or RandomOptions()
        super().__init__(space, seed, arm, seeds=seeds, front_limit=self.options.front_limit)
        self._recent: list[Member] = []

    def _propose(self, draws: Draws) -> Proposal:
        return self._random(draws)

    def _keep(self, member: Member) -> None:
        self._recent.append(member)
        if len(self._recent) >= 2 * self.options.window:
            del self._recent[: -self.options.window]

    def population(self) -> list[Member]:
        """The most recently told survivors, oldest first."""
        return self._recent[-self.options.window :]

    def _options(self) -> Any:
        return sorted(asdict(self.options).items())

    def _hash_state(self, state: StateHash) -> None:
        state.members("recent", self.population())
