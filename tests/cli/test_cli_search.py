"""`search`: what it prints, records and returns."""

import json
import os
import re
from pathlib import Path

import pytest
from cli_support import HASHED, QUICK, document, evonas, only_run

from evonas.run.plan import HURDLE_SHARE
from evonas.run.run import Run

SNAPSHOT = Path(__file__).parent / "snapshots" / "search_quiet.txt"
NO_TRAINING = ("--proxies", "resnet", "--control", "none", "--set", 'search.baselines=["bn_relu"]')


def test_the_report_of_a_run(finished):
    run, done = finished
    assert done.stdout.startswith(f"run   runs/{run.name}\nseed  1\n")
    for words in ("Front of the search", "Re-ranking", "plain ReLU without norm", "the best baseline", "control",
                  "Funnel", "structural", f"evonas replay runs/{run.name} --verify"):  # fmt: skip
        assert words in done.stdout
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_quiet_output_away_from_a_terminal(tmp_path):
    """The whole report, character by character. Seed layers take the budget, so nothing in it was drawn.

    UPDATE_SNAPSHOTS=1 writes the file anew.
    """
    done = evonas(
        "search", *QUICK, "--quiet", "--candidates", "2", "--control", "none", "--proxies", "resnet,mobilenet",
        "--seed-layer", "max(x / std[b,w,h](x), v0)", "--seed-layer", "tanh(v1 * x) / rms[w,h](x)",
        "--set", 'search.baselines=["bn_relu", "relu"]', "--set", "rerank.seeds=3", "--set", "rerank.top=1",
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r"\d{8}T\d{6}Z-norm_act-[0-9a-f]{8}", "RUN", done.stdout)
    text = re.sub(r"[\d.]+ s of work", "T s of work", text)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert text == SNAPSHOT.read_text(encoding="utf-8")


def test_the_plan_knows_the_hurdle():
    from evonas.evaluation.funnel import Hurdle

    assert Hurdle.at == HURDLE_SHARE


def test_the_json_document_is_all_that_stdout_holds(call):
    code, out, err = call("search", *QUICK, "--json", "--no-rerank")
    content = document(out, "search")
    assert code == 0
    assert content["status"] == "finished"
    assert content["seed"] == 1
    assert content["ranking"] == []
    assert content["front"][0]["scores"].keys() == {"resnet", "mobilenet", "efficientnet"}
    assert content["state"]["arms"]["search"]["finished"] == 8
    assert "run   runs/" in err


def test_a_seed_that_is_not_given_is_drawn_printed_and_kept(call, tmp_path):
    arguments = [a for a in QUICK if a not in ("--seed", "1")]
    code, out, _ = call("search", *arguments, "--candidates", "1", "--no-rerank", "--quiet")
    assert code == 0
    seed = int(re.search(r"^seed  (\d+) \(drawn\)$", out, re.M)[1])
    run = only_run(tmp_path)
    assert json.loads((run / "run.json").read_text())["seed"] == seed
    assert f"seed = {seed}  # drawn" in (run / "config.toml").read_text()


def test_flag_beats_set_beats_environment_beats_file(call, tmp_path, monkeypatch):
    (tmp_path / "file.toml").write_text(
        "[search]\ncandidates = 1\nseed = 1\nstrategy = 'random'\n[rerank]\nseeds = 0\n[matter]\nslack = 0.5\n"
    )
    monkeypatch.setenv("EVONAS_SEARCH_CANDIDATES", "2")
    monkeypatch.setenv("EVONAS_SEARCH_SEED", "2")
    monkeypatch.setenv("EVONAS_RERANK_SEEDS", "4")
    code, out, _ = call(
        "search", "--dry-run", "--json", *HASHED, "--config", "file.toml",
        "--set", "search.candidates=3", "--set", "search.seed=3", "--candidates", "4",
    )  # fmt: skip
    content = document(out, "plan")
    settings, origins = content["settings"], content["origins"]
    assert code == 0
    assert [settings["search"][k] for k in ("candidates", "seed", "strategy")] == [4, 3, "random"]
    assert settings["rerank"]["seeds"] == 4
    assert settings["matter"]["slack"] == 0.5
    assert origins["search.candidates"] == "flag"
    assert origins["search.seed"] == "--set"
    assert origins["rerank.seeds"] == "environment EVONAS_RERANK_SEEDS"
    assert origins["matter.slack"] == "file file.toml"
    assert "rerank.top" not in origins


def test_the_configuration_of_a_run_starts_the_same_run_again(call, finished, tmp_path):
    run, _ = finished
    code, _, err = call("search", "--config", run / "config.toml", "--quiet")
    assert (code, err) == (0, "")
    again = Run(only_run(tmp_path))
    assert [e.digest for e in again.events()] == [e.digest for e in Run(run).events()]


def test_nothing_valid_is_an_exit_code_of_its_own(call):
    code, out, _ = call("search", *QUICK, "--set", "evaluation.options.reject=true", "--quiet")
    assert code == 5
    assert "No candidate of the search" in out
    assert call("status", "latest")[1].splitlines()[1].startswith("status  empty")


def test_seed_layers_come_first(call, tmp_path):
    call(
        "search",
        *QUICK,
        "--seed-layer",
        "max(x / std[b,w,h](x), v0)",
        "--candidates",
        "2",
        "--no-rerank",
        "--quiet",
    )
    first = next(e for e in Run(only_run(tmp_path)).events() if e.arm == "search")
    assert (first.origin, first.formula) == ("seed", "max(v0, x / std[b,w,h](x))")


def test_a_dry_run_makes_nothing(call, tmp_path):
    code, out, err = call("search", "--dry-run", *HASHED)
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert "about 10^26 genotypes" in out
    assert "nothing was made" in out


@pytest.mark.slow
def test_a_dry_run_times_steps_and_estimates(tmp_path):
    done = evonas("search", "--dry-run", "--json", *NO_TRAINING, "--candidates", "10", cwd=tmp_path)
    plan = document(done.stdout, "plan")["plan"]
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    (resnet,) = plan["proxies"]
    assert resnet["measured"]
    assert 0.001 < resnet["step"] < 5
    # one baseline, then 5 finalists and the baseline on 3 seeds with 1.5 times the steps; candidates: 0 or all
    steps = resnet["steps"]
    always = steps + 18 * round(1.5 * steps)
    assert plan["trainings"]["steps_high"] == always + 10 * steps
    assert plan["trainings"]["steps_low"] == always + 10 * round(HURDLE_SHARE * resnet["quality_steps"])
    assert plan["seconds"]["low"] < plan["seconds"]["likely"] < plan["seconds"]["high"]
    assert 100 << 20 < plan["memory_bytes"] < 4 << 30


@pytest.mark.slow
def test_a_real_search_in_miniature(tmp_path):
    changes = {"steps": 4, "quality_steps": 2, "quality_threshold": 0.0, "stability_steps": 1}
    sets = [a for k, v in changes.items() for a in ("--set", f"evaluation.changes.{k}={v}")]
    done = evonas(
        "search", *NO_TRAINING, *sets, "--set", "evaluation.hurdle=false",
        "--set", "rerank.seeds=1", "--set", "rerank.top=1", "--candidates", "2", "--seed", "2", "--json",
        "--seed-layer", "max((x - mean[b,w,h](x)) / std[b,w,h](x), v0)", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = document(done.stdout, "search")
    assert {r["stage"] for r in content["funnel"]} >= {"structural", "quality", "stability", "training"}
    assert {r["arm"] for r in content["ranking"]} == {"search", "baseline"}
    assert content["front"]
    assert all(0 <= r["mean"] <= 1 for r in content["front"])
    assert {r["name"] for r in content["ranking"]} >= {"bn_relu"}
    assert evonas("replay", "latest", "--verify", cwd=tmp_path).returncode == 0


def test_latency_as_an_objective_from_plan_to_table(call, tmp_path):
    source = "roofline model of an H200, not measured"
    goal = ("--objectives", "accuracy,latency")
    plan = document(call("search", "--dry-run", "--json", *HASHED, *goal)[1], "plan")["plan"]
    assert plan["objectives"]["latency"]["source"] == source
    assert f"goal    minimise latency: {source}; us" in call("search", "--dry-run", *HASHED, *goal)[1]
    code, out, err = call("search", *QUICK, *goal, "--set", "rerank.seeds=1", "--quiet")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    assert f"validation scores; latency: {source}" in flat
    assert flat.count("latency us") == 2  # the front and the re-ranking
    content = document(call("top", "latest", "--json", "--sort", "latency")[1], "top")
    assert content["objectives"]["latency"]["source"] == source
    times = [r["latency_us"] for r in content["candidates"]]
    assert times == sorted(times)
    assert all(r["latency_us"] > 0 for r in content["ranking"])
    head, *rows = call("top", "latest", "--arm", "baseline", "--format", "csv")[1].splitlines()
    assert head == "candidate,arm,mobilenet,efficientnet,resnet,mean,latency_us,formula"
    assert len(rows) == 6
    assert f"us ({source})" in call("show", "latest", "best")[1]
    assert source in call("status", "latest")[1].replace("\n", " ")
    assert call("replay", "latest", "--verify")[0] == 0


def test_an_objective_is_not_changed_by_a_resume(call, tmp_path):
    assert call("search", *QUICK, "--candidates", "1", "--no-rerank", "--quiet")[0] == 0
    code, _, err = call(
        "resume", "latest", "--candidates", "2", "--set", "search.objectives=accuracy,latency"
    )
    assert code == 2
    assert "began with search.objectives = ['accuracy']" in err
    code, _, err = call("top", "latest", "--sort", "latency")
    assert code == 2
    assert "unknown order 'latency'" in err


def test_an_unknown_objective_names_the_nearest(call, tmp_path):
    code, _, err = call("search", *QUICK, "--objectives", "accuracy,latncy")
    assert code == 2
    assert err.splitlines()[0] == "error: unknown objective 'latncy': known are accuracy, latency"
    assert "did you mean 'latency'?" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5min", 90)],
)
def test_durations(text, expected):
    from evonas.cli.values import duration

    assert duration(text) == expected
