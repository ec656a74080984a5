"""Random genotypes (Liu et al. 2020, section 3): draw a primitive, then its inputs among all existing nodes.

A node takes two words of 32 random bits: one for the operation, one for both arguments. A word ``w`` stands for
``w * n >> 32`` of ``n`` equally likely outcomes, with a bias below n / 2**32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evonas.rng import Draws

if TYPE_CHECKING:
    from evonas.search_spaces.space import Space

NO_ARGUMENT = 255


def operation_table(groups: Sequence[Sequence[int]]) -> bytes:
    """Codes in equally likely entries: uniform over the groups, then uniform within a group."""
    entries = math.lcm(*(len(group) for group in groups))
    return bytes(code for group in groups for code in group for _ in range(entries // len(group)))


def draw_node(space: Space, below: int, draws: Draws) -> bytes:
    """Code and arguments in [0, below) of one node; the second argument of a unary operation is 255."""
    return _nodes(space, below, draws.words(2))


def random_genotype(space: Space, draws: Draws) -> bytes:
    """Node by node: an operation, then arguments among the inputs and all nodes drawn before."""
    return _nodes(space, len(space.inputs), draws.words(2 * space.nodes))


def _nodes(space: Space, below: int, words: Sequence[int]) -> bytes:
    """Consecutive nodes from two words each, the first with arguments in [0, below)."""
    table, arities, distinct = space.draw_table, space.arities, space.options.distinct_inputs
    size = len(table)
    out: list[int] = []
    at = iter(words)
    for which, arguments in zip(at, at, strict=True):
        code = table[which * size >> 32]
        if arities[code] == 1:
            out += (code, arguments * below >> 32, NO_ARGUMENT)
        elif distinct:
            a, b = divmod(arguments * below * (below - 1) >> 32, below - 1)
            out += (code, a, b + (b >= a))
        else:
            a, b = divmod(arguments * below * below >> 32, below)
            out += (code, a, b)
        below += 1
    return bytes(out)
