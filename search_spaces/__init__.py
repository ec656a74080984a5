"""Which layers can be drawn: primitives, inputs, node budget, sampler and mutations.

``get(name, **options)`` gives a space; ``space(...)`` registers one. Nothing in here imports torch.
"""

from evonas.search_spaces import activation, norm_act  # noqa: F401  (they register themselves)
from evonas.search_spaces.registry import get, names, space, summary
from evonas.search_spaces.space import MUTATIONS, Operation, Space, SpaceOptions

__all__ = ["MUTATIONS", "Operation", "Space", "SpaceOptions", "get", "names", "space", "summary"]
