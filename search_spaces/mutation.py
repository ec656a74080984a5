"""Mutations of a genotype: the paper's replacement, and insert, remove and rewire as options.

replace: one intermediate node, active or not, gets a new operation and new arguments (Liu et al. 2020).
insert: a new operation on one edge of the active graph, in place of an inactive node.
remove: an active node is bypassed, its users take one of its arguments.
rewire: one argument of an active node points to another earlier id.
The last three follow PANGAEA (Bingham and Miikkulainen, 2022). A kind that does not apply to a genotype (insert
without an inactive node, say) falls back to replace, so a mutation always returns a child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evonas.search_spaces.sampler import NO_ARGUMENT, draw_node

from evonas.rng import Draws

if TYPE_CHECKING:
    from evonas.search_spaces.space import Space


def mutate(space: Space, genotype: bytes, draws: Draws) -> tuple[bytes, str]:
    """A child and the name of the mutation that made it."""
    weights = space.options.mutation_weights
    kinds = [kind for kind in _KINDS if weights.get(kind, 0) > 0]
    kind = kinds[0]
    if len(kinds) > 1:
        at = draws.uniform() * sum(weights[k] for k in kinds)
        for kind in kinds:
            at -= weights[kind]
            if at < 0:
                break
    child = _KINDS[kind](space, genotype, draws)
    if child is None:
        kind, child = "replace", replace(space, genotype, draws)
    return child, kind


def replace(space: Space, genotype: bytes, draws: Draws) -> bytes:
    """The paper's mutation: one node drawn uniformly, a new operation, new predecessors."""
    i = draws.below(space.nodes)
    return genotype[: 3 * i] + draw_node(space, len(space.inputs) + i, draws) + genotype[3 * i + 3 :]


def rewire(space: Space, genotype: bytes, draws: Draws) -> bytes | None:
    """One argument of an active node moves to another earlier id; None if there is no other."""
    first = len(space.inputs)
    i = draws.choice(space.active_nodes(genotype))
    slot = 1 + draws.below(space.arities[genotype[3 * i]])
    old = genotype[3 * i + slot]
    if first + i < 2:
        return None
    new = draws.below(first + i - 1)
    child = bytearray(genotype)
    child[3 * i + slot] = new + (new >= old)
    return bytes(child)


def insert(space: Space, genotype: bytes, draws: Draws) -> bytes | None:
    """A random operation on one edge of the active graph; None if no node is inactive."""
    first = len(space.inputs)
    active = space.active_nodes(genotype)
    idle = [i for i in range(space.nodes) if i not in set(active)]
    if not idle:
        return None
    nodes = _unpack(space, genotype)
    target = draws.choice(active)
    slot = draws.below(space.arities[nodes[target][0]])
    dropped = draws.choice(idle)
    nodes, moved = _drop(space, nodes, dropped)
    target = moved(first + target) - first
    source = nodes[target][1][slot]
    code, *args = draw_node(space, first + target, draws)
    args = args[: space.arities[code]]
    args[draws.below(len(args))] = source
    # the new node takes the place of its user; everything from there on moves up by one

    def shift(a: int) -> int:
        return a if a < first + target else a + 1

    later = [(c, [shift(a) for a in arguments]) for c, arguments in nodes[target:]]
    later[0][1][slot] = first + target
    return _pack([*nodes[:target], (code, args), *later])


def remove(space: Space, genotype: bytes, draws: Draws) -> bytes | None:
    """An active node is bypassed; None if it is the output and its argument is an input of the layer."""
    first = len(space.inputs)
    i = draws.choice(space.active_nodes(genotype))
    nodes = _unpack(space, genotype)
    bypass = draws.choice(nodes[i][1])
    if i == space.nodes - 1:
        if bypass < first:
            return None
        nodes[i] = nodes[bypass - first]
        return _pack(nodes)
    users = [(c, [bypass if a == first + i else a for a in args]) for c, args in nodes[i + 1 :]]
    return _pack(nodes[: i + 1] + users)


_KINDS: dict[str, Callable[[Space, bytes, Draws], bytes | None]] = {
    "replace": replace,
    "insert": insert,
    "remove": remove,
    "rewire": rewire,
}
_Nodes = list[tuple[int, list[int]]]


def _unpack(space: Space, genotype: bytes) -> _Nodes:
    return [
        (genotype[at], list(genotype[at + 1 : at + 1 + space.arities[genotype[at]]]))
        for at in range(0, len(genotype), 3)
    ]


def _pack(nodes: _Nodes) -> bytes:
    return bytes(
        byte for code, args in nodes for byte in (code, args[0], args[1] if len(args) > 1 else NO_ARGUMENT)
    )


def _drop(space: Space, nodes: _Nodes, dropped: int) -> tuple[_Nodes, Callable[[int], int]]:
    """The nodes without an inactive one; those that used it (inactive too) take its first argument."""
    here = len(space.inputs) + dropped
    instead = nodes[dropped][1][0]

    def moved(a: int) -> int:
        return instead if a == here else a - 1 if a > here else a

    return [(c, [moved(a) for a in args]) for i, (c, args) in enumerate(nodes) if i != dropped], moved
