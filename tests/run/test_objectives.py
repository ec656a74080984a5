"""Latency as an objective: it is selected for, logged, shown, replayed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evonas.kernels.latency import modelled_latency
from support import EVALUATORS, StopAt, decisions, free_run, free_settings, verify

from evonas.errors import UsageError
from evonas.graph import Graph
from evonas.run.api import search
from evonas.run.directory import RunDirectory
from evonas.run.finalists import choose_finalists
from evonas.run.log import EventLog, read_events
from evonas.run.run import Run
from evonas.run.session import check_settings, create_run, execute, open_settings, recorded_space, replay
from evonas.run.settings import Settings, resolve
from evonas.run.study import to_optuna

BOTH = {"search__objectives": ["accuracy", "latency"], "evaluation__evaluator": "trading"}
SHORT = {**BOTH, "search__candidates": 8, "search__baselines": ["bn_relu", "relu"], "rerank__seeds": 0}


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory, status = free_run(tmp_path_factory.mktemp("traded"), **BOTH)
    assert status == "finished"
    return directory


def test_the_front_trades_accuracy_for_latency(traded: RunDirectory) -> None:
    front = Run(traded).front()
    best, fast = front[0], min(front, key=lambda r: (r["latency_us"], -r["mean"]))
    assert best["mean"] > fast["mean"] + 0.1
    assert best["latency_us"] > fast["latency_us"]
    for row in front:
        assert row["latency_us"] == round(modelled_latency(Graph.parse(row["formula"])))


def test_without_the_objective_the_front_is_the_accurate_end_of_it(traded: RunDirectory) -> None:
    """The same scored candidates, compared by accuracy alone."""
    rows = Run(traded).scored()
    top = max(r["mean"] for r in rows)
    fast = min(Run(traded).front(), key=lambda r: (r["latency_us"], -r["mean"]))
    better = [r for r in rows if all(r["scores"][p] > fast["scores"][p] for p in ("a", "b"))]
    assert fast["mean"] < top
    assert better
    assert all(r["latency_us"] > fast["latency_us"] for r in better)


def test_such_a_run_replays_to_its_last_event_and_again(traded: RunDirectory, tmp_path: Path) -> None:
    assert verify(traded)[0] == sum(1 for _ in read_events(traded.path))
    again, _ = free_run(tmp_path, **BOTH)
    first, second = decisions(traded), decisions(again)
    assert all(a.same_decision(b) for a, b in zip(first, second, strict=True))
    assert [e.details().get("latency_us") for e in first] == [e.details().get("latency_us") for e in second]


def test_every_place_names_the_value_and_its_source(traded: RunDirectory) -> None:
    run, source = Run(traded), "roofline model of an H200, not measured"
    assert json.loads((run.path / "run.json").read_text())["objectives"]["latency"]["source"] == source
    assert run.objectives["latency"]["unit"].startswith("us, forward + backward")
    assert run.config["search"]["objectives"] == ["accuracy", "latency"]
    rows = [r for r in run.table().to_pylist() if r["formula"] and r["arm"] != "rerank"]
    assert {r["arm"] for r in rows} == {"search", "control", "baseline"}
    assert all(r["latency_us"] > 0 for r in rows)
    sent = [e for e in run.events() if e.outcome == "dispatched" and e.arm != "rerank"]
    assert {e.details()["latency_source"] for e in sent} == {source}
    ranking = run.ranking()
    assert all(r["latency_us"] > 0 for r in ranking)


def test_the_study_has_one_more_direction(traded: RunDirectory) -> None:
    study = to_optuna(Run(traded))
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert {t.user_attrs["candidate"] for t in study.best_trials} == {
        r["candidate"] for r in Run(traded).front()
    }


def test_from_python(tmp_path: Path) -> None:
    settings = {"evaluation.evaluator": "trading", "workers.backend": "inline", "rerank.seeds": 0,
                "search.baselines": ["relu"], "search.latency": "h100"}  # fmt: skip
    run = search(
        candidates=2, proxies=["a", "b"], objectives=["accuracy", "latency"], settings=settings,
        plugins=[EVALUATORS], out=tmp_path,
    )  # fmt: skip
    assert run.objectives["latency"]["source"] == "roofline model of an H100, not measured"
    assert all(r["latency_us"] > 0 for r in run.scored(None))


def test_finalists_span_the_front(traded: RunDirectory) -> None:
    settings = open_settings(traded)
    *_, (state, _) = replay(traded, settings, recorded_space(traded, settings))
    front = Run(traded).front()
    chosen = [f.candidate for f in choose_finalists(state) if f.arm == "search"]
    assert len(front) > len(chosen) == 5
    assert (chosen[0], chosen[-1]) == (front[0]["candidate"], front[-1]["candidate"])


@pytest.mark.parametrize("strategy", ["nsga2", "random"])
def test_other_strategies_take_the_objective(tmp_path: Path, strategy: str) -> None:
    settings = free_settings(**SHORT, search__strategy=strategy, search__control="none")
    settings = type(settings).from_dict({**settings.to_dict(), "strategy": {}})
    directory = create_run(settings, root=tmp_path)
    assert execute(directory, settings) == "finished"
    assert verify(directory)[0] > 10


@pytest.mark.parametrize("crash", [2, 60])
def test_a_resumed_run_keeps_the_objective(tmp_path: Path, crash: int) -> None:
    whole, _ = free_run(tmp_path / "whole", **SHORT)
    settings = free_settings(**SHORT)
    directory = create_run(settings, root=tmp_path / "torn")
    with pytest.raises(StopAt.Crash):
        execute(directory, settings, observers=(StopAt(crash),))
    assert execute(directory, settings, resume=True) == "finished"
    assert verify(directory)[1] == verify(whole)[1]
    assert len(Run(directory).front()) == len(Run(whole).front())


def test_measured_latencies_are_replayed_from_the_log(tmp_path: Path) -> None:
    """Two clocks never agree, so a replay that measured again, or modelled, would differ."""
    directory, status = free_run(
        tmp_path, **SHORT, search__latency="measured", evaluation__options__timed="clock"
    )
    assert status == "finished"
    verify(directory)
    rows = Run(directory).scored(None)
    assert len({r["latency_us"] for r in rows}) > 5
    done = [e for e in read_events(directory.path) if e.outcome == "scored"]
    assert {e.details()["latency_source"] for e in done} == {"measured on this processor"}
    assert all("latency_us" not in e.details() for e in read_events(directory.path) if e.kind == "proposed")


def test_a_candidate_without_a_measurement_has_failed(tmp_path: Path) -> None:
    settings = free_settings(**{**SHORT, "search__candidates": 1}, search__latency="measured")
    directory = create_run(settings, root=tmp_path)
    assert execute(directory, settings) == "empty"
    reasons = {e.reason for e in read_events(directory.path) if e.kind == "finished"}
    assert reasons == {"the evaluator measured a latency of None, needed are microseconds"}


def test_a_model_that_has_changed_replays_and_is_not_mixed_in(tmp_path: Path) -> None:
    """A log whose baselines were modelled by another version."""
    settings = free_settings(**SHORT)
    torn = create_run(settings, root=tmp_path / "torn")
    with pytest.raises(StopAt.Crash):
        execute(torn, settings, observers=(StopAt(40),))
    other = create_run(settings, root=tmp_path / "other")
    with EventLog.create(other.path, other.id, {"proxies": ["a", "b"]}) as log:
        for event in read_events(torn.path):
            if event.arm == "baseline" and event.detail and "latency_us" in event.detail:
                detail = json.dumps(event.details() | {"latency_us": 1234.0})
                event = event._replace(detail=detail)
            log.append(event)
    assert verify(other)[0] == 40
    with pytest.raises(UsageError, match=r"the model of latency gives .* it was 1234") as caught:
        execute(other, settings, resume=True)
    assert "--allow-change" in str(caught.value)
    assert execute(other, settings, resume=True, allow_change=True) == "finished"


def test_a_run_without_the_objective_knows_nothing_of_it(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path, search__candidates=2, rerank__seeds=0)
    first, *rest = read_events(directory.path)
    assert not {"objectives", "latency"} & first.details()["settings"]["search"].keys()
    assert not any("latency" in (e.detail or "") for e in rest)
    run = Run(directory)
    assert run.table()["latency_us"].null_count == run.table().num_rows
    assert list(run.objectives) == ["accuracy"]
    assert "latency_us" not in run.scored(None)[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"search.objectives": ["accuracy", "latncy"]}, "did you mean 'latency'"),
        ({"search.objectives": "latency"}, "needed is accuracy"),
        ({"search.objectives": ["accuracy", "accuracy"]}, "each once"),
        ({"search.latency": "h20"}, "did you mean 'h200'"),
        ({"search.objectives": "accuracy,latency", "strategy.selection": "average"}, "have no sum"),
        ({"search.objectives": "accuracy,latency", "search.latency": "measured"}, "--device cuda"),
    ],
)
def test_what_does_not_fit_is_said_before_a_run_is_made(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(resolve(flags=flags)[0])
    assert message in str(caught.value)


def test_slots_that_share_a_gpu_do_not_time_layers() -> None:
    flags = {"search.objectives": "accuracy,latency", "search.latency": "measured", "workers.count": 2,
             "evaluation.device": "cuda"}  # fmt: skip
    settings: Settings = resolve(flags=flags)[0]
    with pytest.raises(UsageError, match="2 slots share 1 GPU"):
        check_settings(settings)
