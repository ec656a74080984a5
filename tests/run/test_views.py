"""A run and a graph in the forms of other libraries, and the settings that a run keeps."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import optuna
import pytest
from support import StopAt, free_run, free_settings, verify

from evonas import primitive, primitives
from evonas.errors import PluginError, UsageError
from evonas.graph import Graph, to_networkx
from evonas.run.directory import RunDirectory
from evonas.run.run import Run
from evonas.run.session import create_run, execute, open_settings
from evonas.run.settings import resolve
from evonas.run.study import to_optuna


def test_a_graph_as_networkx() -> None:
    made = to_networkx(Graph.parse("x * x - x / std[w,h](x)"))
    assert nx.is_directed_acyclic_graph(made)
    [output] = [n for n, data in made.nodes(data=True) if data["output"]]
    assert made.nodes[output]["op"] == "sub"
    positions = sorted(
        (made.nodes[a]["label"], d["position"]) for a, _, d in made.in_edges(output, data=True)
    )
    assert positions == [("div", 1), ("mul", 0)]
    assert sum(1 for _, _, d in made.edges(data=True)) == 7


def test_a_run_as_an_optuna_study(tmp_path: Path) -> None:
    run = Run(free_run(tmp_path)[0])
    study = to_optuna(run)
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == 20
    scored = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert {t.user_attrs["candidate"]: t.values for t in scored} == {
        row["candidate"]: list(row["scores"].values()) for row in run.scored()
    }
    assert {t.user_attrs["candidate"] for t in study.best_trials} == {row["candidate"] for row in run.front()}


def test_a_run_keeps_formulas_and_full_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("x / rms[w,h](x)")
    directory, _ = free_run(tmp_path / "runs", search__baselines=["./mine.txt", "relu"])
    Path("mine.txt").unlink()
    assert open_settings(directory).search.baselines == ("x / rms[w,h](x)", "relu")
    verify(directory)


def test_a_text_of_several_formulas_is_split_outside_brackets() -> None:
    settings, _ = resolve(sets=["search.baselines=x / std[w,h](x), max(x, 0), relu"])
    assert settings.search.baselines == ("x / std[w,h](x)", "max(x, 0)", "relu")


@pytest.mark.parametrize(
    "setting",
    ["matter.share=2", "matter.minimum=-1", "screening.stack=-1", "screening.stack_limit=nan",
     "search.exhausted_after=0", "evaluation.evaluator=foo", "workers.memory_limit_mb=-1", "search.control=foo"],
)  # fmt: skip
def test_unusable_values_leave_no_folder(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UsageError):
        create_run(resolve(sets=[setting])[0], root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", [{"grps": 3}, {"groups": "x"}, {"eps": -1.0}, {"groups": None}])
def test_unusable_layer_options(tmp_path: Path, layer: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="layer"):
        create_run(resolve(flags={"evaluation.layer": layer})[0], root=tmp_path)


def test_a_primitive_that_workers_cannot_load_is_refused(tmp_path: Path) -> None:
    @primitive("halved", gradient=lambda ops, g, y, a: ops.mul(ops.const(0.5), g), source="test")
    def halved(xp, a):  # type: ignore[no-untyped-def]
        """a / 2"""
        return 0.5 * a

    try:
        settings = resolve(flags={"space.extra_primitives": ["halved"], "workers.backend": "local"})[0]
        with pytest.raises(PluginError, match="workers do not load"):
            create_run(settings, root=tmp_path)
    finally:
        primitives.unregister("halved")


def test_a_changed_space_becomes_the_run_s_own(tmp_path: Path) -> None:
    settings = free_settings()
    directory = create_run(settings, root=tmp_path)
    with pytest.raises(StopAt.Crash):
        execute(directory, settings, observers=(StopAt(30),))
    path = directory.path / "space.json"
    path.write_text(path.read_text().replace('"identity": "', '"identity": "0'))
    with pytest.raises(StopAt.Crash):
        execute(
            RunDirectory.open(directory.path),
            settings,
            resume=True,
            allow_change=True,
            observers=(StopAt(30),),
        )
    assert execute(RunDirectory.open(directory.path), settings, resume=True) == "finished"
    verify(RunDirectory.open(directory.path))


def test_a_run_that_the_clock_ended_can_go_on(tmp_path: Path) -> None:
    directory, status = free_run(
        tmp_path, search__candidates=80, search__max_time_s=0.5, evaluation__options={"sleep_s": 0.02}
    )
    assert status in ("finished", "empty")
    assert execute(directory, free_settings(search__candidates=80), resume=True) == "finished"
    assert len([r for r in Run(directory).table().to_pylist() if r["arm"] == "search" and r["formula"]]) == 80
    verify(directory)


def test_a_space_brings_defaults_that_anything_else_overrides(tmp_path: Path) -> None:
    settings, origins = resolve(flags={"search.space": "norm_act_any"})
    assert "transformer" in settings.evaluation.proxies
    assert origins["evaluation.proxies"] == "space norm_act_any"

    file = tmp_path / "mine.toml"
    file.write_text('[search]\nspace = "norm_act_any"\n\n[evaluation]\nproxies = ["resnet"]\n')
    settings, origins = resolve(file=file, sets=["space.mutation_weights.replace=1.0"])
    assert settings.evaluation.proxies == ("resnet",)
    assert origins["evaluation.proxies"] == f"file {file}"
    assert settings.space["mutation_weights"] == {"replace": 1.0}
    assert origins["search.baselines"] == "space norm_act_any"

    again, _ = resolve(base=settings.to_dict() | {"search": {"space": "norm_act_any"}})
    assert again.search.baselines == resolve()[0].search.baselines, "a recorded run is taken as it is"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["evaluation.changes.sequence=1000000"], "window of 1000000"),
        (["evaluation.changes={tokenizer='bpe', vocabulary=500000}"], "500000"),
        (["rerank.data_shares=[0.0001]"], "blocks"),
    ],
)
def test_text_that_does_not_do_is_refused_before_the_run(tmp_path: Path, sets: list[str], words: str) -> None:
    book = tmp_path / "book.txt"
    book.write_bytes(b"A whale, a ship and a captain. " * 1500)
    given = ["search.space=norm_act_lm", "evaluation.data=text_file", f"evaluation.data_path={book}", *sets]
    with pytest.raises(UsageError, match=words):
        create_run(resolve(sets=given)[0], root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_space_whose_index_sets_a_proxy_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no axis 'w'") as caught:
        create_run(resolve(flags={"evaluation.proxies": ["resnet", "transformer"]})[0], root=tmp_path)
    assert "norm_act_any" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
