"""The evolution core: populations, tournaments and fronts as pure state machines with ``ask`` and ``tell``.

Nothing here imports torch or Ray, reads a clock or draws from a global generator.
"""

from __future__ import annotations

from evonas.evolution._protocol import GenotypeSpace, Member, Proposal, Strategy
from evonas.evolution.ageing import PAPER, PRESETS, SCALED, AgeingEvolution, AgeingOptions
from evonas.evolution.archive import FrontArchive
from evonas.evolution.dominance import crowding_distances, dominates, non_dominated, ranks
from evonas.evolution.matter import Bar, can_still_matter, make_bar
from evonas.evolution.nsga2 import NSGA2, NSGA2Options
from evonas.evolution.random_search import RandomOptions, RandomSearch
from evonas.evolution.registry import make_strategy, strategy_names, strategy_options

__all__ = [
    "NSGA2",
    "PAPER",
    "PRESETS",
    "SCALED",
    "AgeingEvolution",
    "AgeingOptions",
    "Bar",
    "FrontArchive",
    "GenotypeSpace",
    "Member",
    "NSGA2Options",
    "Proposal",
    "RandomOptions",
    "RandomSearch",
    "Strategy",
    "can_still_matter",
    "crowding_distances",
    "dominates",
    "make_bar",
    "make_strategy",
    "non_dominated",
    "ranks",
    "strategy_names",
    "strategy_options",
]
