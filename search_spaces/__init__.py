"""Which layers can be drawn: primitives, inputs, node budget, sampler and mutations.

``get(name, **options)`` gives a space; ``space(...)`` registers one. Nothing in here imports torch.
"""

from evonas.search_spaces import activation, norm_act, norm_act_lm  # noqa: F401  (they register themselves)
from evonas.search_spaces.options import MUTATIONS, SpaceOptions
from evonas.search_spaces.registry import get, names, space, summary
from evonas.search_spaces.slotted import SlottedSpace, genotypes_log10
from evonas.search_spaces.space import Operation, Space

#: What ``get`` gives: candidates are graphs or, with groups of slots, assemblies.
AnySpace = Space | SlottedSpace

__all__ = [
    "MUTATIONS", "AnySpace", "Operation", "SlottedSpace", "Space", "SpaceOptions", "genotypes_log10", "get", "names",
    "space", "summary",
]  # fmt: skip
