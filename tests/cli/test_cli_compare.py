"""`compare` as a user types it: tables, files, signals, exit codes."""

import json
import signal
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from cli_support import HASHED, document, start

EVALUATORS = Path(__file__).parents[1] / "run" / "evaluators.py"
FREE = (*HASHED, "--proxies", "resnet,mobilenet")
INLINE = (*FREE, "--set", "workers.backend=inline")


def test_tables_narration_file_and_picture(call, tmp_path):
    code, out, err = call(
        "compare", "bn_relu", "relu", "x * sigmoid(x)", *INLINE, "--seeds", "4", "--lr-factors", "none",
        "--reference", "relu", "--out", "c.json", "--plot", "c.svg",
    )  # fmt: skip
    assert code == 0, err
    assert "3 layers, 4 seeds, resnet, mobilenet: 12 of 12 trainings and sweeps to do" in err
    assert "[12/12] x * sigmoid(x), seed 4 of 4: resnet 0." in err
    assert "Paired differences to relu: mean [95 % interval]" in out
    assert "over 4 pairs is 3.18 standard errors wide on either side" in " ".join(out.split())
    assert "without a sweep" in out
    kept = json.loads((tmp_path / "c.json").read_text())
    assert (kept["status"], len(kept["trainings"]), kept["reference"]) == ("complete", 12, "relu")
    ET.parse(tmp_path / "c.svg")
    code, again, err = call("compare", "--resume", "c.json", "--json")
    assert code == 0
    assert "0 of 12 trainings and sweeps to do" in err
    assert document(again, "compare")["ranking"] == kept["ranking"]
    code, _, err = call("compare", "--resume", "c.json", "--seeds", "5")
    assert (code, err.count("seed 5 of 5")) == (0, 3)
    code, _, err = call("compare", "--resume", "c.json", "--budget", "2")
    assert code == 2
    assert "began with rerank.budget = 1.5, asked for is 2.0" in err


def test_one_seed_has_no_interval(call):
    code, out, _ = call("compare", "bn_relu", "relu", *INLINE, "--seeds", "1", "--lr-factors", "none")
    assert code == 0
    assert "One pair of trainings has no interval" in out
    assert "[+" not in out


def test_a_best_rate_at_the_edge_of_the_sweep_is_said(call):
    given = ("--plugin", EVALUATORS, "--set", "evaluation.evaluator=free", "--set", "workers.backend=inline")
    code, out, _ = call("compare", "bn_relu", "relu", *given, "--proxies", "a,b", "--seeds", "1", "--json")
    assert code == 0
    rates = {row["name"]: row["lr"] for row in json.loads(out)["ranking"]}
    assert rates["relu"] == {"a": 2.0, "b": 2.0}
    _, out, _ = call("compare", "bn_relu", "relu", *given, "--proxies", "a,b", "--seeds", "1")
    assert "last one of the sweep for" in out
    assert "relu (a 2, b 2)" in out
    _, out, _ = call(
        "compare", "bn_relu", "relu", *given, "--proxies", "a,b", "--seeds", "1", "--lr-factors", "1"
    )
    assert "last one of the sweep" not in out


def test_nothing_scored_is_an_exit_code(call):
    code, out, err = call(
        "compare", "bn_relu", "relu", *INLINE, "--seeds", "2", "--set", "evaluation.options.reject=true"
    )
    assert code == 5
    assert "rejected: low_accuracy" in " ".join(out.split())
    assert "[1/6] bn_relu, sweep: rejected: low_accuracy" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu",), "1 layer to compare, needed are at least two"),
        ((), "0 layers to compare"),
        (("relu", "bn_rel"), "bn_rel"),
        (("relu", "bn_relu", "--seeds", "0"), "0 seeds, needed is at least one"),
        (("relu", "bn_relu", "--lr-factors", "many"), "rerank.lr_factors"),
        (("relu", "bn_relu", "--plot", "c.jpg"), "neither .svg nor .png"),
        (("relu", "bn_relu", "--proxies", "transformer"), "does not fit proxy 'transformer'"),
        (("relu", "bn_relu", "--reference", "gelu"), "'gelu' is not among the layers"),
        (("relu", "latest:best"), "no runs"),
    ],
)
def test_what_is_refused(call, arguments, message):
    code, out, err = call("compare", *arguments)
    assert code == 2
    assert message in err
    assert not out


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_trained(call):
    code, _, err = call("compare", "relu", "bn_relu", *INLINE, "--out", "absent/c.json")
    assert code == 4
    assert "no folder" in err
    assert "seed 1" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_prints_what_is_there(tmp_path, call, number, kept):
    slow = ("--set", "evaluation.options.delay=0.3", "--set", "workers.backend=local", "--workers", "2")
    out = ("--out", "c.json") if kept else ()
    process = start("compare", "bn_relu", "relu", *FREE, *slow, "--seeds", "40", "--lr-factors", "none", *out,
                    cwd=tmp_path)  # fmt: skip
    heard = ""
    end = time.monotonic() + 90
    while "seed 2 of 40" not in heard:
        heard += process.stderr.readline()
        assert time.monotonic() < end, heard
    process.send_signal(number)
    shown, more = process.communicate(timeout=60)
    assert process.returncode == (75 if kept else 130), more
    assert "INCOMPLETE" in shown
    assert "of 80 trainings and sweeps are there" in more
    assert "Traceback" not in more
    if kept:
        assert "go on with: evonas compare --resume c.json" in more
        there = len(json.loads((tmp_path / "c.json").read_text())["trainings"])
        assert 2 <= there < 80
        code, _, err = call("compare", "--resume", "c.json", "--set", "workers.backend=inline", "--json")
        assert code == 0
        assert f"{80 - there} of 80 trainings and sweeps to do" in err
