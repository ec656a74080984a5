"""Random genotypes (Liu et al. 2020, section 3): draw a primitive, then its inputs among all existing nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evonas.rng import Draws

if TYPE_CHECKING:
    from evonas.search_spaces.space import Space

NO_ARGUMENT = 255


def draw_operation(space: Space, draws: Draws) -> int:
    """The code of an operation: uniform over the draw table's groups, then within the group."""
    group = draws.choice(space.draw_table)
    return group[0] if len(group) == 1 else draws.choice(group)


def draw_arguments(space: Space, code: int, below: int, draws: Draws) -> tuple[int, int]:
    """Argument ids in [0, below) for an operation; the second is 255 for a unary one."""
    a = draws.below(below)
    if space.arities[code] == 1:
        return a, NO_ARGUMENT
    if space.options.distinct_inputs:
        b = draws.below(below - 1)
        return a, b + (b >= a)
    return a, draws.below(below)


def random_genotype(space: Space, draws: Draws) -> bytes:
    """Node by node: an operation, then arguments among the inputs and all nodes drawn before."""
    out = bytearray()
    first = len(space.inputs)
    for below in range(first, first + space.nodes):
        code = draw_operation(space, draws)
        a, b = draw_arguments(space, code, below, draws)
        out += bytes((code, a, b))
    return bytes(out)
