"""Learning-rate sweeps and sizes of the data in the re-ranking: alike for all, logged, resumed, replayed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support import StopAt, decisions, free_run, free_settings, verify

from evonas.cli.progress import read_progress
from evonas.cli.tables import sweep_table
from evonas.errors import UsageError, VerificationError
from evonas.evaluation.protocol import EvaluatorSpec, Task, dump_tasks, load_tasks
from evonas.evaluation.sweep import best_factor, sensitivity
from evonas.rng import derive_seed
from evonas.run.backends.inline import InlineBackend
from evonas.run.conductor import Conductor
from evonas.run.directory import RunDirectory
from evonas.run.drive import Driver
from evonas.run.finals import FinalTrainings
from evonas.run.log import EventLog, read_events
from evonas.run.plan import make_plan
from evonas.run.run import Run
from evonas.run.schema import pack
from evonas.run.session import build_space, create_run, execute, open_settings, recorded_space, replay
from evonas.run.settings import Settings, resolve

SWEPT: dict[str, Any] = {
    "search__candidates": 6,
    "search__baselines": ["bn_relu", "relu"],
    "rerank__top": 2,
    "rerank__control_top": 1,
    "rerank__lr_factors": [0.5, 1.0, 2.0],
    "rerank__data_shares": [0.25],
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory, status = free_run(tmp_path_factory.mktemp("swept"), **SWEPT)
    assert status == "finished"
    return Run(directory)


def test_every_finalist_is_swept_before_it_is_trained(swept: Run) -> None:
    events = [e for e in swept.events() if e.arm == "rerank"]
    sweeps = [e for e in events if e.origin == "sweep"]
    ranked = swept.ranking()
    assert [e.parent for e in sweeps] == [f["candidate"] for f in events[0].details()["finalists"]]
    assert len(sweeps) == len(ranked) == 5
    assert {row["arm"] for row in ranked} == {"search", "control", "baseline"}
    done = {
        e.parent: e.seq
        for e in events
        if e.kind == "finished" and e.candidate in {s.candidate for s in sweeps}
    }
    trained = [e for e in events if e.kind == "proposed" and e.origin == "rerank"]
    assert len(trained) == 10
    assert all(e.seq > done[e.parent] for e in trained)
    by_candidate = {row["candidate"]: row for row in ranked}
    for event in trained:
        assert event.details()["lr"] == by_candidate[event.parent]["lr"]


def test_the_best_factor_is_the_one_with_the_best_validation_score(swept: Run) -> None:
    factors = set()
    for row in swept.ranking():
        for proxy in ("a", "b"):
            points = row["sweep"][proxy]
            assert [p[0] for p in points] == [0.5, 1.0, 2.0]
            scores = [s for _, s in points if s is not None]
            if not scores:
                assert (row["lr"][proxy], row["sensitivity"][proxy]) == (1.0, None)
                continue
            assert dict(map(tuple, points))[row["lr"][proxy]] == max(scores)
            worst = 0.0 if len(scores) < 3 else min(scores)
            assert row["sensitivity"][proxy] == pytest.approx(max(scores) - worst)
            factors.add(row["lr"][proxy])
    assert len(factors) > 1, "all chose the same factor: nothing was tested"


def test_scores_at_every_size_of_the_data(swept: Run) -> None:
    for row in swept.ranking():
        assert list(row["data_shares"]) == ["0.25"]
        part = row["data_shares"]["0.25"]
        assert part["n"] == row["n"] == 2
        assert part["mean"] == pytest.approx(0.25 * row["mean"])
        assert part["per_proxy"]["a"][0] == pytest.approx(0.25 * row["per_proxy"]["a"][0])
        assert row["validation"] == pytest.approx(row["mean"])  # of all data alone


def test_a_swept_run_replays(swept: Run) -> None:
    events, _ = verify(swept.directory)
    assert events == sum(1 for _ in swept.events())


def test_sweeps_have_a_seed_of_their_own_and_the_final_steps(tmp_path: Path) -> None:
    settings = free_settings(**SWEPT)
    directory = create_run(settings, root=tmp_path)
    tasks: dict[str, list[Task]] = {"sweep": [], "final": []}
    execute(directory, settings)
    for conductor, event in replay(directory, settings, recorded_space(directory, settings)):
        if event.kind == "proposed" and event.arm == "rerank":
            task = conductor.task(int(event.candidate or 0))
            tasks[task.mode].append(task)
    assert {t.seed for t in tasks["sweep"]} == {derive_seed("sweep", 0)}
    assert {t.seed for t in tasks["sweep"]}.isdisjoint(t.seed for t in tasks["final"])
    assert {t.budget for t in tasks["sweep"]} == {t.budget for t in tasks["final"]} == {1.5}
    assert {t.lr_factors for t in tasks["sweep"]} == {(0.5, 1.0, 2.0)}
    assert {t.data_shares for t in tasks["final"]} == {(0.25,)}
    assert tasks["sweep"][0].deadline_s == 3 * 1.5 * settings.evaluation.deadline_s
    assert tasks["final"][0].deadline_s == 2 * 1.5 * settings.evaluation.deadline_s
    both = [tasks["sweep"][0], tasks["final"][0], Task(1, "x")]
    assert load_tasks(dump_tasks(both)) == both


def test_a_sweep_may_be_shorter_than_a_final_training() -> None:
    settings = free_settings(**SWEPT, rerank__sweep_budget=0.5)
    trainings = FinalTrainings.of(settings)
    sweep, final = trainings.sweep(1, "x"), trainings.final(1, "x", 0)
    assert (sweep.budget, final.budget) == (0.75, 1.5)
    assert sweep.lr_factors == (0.5, 1.0, 2.0)
    assert trainings.work(2) == 1.5 * (3 * 0.5 + 2 * 2)
    assert trainings.work(0) == 0
    assert settings.deciding()["rerank"]["sweep_budget"] == 0.5
    assert "sweep_budget" not in free_settings(**SWEPT).deciding()["rerank"]  # older logs have none
    with pytest.raises(UsageError, match=r"rerank\.sweep_budget"):
        free_settings(**SWEPT, rerank__sweep_budget=0.0)


def test_the_re_ranking_is_given_the_time_that_it_needs(tmp_path: Path) -> None:
    """By the baselines of a recorded run, whose re-ranking took more than its share."""
    directory = RunDirectory.open(next((Path(__file__).parents[2] / "runs" / "language").iterdir()))
    settings = open_settings(directory)
    conductor = Conductor(settings, recorded_space(directory, settings))
    taken: dict[str, list[float]] = {"baseline": [], "rerank": []}
    log = EventLog.create(tmp_path, "none", {})
    backend = InlineBackend(EvaluatorSpec("free"))

    def kept(max_time_s: float, share: float) -> float:
        return Driver(conductor, log, backend, max_time_s=max_time_s, rerank_share=share).kept

    before = conductor.rerank_seconds()
    assert conductor.phase == "baselines"
    for event in read_events(directory.path):
        conductor.apply(event)
        if event.kind == "finished" and event.arm in taken:
            taken[event.arm].append(event.seconds or 0.0)
        if conductor.phase == "baselines":
            assert kept(10.0, 0.3) == 3.0
    assert before == 0
    each = fmean(conductor.baseline_seconds.values())
    assert 0 < each < fmean(taken["baseline"])  # which has the stability test in it
    # two of the search, one of the control, five baselines; three factors and two seeds at two sizes of the data
    units = 3 * settings.rerank.sweep_budget + 2 * 2
    assert conductor.rerank_seconds() == pytest.approx(8 * units * each)
    assert 0.6 < conductor.rerank_seconds() / sum(taken["rerank"]) < 1.7

    assert kept(2 * conductor.rerank_seconds(), 0.2) == conductor.rerank_seconds()
    assert kept(2 * conductor.rerank_seconds(), 0.6) == 1.2 * conductor.rerank_seconds()
    assert kept(conductor.rerank_seconds(), 0.2) == 0.7 * conductor.rerank_seconds()  # something is searched
    assert kept(100.0, 0.0) == kept(0.0, 0.5) == 0


def test_two_seeds_are_given_time_and_more_only_their_share() -> None:
    seconds = {}
    for seeds in (1, 2, 3):
        settings = free_settings(**(SWEPT | {"rerank__seeds": seeds}))
        conductor = Conductor(settings, build_space(settings))
        conductor.baseline_seconds[0] = 10.0
        seconds[seeds] = conductor.rerank_seconds()
    assert seconds[1] < seconds[2] == seconds[3]


def test_a_run_killed_between_sweeps_resumes_to_the_same_end(tmp_path: Path, swept: Run) -> None:
    expected = decisions(swept.directory)
    sweeping = [e.seq for e in swept.events() if e.kind == "finished" and e.parent and e.arm == "rerank"]
    settings = free_settings(**SWEPT)
    # after the first and the third sweep, and after the first replicate
    for crash in (sweeping[0] + 1, sweeping[2] + 1, sweeping[5] + 1):
        directory = create_run(settings, root=tmp_path / str(crash))
        with pytest.raises(StopAt.Crash):
            execute(directory, settings, observers=(StopAt(crash),))
        assert execute(directory, settings, resume=True) == "finished"
        got = decisions(directory)
        assert len(got) == len(expected)
        assert all(a.same_decision(b) for a, b in zip(expected, got, strict=True))
        assert verify(directory)[1] == verify(swept.directory)[1]


def test_a_lost_sweep_is_tried_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    directory, status = free_run(
        tmp_path / "runs", **SWEPT, workers__backend="local", workers__count=2,
        evaluation__options={"kill_first": str(marks)},
    )  # fmt: skip
    assert status == "finished"
    events = list(read_events(directory.path))
    sweeps = {e.candidate for e in events if e.origin == "sweep"}
    lost = [e for e in events if e.kind == "attempt_lost" and e.candidate in sweeps]
    assert lost
    again = [e for e in events if e.kind == "finished" and e.candidate in {e.candidate for e in lost}]
    assert again
    assert all((e.outcome, e.attempt > 1) == ("scored", True) for e in again), again
    assert all(len(row["sweep"]["a"]) == 3 for row in Run(directory).ranking())
    verify(directory)


def test_where_every_point_diverges_the_rate_stays_and_the_table_says_so(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path, **SWEPT, evaluation__options={"diverging": ["b"]})
    ranking = Run(directory).ranking()
    for row in ranking:
        assert row["lr"]["b"] == 1.0
        assert row["sensitivity"]["b"] is None
        assert row["n"] == 2
    assert "all diverged" in _text(sweep_table(ranking, ("a", "b")))
    verify(directory)


def test_a_sweep_that_fails_leaves_the_rate_alone(tmp_path: Path) -> None:
    directory, status = free_run(tmp_path, **SWEPT, evaluation__options={"fail_sweeps": True})
    assert status == "finished"
    for row in Run(directory).ranking():
        assert row["lr"] == {"a": 1.0, "b": 1.0}
        assert row["sensitivity"] == {"a": None, "b": None}
        assert row["sweep"] == {"a": [], "b": []}
        assert row["n"] == 2
    assert "no sweep" in _text(sweep_table(Run(directory).ranking(), ("a", "b")))
    verify(directory)


def test_a_forged_factor_is_named(tmp_path: Path, swept: Run) -> None:
    events = list(swept.events())
    at = next(e for e in events if e.origin == "rerank")
    lie = at.details() | {"lr": {"a": 8.0, "b": 8.0}}
    forged = create_run(free_settings(**SWEPT), root=tmp_path)
    with EventLog.create(forged.path, forged.id, {"proxies": ["a", "b"]}) as log:
        for event in events:
            log.append(event._replace(detail=pack(lie)) if event.seq == at.seq else event)
    with pytest.raises(VerificationError, match=rf"event {at.seq} .*\n.*detail"):
        verify(forged)


def test_without_sweep_and_sizes_nothing_is_new(tmp_path: Path) -> None:
    plain = {k: v for k, v in SWEPT.items() if k not in ("rerank__lr_factors", "rerank__data_shares")}
    directory, _ = free_run(tmp_path, **plain)
    run = Run(directory)
    first = next(iter(run.events())).details()["settings"]["rerank"]
    assert set(first) == {"top", "control_top", "seeds", "budget", "time_share"}
    assert not {"lr", "sensitivity", "sweep", "data_shares"} & run.ranking()[0].keys()
    assert all(e.details().keys() == {"replicate"} for e in run.events() if e.origin == "rerank")
    assert sweep_table(run.ranking(), ("a", "b")) is None
    assert "sweeps" not in read_progress(run.config, run.events()).state()["rerank"]
    whole = free_settings(**plain, rerank__data_shares=[1.0])
    conductor = Conductor(whole, build_space(whole))
    assert conductor._finals.shares == ()  # all of the data is trained on anyway


def test_progress_counts_sweeps_beside_trainings(swept: Run) -> None:
    events = list(swept.events())
    third = [e.seq for e in events if e.kind == "finished" and e.arm == "rerank"][2]
    progress = read_progress(swept.config, events[: third + 1])
    assert progress.reranking() == "3 of 5 learning-rate sweeps, 0 of 10 trainings"
    assert progress.state()["rerank"]["sweeps"] == {"finished": 3, "left": 2}
    assert progress.planned() == (0, 10)
    left = progress.work_left()
    assert left is not None
    spent = progress.work["rerank"] / 9  # three sweeps of three trainings
    assert left == pytest.approx((10 * 2 + 2 * 3) * spent)
    half = {**swept.config, "rerank": {**swept.config["rerank"], "sweep_budget": 0.5}}
    spent = progress.work["rerank"] / 4.5  # sweeps of half as many steps
    assert read_progress(half, events[: third + 1]).work_left() == pytest.approx((10 * 2 + 2 * 1.5) * spent)
    ended = read_progress(swept.config, events)
    assert ended.reranking() == "5 of 5 learning-rate sweeps, 10 of 10 trainings"
    assert ended.work_left() == 0


def test_the_table_of_sweeps_names_factor_sensitivity_and_sizes(swept: Run) -> None:
    text = _text(sweep_table(swept.ranking(), ("a", "b")))
    row = swept.ranking()[0]
    known = next(p for p in ("a", "b") if row["sensitivity"][p] is not None)
    assert f"{row['lr'][known]:.3g} ({row['sensitivity'][known]:.3f}" in text
    assert f"{row['data_shares']['0.25']['mean']:.3f}" in text
    assert "mean at 0.25 of the data" in " ".join(text.split())


def test_the_plan_counts_every_training() -> None:
    def budget(**flags: Any) -> dict[str, Any]:
        settings = free_settings(**{**SWEPT, **flags})
        plan = make_plan(settings, build_space(settings), measure=False)
        return plan["budget"] | {"stages": plan["stages"]}

    found = budget()
    assert found["rerank_trainings_per_proxy"] == 5 * (2 * 2 + 3)
    assert (found["sweep_trainings_per_proxy"], found["data_sizes"]) == (15, 2)
    assert found["stages"][-2:] == ["sweep", "rerank"]
    plain = budget(rerank__lr_factors=[], rerank__data_shares=[])
    assert plain["rerank_trainings_per_proxy"] == 10
    assert not {"sweep_trainings_per_proxy", "data_sizes"} & plain.keys()
    assert budget(rerank__seeds=0)["rerank_trainings_per_proxy"] == 0


def test_factors_and_shares_are_numbers() -> None:
    for given in ([0.5, 1, 2.0], "0.5, 1,2", ("0.5", "1.0", "2.0")):
        settings, _ = resolve(flags={"rerank.lr_factors": given})
        assert settings.rerank.lr_factors == (0.5, 1.0, 2.0)
    settings, _ = resolve(sets=["rerank.data_shares=0.25"])
    assert settings.rerank.data_shares == (0.25,)
    assert Settings.from_dict(settings.to_dict()) == settings
    for bad in ([0.0], [-1.0], [1.0, 1.0], [float("inf")]):
        with pytest.raises(UsageError, match=r"rerank\.lr_factors = .*different numbers above 0"):
            resolve(flags={"rerank.lr_factors": bad})
    with pytest.raises(UsageError, match="at most 1"):
        resolve(flags={"rerank.data_shares": [2.0]})
    for bad in (["many"], True, [True], {"a": 1}):
        with pytest.raises(UsageError, match=r"rerank\.lr_factors"):
            resolve(flags={"rerank.lr_factors": bad})


def test_the_best_of_points() -> None:
    def points(*given: tuple[float, float | None]) -> list[dict[str, Any]]:
        return [
            {"factor": f, "score": s or 0.0, "diverged_at": None if s is not None else 3} for f, s in given
        ]

    assert best_factor(points((0.5, 0.2), (1.0, 0.3), (2.0, 0.4))) == 2.0
    assert best_factor(points((0.25, 0.3), (0.5, 0.3), (2.0, 0.3))) == 0.5  # nearest to 1, then the smaller
    assert best_factor(points((0.5, 0.0), (1.0, None))) == 0.5  # a score of 0 is one
    assert best_factor(points((0.5, None), (2.0, None))) == best_factor([]) == 1.0
    assert sensitivity(points((0.5, 0.2), (1.0, 0.5), (2.0, None))) == 0.5
    assert sensitivity(points((0.5, 0.2), (1.0, 0.5))) == pytest.approx(0.3)
    assert sensitivity(points((0.5, None))) is None
    assert sensitivity([]) is None


def test_a_resume_of_a_swept_run_may_change_workers_alone(tmp_path: Path) -> None:
    directory, _ = free_run(tmp_path, **SWEPT)
    settings = open_settings(directory)
    assert settings.rerank.lr_factors == (0.5, 1.0, 2.0)
    more = replace(settings, search=replace(settings.search, candidates=8))
    assert execute(directory, more, resume=True) == "finished"
    ranking = Run(directory).ranking()
    assert all(row["n"] == 2 and len(row["sweep"]["a"]) == 3 for row in ranking)
    assert fmean(len(row["data_shares"]) for row in ranking) == 1
    verify(directory)


def _text(table: Any) -> str:
    from rich.console import Console

    out = Console(width=200)
    with out.capture() as captured:
        out.print(table)
    return captured.get()


def test_a_share_below_a_batch_is_refused_before_the_run(tmp_path: Path) -> None:
    flags = {"evaluation.proxies": ["mobilenet"], "rerank.data_shares": [0.5, 0.002], "search.candidates": 2}
    settings, _ = resolve(flags=flags)
    with pytest.raises(UsageError, match=r"0\.002 of 4000 training images are 8, needed are 32"):
        create_run(settings, root=tmp_path)
    smaller, _ = resolve(flags=flags | {"evaluation.changes.batch": 8})
    create_run(smaller, root=tmp_path)
