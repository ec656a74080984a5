"""`status`, `top`, `show`, `replay`, `list`, `doctor`: on finished, copied, live and dead runs; JSON documents."""

import csv
import io
import json
import shutil
import signal
import time

import pytest
from cli_support import HASHED, PLUGINS, QUICK, document, evonas, only_run, start

from evonas.run.run import Run


def test_status_of_a_finished_run(call, finished):
    run, _ = finished
    code, out, _ = call("status", run)
    assert code == 0
    assert "finished; baselines 6/6, search 8/8, control 8/8 evaluated; 0 in flight" in out
    content = document(call("status", run, "--json")[1], "status")
    assert content["status"] == "finished"
    assert content["seed"] == 1
    assert content["writer"] is None
    assert content["torn_bytes"] == 0
    assert content["state"]["proposed"] == sum(a["proposed"] for a in content["state"]["arms"].values()) + 48
    assert [r["candidate"] for r in content["front"]] == [r["candidate"] for r in Run(run).front()]


def test_status_lists_runs(call, run_copy, tmp_path):
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    _, out, err = call("status")
    assert run_copy.name in out
    assert "damaged/run.json is damaged" in err
    content = document(call("status", "--json")[1], "runs")
    assert {r["run"].split("/")[-1]: r["status"] for r in content["runs"]} == {
        run_copy.name: "finished",
        "damaged": "unreadable",
    }
    assert "holds no runs" in call("status", "--runs", "elsewhere")[1]


def test_a_copy_without_its_other_files_reads_the_same(call, run_copy, finished):
    for name in ("candidates.parquet", "LOCK", "environment.json", "command.txt"):
        (run_copy / name).unlink()
    for verb in (["status"], ["top"], ["replay", "--verify"], ["show", "best"]):
        here = call(verb[0], run_copy, *verb[1:])
        there = call(verb[0], finished[0], *verb[1:])
        assert here[0] == 0
        assert here[1].replace(str(run_copy), "RUN") == there[1].replace(str(finished[0]), "RUN")


def test_top_gives_the_front_in_three_formats(call, finished):
    run, _ = finished
    front = Run(run).front()
    out = call("top", run)[1]
    assert all(r["formula"] in out for r in front)
    assert "Re-ranking" in out
    content = document(call("top", run, "--json")[1], "top")
    assert [r["candidate"] for r in content["candidates"]] == [r["candidate"] for r in front]
    assert len(content["ranking"]) == 5 + 5 + 6
    rows = list(csv.DictReader(io.StringIO(call("top", run, "--format", "csv")[1])))
    assert [int(r["candidate"]) for r in rows] == [r["candidate"] for r in front]


def test_top_of_an_arm_sorted_by_a_proxy(call, finished):
    run, _ = finished
    content = document(
        call("top", run, "--arm", "all", "--sort", "mobilenet", "--limit", "5", "--json")[1], "top"
    )
    scores = [r["scores"]["mobilenet"] for r in content["candidates"]]
    every = [r["scores"]["mobilenet"] for r in Run(run).scored(None)]
    assert scores == sorted(every, reverse=True)[:5]
    assert content["total"] == 8 + 8 + 6
    assert "evonorm_b0" in call("top", run, "--arm", "baseline")[1]
    assert call("top", run, "--sort", "mobilnet")[0] == 2
    assert call("top", run, "--arm", "serch")[0] == 2


def test_show_a_layer(call, tmp_path):
    code, out, _ = call("show", "x * sigmoid(v1 * x) / std[w,h,c/g](x)")
    assert code == 0
    assert "same as     evonorm_s0" in out
    assert "└── std[w,h,c/g]" in out
    (tmp_path / "mine.json").write_text('{"formula": "max(0, x)"}')
    content = document(call("show", "mine.json", "--shape", "2,8,4,4", "--json")[1], "show")
    assert content["name"] == "mine"
    assert content["same_as"] == ["relu"]
    assert content["cost"]["shape"] == [2, 8, 4, 4]
    assert content["properties"]["batch_independent"]
    assert content["nodes"][-1] == {"id": 2, "op": "max", "args": [0, 1], "index": None}


def test_a_shared_node_is_drawn_once(call):
    out = call("show", "gn_silu")[1]
    assert out.count("#1 div") == 1
    assert "#1 (above)" in out


def test_show_a_candidate_with_its_history(call, finished):
    run, _ = finished
    best = Run(run).candidate("best")
    content = document(call("show", run, "best", "--json")[1], "show")
    assert content["history"]["candidate"] == best["candidate"]
    assert content["formula"] == best["formula"]
    assert content["history"]["mean"] == pytest.approx(best["mean_score"])
    assert f"candidate {best['candidate']} of" in call("show", run, best["candidate"])[1]
    rejected = next(r for r in Run(run).table().to_pylist() if r["stage"] == "probe")
    history = document(call("show", run, rejected["candidate"], "--json")[1], "show")["history"]
    assert (history["outcome"], history["stage"]) == ("rejected", "probe")
    assert call("show", run, "99999")[0] == 2
    assert call("show", run, "worst")[0] == 2


def test_show_follows_parents(call, tmp_path):
    code, _, _ = call("search", *QUICK, "--set", "strategy.initial=2", "--set", "strategy.p_random=0.0",
                      "--no-rerank", "--quiet")  # fmt: skip
    assert code == 0
    run = only_run(tmp_path)
    rows = {r["candidate"]: r for r in Run(run).table().to_pylist() if r["arm"] == "search"}
    child = [r for r in rows.values() if r["parent"] is not None and r["outcome"] == "scored"][-1]
    chain, row = [], child
    while row["parent"] is not None:
        row = rows[row["parent"]]
        chain.append(row["candidate"])
    content = document(call("show", run, child["candidate"], "--json")[1], "show")
    assert [a["candidate"] for a in content["history"]["ancestors"]] == chain
    assert all(a["formula"] for a in content["history"]["ancestors"])
    assert "Ancestors, nearest first" in call("show", run, child["candidate"])[1]


def test_replay(call, finished):
    run, _ = finished
    events = sum(1 for _ in Run(run).events())
    code, out, _ = call("replay", run, "--verify")
    assert code == 0
    assert out.startswith(f"{events} events, ")
    assert "decisions reproduced, state digest " in out
    content = document(call("replay", run, "--verify", "--json")[1], "replay")
    assert (content["verified"], content["events"], content["phase"]) == (True, events, "finished")
    early = document(call("replay", run, "--until", "20", "--json")[1], "replay")
    assert (early["verified"], early["events"]) == (False, 21)


def test_replay_names_the_first_event_that_differs(call, run_copy):
    config = run_copy / "config.toml"
    config.write_text(config.read_text().replace("candidates = 8", "candidates = 7"))
    code, out, err = call("replay", run_copy, "--verify")
    assert (code, out) == (3, "")
    assert err.startswith("error: event 0 (run_started) differs")
    code, out, _ = call("replay", run_copy, "--verify", "--json")
    assert code == 3
    assert not document(out, "replay")["verified"]
    assert call("replay", run_copy)[0] == 0


@pytest.mark.parametrize(
    ("what", "name"),
    [("spaces", "norm_act"), ("primitives", "sigmoid"), ("proxies", "resnet"), ("layers", "evonorm_s0"),
     ("data", "fashion_mnist_small"), ("strategies", "ageing")],
)  # fmt: skip
def test_lists(call, what, name):
    code, out, _ = call("list", what)
    assert code == 0
    assert name in out
    content = document(call("list", what, "--json")[1], "list")
    assert content["kind"] == what
    assert name in [item["name"] for item in content["items"]]


def test_a_plugin_is_listed(tmp_path):
    out = evonas("list", "data", "--plugin", PLUGINS / "nan_data.py", cwd=tmp_path).stdout
    assert "acme_nan" in out


def test_doctor(call, tmp_path):
    code, out, _ = call("doctor", "--json")
    content = document(out, "doctor")
    checks = {c["name"]: c for c in content["checks"]}
    assert code == 0
    assert content["fail"] == 0
    assert {"python", "packages", "torch", "memory", "runs", "disk", "data", "layer", "ray"} <= checks.keys()
    assert "digests match" in checks["data"]["found"]
    (tmp_path / "file").write_text("")
    code, out, _ = call("doctor", "--out", "file/runs")
    assert code == 4
    assert "fail runs" in out
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.slow
def test_a_live_run_a_dead_one_and_its_resumption(tmp_path):
    process = start(
        "search", *HASHED, "--set", "evaluation.options.delay=0.05", "--seed", "4", "--candidates", "30",
        "--backend", "inline", "--no-rerank", cwd=tmp_path,
    )  # fmt: skip
    try:
        content = _status_once(tmp_path, lambda c: c["state"]["arms"]["search"]["finished"] >= 3)
        assert content["status"] == "running"
        assert content["writer"]["pid"] == process.pid
        assert document(evonas("top", "latest", "--json", cwd=tmp_path).stdout, "top")["candidates"]
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    run = only_run(tmp_path)
    dead = json.loads(evonas("status", run, "--json", cwd=tmp_path).stdout)
    assert (dead["status"], dead["writer"]) == ("killed", None)
    went_on = evonas("resume", run, "--json", cwd=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    recovered = document(went_on.stdout, "search")["recovered"]
    assert recovered["events"] == dead["state"]["events"]
    assert recovered["in_flight"] == len(dead["state"]["in_flight"])
    assert f"recovered {recovered['events']} events" in went_on.stderr
    assert evonas("replay", run, "--verify", cwd=tmp_path).returncode == 0


def _status_once(root, holds, seconds=60):
    for _ in range(int(seconds / 0.3)):
        done = evonas("status", "latest", "--json", cwd=root)
        if done.returncode == 0 and holds(content := json.loads(done.stdout)):
            return content
        time.sleep(0.3)
    raise AssertionError("the run does not get there")


def test_a_torn_tail_is_dropped_and_a_torn_middle_refused(call, run_copy, tmp_path):
    middle = shutil.copytree(run_copy, tmp_path / "runs" / "middle")
    (segment,) = (run_copy / "events").iterdir()
    data = segment.read_bytes()
    segment.write_bytes(data[: len(data) - 1500])
    torn = document(call("status", run_copy, "--json")[1], "status")["torn_bytes"]
    assert torn > 0
    code, out, _ = call("resume", run_copy, "--quiet", "--candidates", "10")
    assert code == 0
    assert f"{torn} bytes of a torn tail dropped" in out
    assert call("replay", run_copy, "--verify")[0] == 0

    (segment,) = (middle / "events").iterdir()
    segment.write_bytes(data[:9000] + bytes(64) + data[9064:])
    for arguments in (
        ["resume", middle, "--quiet", "--candidates", "10"],
        ["replay", middle],
        ["status", middle],
    ):
        code, _, err = call(*arguments)
        assert code == 4
        assert "the events before number" in err


def test_a_changed_space_is_refused_unless_allowed(call, run_copy):
    change = ["--set", "space.mutation_weights.insert=1", "--candidates", "10", "--quiet"]
    code, _, err = call("resume", run_copy, *change)
    assert code == 2
    assert "is not the one that the run began with" in err
    assert "--allow-change" in err
    assert call("resume", run_copy, *change, "--allow-change")[0] == 0
    other = ["--set", "space.nodes=12", "--candidates", "12", "--quiet", "--allow-change"]
    code, _, err = call("resume", run_copy, *other)
    assert code == 2
    assert "cannot be read in the changed space: nodes was 10, is 12" in err


def test_a_changed_decision_is_refused(call, run_copy):
    code, _, err = call("search", "--resume", run_copy, "--seed", "2", "--quiet")
    assert code == 2
    assert "began with search.seed = 1, flag asks for 2" in err
