"""Screening many candidates at once changes no decision; and proposals that are looked at are those that come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evonas.evaluation.screening import stack_probe
from evonas.graph import Graph
from evonas.run import session
from evonas.run.conductor import LOOK_AHEAD, Conductor
from evonas.run.log import Event
from evonas.run.settings import resolve

FLAGS = {"search.candidates": 12, "search.baselines": ["evonorm_s0"]}


def proposals(conductor: Conductor, count: int) -> list[Event]:
    """The first proposals of a run whose candidates are all still being evaluated."""
    found: list[Event] = []
    while len(found) < count:
        event = conductor.decide()
        assert event is not None
        conductor.apply(event)
        found += [event] if event.kind == "proposed" and event.arm != "baseline" else []
    return found


def test_decisions_are_those_of_numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve(flags=FLAGS)[0]
    space = session.build_space(settings)
    plain, ahead = Conductor(settings, space), Conductor(settings, space)
    batches: list[int] = []
    probed: list[Graph] = []

    def clear(graphs: Sequence[Graph]) -> list[bool]:
        batches.append(len(graphs))
        options = ahead.arms["search"].screen.options
        return [stack_probe(graph, space.layout, options)[0] is None for graph in graphs]

    def counted(graph: Graph, *rest: object) -> tuple[str | None, dict[str, object]]:
        probed.append(graph)
        return stack_probe(graph, *rest)  # type: ignore[arg-type]

    wanted = proposals(plain, 120)
    for arm in ahead.arms.values():
        arm.screen.ahead = clear
    monkeypatch.setattr("evonas.evaluation.screening.stack_probe", counted)
    assert proposals(ahead, 120) == wanted
    # few launches, each for many candidates
    assert len(batches) < 30
    assert 8 < max(batches) <= LOOK_AHEAD
    # what was cleared is not run through numpy's stack again, what was not is, for its numbers
    dispatched = [event for event in wanted if event.outcome == "dispatched"]
    assert len(dispatched) > 5
    assert not {str(graph) for graph in probed} & {str(event.formula) for event in dispatched}


def test_only_a_search_on_cuda_looks_ahead() -> None:
    settings = resolve(flags=FLAGS)[0]
    conductor = Conductor(settings, session.build_space(settings))
    session._look_ahead(conductor, settings, conductor.space)
    assert all(arm.screen.ahead is None for arm in conductor.arms.values())
