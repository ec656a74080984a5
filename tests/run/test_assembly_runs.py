"""A search over assemblies from settings to tables: log, replay, resume, latency, top and show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import SESSION, StopAt, decisions, free_run, free_settings, verify

from evonas.cli.main import main
from evonas.errors import EvonasError
from evonas.graph import Assembly
from evonas.layers import AssembledLayer
from evonas.run.plan import make_plan
from evonas.run.run import Run
from evonas.run.session import check_settings, create_run, execute

LM = {
    "search__space": "norm_act_lm",
    "search__baselines": [
        "rms_norm+silu",
        "layer_norm+gelu",
        "simple_rms_norm+silu",
        "dyt+silu",
        "norm: x / rms[c](x)",
    ],
    "search__seeds": ["norm: x / rms[c](x); act: x * sigmoid(x)"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("runs")
    directory, status = free_run(root, **LM, search__objectives=["accuracy", "latency"])
    assert status == "finished"
    return Run(directory.path, str(root))


def test_the_log_holds_assemblies_and_replays(run):
    assert verify(run.directory)[0] > 100
    rows = [r for r in run.table().to_pylist() if r["formula"]]
    searched = [r for r in rows if r["arm"] in ("search", "control")]
    assert all(r["formula"].startswith("norm: ") and "; act: " in r["formula"] for r in searched)
    assert all(str(Assembly.parse(r["formula"])) == r["formula"] for r in rows)
    assert (
        next(r for r in rows if r["origin"] == "seed")["formula"]
        == "norm: x / rms[c](x); act: sigmoid(x) * x"
    )
    baselines = {r["name"]: r["formula"] for r in run.ranking() if r["arm"] == "baseline"}
    assert baselines["simple_rms_norm+silu"] == "norm (no affine): x / rms[c](x); act: x * sigmoid(x)"
    assert baselines["norm: x / rms[c](x)"] == "norm: x / rms[c](x)"
    assert run.directory.config["search"]["baselines"][0] == "rms_norm+silu"


def test_latencies_are_sums_over_parts(run):
    from evonas.run.objectives import LatencyObjective

    objective = LatencyObjective(("accuracy", "latency"), "h200", "btc")
    one, other = objective.model("x / rms[c](x)"), objective.model("x * sigmoid(x)")
    assert objective.model("norm: x / rms[c](x); act: x * sigmoid(x)") == pytest.approx(one + other, abs=1)
    for row in run.table().to_pylist():
        if row["outcome"] == "scored" and row["arm"] == "search":
            assert row["latency_us"] == objective.model(row["formula"])


def test_layers_of_the_run(run):
    best = run.layer("best")
    assert isinstance(best, AssembledLayer)
    assert best.layout == "btc"
    assert best.module(8, slot="final").layout.name == "btc"
    baseline = next(r["candidate"] for r in run.ranking() if r["name"] == "simple_rms_norm+silu")
    assert run.layer(baseline).module(8, slot="final").weight is None


def test_top_and_show(run, capsys):
    assert main(["top", str(run.path), "--json"]) in (0, None)
    shown = json.loads(capsys.readouterr().out)
    assert shown["candidates"][0]["formula"].startswith("norm: ")
    assert main(["show", str(run.path)]) in (0, None)
    text = capsys.readouterr().out
    assert "norm: pre_attention" in text
    assert "act: ffn" in text
    rejected = next(r for r in run.table().to_pylist() if r["stage"] == "probe")
    assert main(["show", str(run.path), str(rejected["candidate"]), "--json"]) in (0, None)
    about = json.loads(capsys.readouterr().out)
    assert set(about["parts"]) == {"norm", "act"}
    assert about["history"]["stage"] == "probe"


def test_a_crash_changes_nothing(tmp_path, run):
    settings = free_settings(**LM, search__objectives=["accuracy", "latency"])
    directory = create_run(settings, root=tmp_path)
    with pytest.raises(StopAt.Crash):
        execute(directory, settings, observers=[StopAt(60)])
    assert execute(directory, settings, resume=True) == "finished"
    kept = [(e.kind, e.candidate, e.formula, e.scores) for e in decisions(directory) if e.kind not in SESSION]
    assert kept == [(e.kind, e.candidate, e.formula, e.scores) for e in decisions(run.directory)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"search__seeds": ["x / rms[c](x)"]}, "one layer for all places"),
        ({"search__baselines": ["bn_relu"]}, r"\[b,w,h\] uses axis 'w', which layout 'btc'"),
        ({"search__baselines": ["rms_nrm+silu"]}, "did you mean 'rms_norm'"),
        ({"search__seeds": ["norm: x / rms[t](x); act: max(x, 0)"]}, r"index set \[t\]"),
        ({"space__slots": ["norm", "nact"]}, "did you mean 'act'"),
    ],
)
def test_settings_that_do_not_fit(setting, message):
    with pytest.raises(EvonasError, match=message):
        check_settings(free_settings(**{**LM, **setting}))


def test_plans_say_what_is_searched():
    settings = free_settings(**LM)
    plan = make_plan(settings, check_settings(settings), measure=False)
    assert plan["space"]["slots"] == ["norm", "act"]
    assert plan["stages"][:4] == ["structural", "duplicate", "probe", "causal"]


def test_one_layer_per_slot(tmp_path: Path):
    slots = ["pre_attention", "post_attention", "pre_ffn", "final", "act"]
    directory, status = free_run(
        tmp_path, **{**LM, "space__slots": slots, "search__seeds": [], "search__candidates": 6}
    )
    assert status == "finished"
    verify(directory)
    rows = {(r["arm"], r["stage"]): r for r in Run(directory.path).funnel().rows()}
    tested = rows["search", "causal"]
    assert (tested["in"], tested["rejected"]) == (rows["search", "probe"]["out"], 0)
    assert ("baseline", "causal") not in rows


def test_one_layer_for_both_worlds(tmp_path: Path):
    given = {
        "search__space": "norm_act_any",
        "search__baselines": ["rms_norm+silu", "dyt_scalar"],
        "search__candidates": 6,
    }
    directory, status = free_run(tmp_path, **given)
    assert status == "finished"
    verify(directory)
