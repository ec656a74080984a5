"""The strategies on the real space: they find a target's parts sooner than random search does."""

from __future__ import annotations

from collections import Counter

import pytest
from evonas.search_spaces import Space

from evonas import search_spaces
from evonas.evolution import make_strategy
from evonas.graph import Graph, canonical, parse_formula

#: the gated, normalized form of the paper's S layers, with a centred statistic
TARGET = "x * sigmoid(v1 * x) / std[w,h,c/g](x)"


def parts(graph: Graph) -> Counter[tuple[str, ...]]:
    """Operations, and pairs of an operation with what it is applied to: what a graph is made of."""
    names = dict(enumerate(graph.leaves))
    found: Counter[tuple[str, ...]] = Counter()
    for i, (op, args, index) in graph.operations():
        names[i] = f"{op}{index or ''}"
        found[(names[i],)] += 1
        for a in args:
            found[(names[i], names[a])] += 1
    return found


WANTED = parts(canonical(parse_formula(TARGET)))


def closeness(graph: Graph) -> float:
    """Jaccard index of the parts: 1 for the target alone."""
    have = parts(graph)
    return (have & WANTED).total() / (have | WANTED).total()


def best_of(space: Space, name: str, seed: int, evaluations: int, **options: object) -> float:
    """The best closeness after so many *distinct* layers were scored."""
    strategy = make_strategy(name, space, seed, "search", options)
    known: dict[bytes, tuple[int, tuple[float]]] = {}
    candidate = 0
    while len(known) < evaluations:
        proposal = strategy.ask(candidate)
        digest = space.digest(proposal.genotype)
        if digest is None:
            strategy.tell(candidate, proposal.genotype, None)
        elif digest in known:
            twin, scores = known[digest]
            strategy.tell(candidate, proposal.genotype, scores, twin=twin)
        else:
            scores = (closeness(space.graph(proposal.genotype)),)
            known[digest] = (candidate, scores)
            strategy.tell(candidate, proposal.genotype, scores)
        candidate += 1
    return max(m.scores[0] for m in strategy.front())


@pytest.fixture(scope="module")
def space() -> Space:
    return search_spaces.get("norm_act")


def test_evolution_beats_random_search_with_the_same_evaluations(space: Space) -> None:
    seeds = range(5)
    rated = {
        name: [best_of(space, name, seed, 600) for seed in seeds] for name in ("ageing", "nsga2", "random")
    }
    for name in ("ageing", "nsga2"):
        wins = sum(a > b for a, b in zip(rated[name], rated["random"], strict=True))
        assert wins >= 4, rated
        assert sum(rated[name]) / len(seeds) > sum(rated["random"]) / len(seeds) + 0.05, rated


def test_proposals_are_genotypes_of_the_space(space: Space) -> None:
    strategy = make_strategy("ageing", space, 7, "search", {"initial": 5, "p_random": 0.2})
    for candidate in range(200):
        proposal = strategy.ask(candidate)
        graph = space.decode(proposal.genotype)
        assert len(graph.nodes) == space.nodes
        if space.digest(proposal.genotype) is not None:
            strategy.tell(candidate, proposal.genotype, (closeness(space.graph(proposal.genotype)),))


def test_other_mutations_carry_their_name() -> None:
    weights = {"replace": 1.0, "insert": 1.0, "remove": 1.0, "rewire": 1.0}
    space = search_spaces.get("norm_act", mutation_weights=weights)
    strategy = make_strategy("ageing", space, 7, "search", {"initial": 0, "p_random": 0.0})
    for candidate in range(5):
        proposal = strategy.ask(candidate)
        strategy.tell(candidate, proposal.genotype, (0.5,))
    origins = Counter(strategy.ask(100 + i).origin for i in range(300))
    assert set(origins) == {"mutation", "insert", "remove", "rewire"}
