"""`bench`: what is measured, on which terms, and what is said of what is not. No test asks how fast anything is."""

import importlib.util
import math
import xml.etree.ElementTree as tree

import pytest
import torch
from cli_support import document
from evonas.kernels.c_runtime import available
from evonas.kernels.timing import Clock, Step, Times, time_steps

import evonas
from evonas.cli import bench as verb
from evonas.cli.bench_means import geometric_means
from evonas.cli.bench_plot import Point, roofline_svg
from evonas.cli.bench_run import Case, planned_bytes
from evonas.layers.peers import peers

SMALL = ("--shapes", "2,8,4,4", "--rounds", "3", "--device", "cpu")
CPU = torch.device("cpu")
needs_c = pytest.mark.skipif(not available(), reason="no C compiler")


@pytest.fixture(scope="module")
def measured():
    """One comparison that several tests look at."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from evonas.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        shapes = "2,8,4,4;4,8,3,5"
        code = main(["bench", "gn_relu", "evonorm_s0", "--shapes", shapes, "--groups", "4", "--rounds", "3", "--device",
                     "cpu", "--backends", "eager,torch,triton", "--json"])  # fmt: skip
    assert code == 0, err.getvalue()
    return document(out.getvalue(), "bench"), err.getvalue()


def test_a_row_per_layer_shape_pass_and_backend(measured):
    content, _ = measured
    found = [(r["layer"], tuple(r["shape"]), r["pass"], r["backend"]) for r in content["rows"]]
    assert len(set(found)) == len(found)
    shapes = [(2, 8, 4, 4), (4, 8, 3, 5)]
    both = ("forward", "backward")
    assert set(found) == {
        *(("gn_relu", s, p, b) for s in shapes for p in both for b in ("eager", "torch")),
        *(("evonorm_s0", s, p, "eager") for s in shapes for p in both),
    }


def test_numbers_fit_each_other(measured):
    content, _ = measured
    copy = content["copy_bytes_per_second"]
    eager = {
        (r["layer"], tuple(r["shape"]), r["pass"]): r["median_us"]
        for r in content["rows"]
        if r["backend"] == "eager"
    }
    for row in content["rows"]:
        tensors = {"forward": 2, "backward": 3}[row["pass"]]
        assert row["least_bytes"] == tensors * math.prod(row["shape"]) * 4
        assert row["median_us"] > 0
        assert row["iqr_us"] >= 0
        assert row["rounds"] == 3
        assert row["share_of_copy"] == pytest.approx(row["least_bytes"] / row["median_us"] * 1e6 / copy)
        same = eager[row["layer"], tuple(row["shape"]), row["pass"]]
        assert row["speedup_over_eager"] == pytest.approx(same / row["median_us"])


def test_no_number_of_a_device_that_is_not_here(measured):
    content, said = measured
    assert content["device"] == "cpu"
    assert {one["backend"]: one["reason"] for one in content["left_out"] if one["layer"] == "evonorm_s0"} == {
        "triton": "kernels need a GPU",
        "torch": "has no such layer",
    }
    assert "gn_relu: without triton: kernels need a GPU" in said
    assert content["rooflines"] == []


def test_the_table_names_device_and_terms(call):
    code, out, err = call("bench", "relu", *SMALL, "--backends", "eager")
    assert code == 0
    assert f"torch {torch.__version__}" in out
    assert "A copy reaches" in out
    assert "medians of 3 interleaved rounds" in out
    assert [line.split()[3:5] for line in out.splitlines() if line.strip().startswith("relu")] == [
        ["forward", "eager"],
        ["backward", "eager"],
    ]
    assert "relu, 2x8x4x4: eager" in err


def test_tokens_and_channels_last(call):
    rows = document(call("bench", "x / rms[c](x)", "--layout", "btc", "--shapes", "2,6,8", *SMALL[2:], "--json")[1],
                    "bench")["rows"]  # fmt: skip
    assert {"eager", "torch"} <= {r["backend"] for r in rows}
    assert {r["note"] for r in rows if r["backend"] == "torch"} == {"no bias"}
    rows = document(call("bench", "bn_relu", "--layout", "channels_last", *SMALL, "--json")[1], "bench")[
        "rows"
    ]
    assert {r["memory"] for r in rows} == {"channels_last"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["relu", "--backends", "tritn"], 2, ["unknown backend 'tritn'", "did you mean 'triton'?"]),
        (["relu", "--backends", ","], 2, ["--backends names none"]),
        (["relu", "--dtype", "half"], 2, ["unknown dtype 'half'"]),
        (["relu", "--shapes", "1,2,3"], 2, ["'1,2,3' is not a shape"]),
        (["relu", "--device", "tpu"], 2, ["unknown device 'tpu'", "--device cpu"]),
        (["rleu"], 2, ["unknown layer 'rleu'", "'relu'"]),
        (["bn_relu", "--layout", "btc"], 2, ["layout 'btc'"]),
        (["relu", "--plot", "roof.pdf"], 2, ["neither .svg nor .png"]),
        (["relu", "--plot", "nowhere/roof.svg"], 4, ["no folder", "roof.svg"]),
        (["relu", "--rounds", "0"], 2, ["--rounds"]),
        (["evonorm_s0", "--backends", "torch", *SMALL], 4, ["nothing that was asked for runs here", "no such layer"]),
    ],
)  # fmt: skip
def test_what_does_not_fit(call, arguments, code, words):
    got, out, err = call("bench", *arguments)
    assert (got, out) == (code, "")
    assert all(word in err for word in words), err


def test_a_gpu_that_is_not_there(call):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for name in ("cuda", "cuda:1"):
        code, _, err = call("bench", "relu", "--device", name)
        assert code == 4
        assert "sees no GPU" in err


def test_the_picture(call, tmp_path):
    assert call("bench", "gn_silu", *SMALL, "--plot", "roof.svg")[0] == 0
    root = tree.parse(tmp_path / "roof.svg").getroot()
    assert root.tag.endswith("svg")
    words = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert "gn_silu 2x8x4x4 forward" in words
    assert "median time in units of the floor" in words


def test_marks_stand_where_their_times_are():
    points = [Point("a < b", "eager", 10.0, 100.0), Point("a < b", "triton", 10.0, 10.0)]
    root = tree.fromstring(roofline_svg(points, "t & t", "s"))
    words = ["".join(n.itertext()) for n in root.iter() if n.tag.endswith("title")]
    assert "eager: 100 µs, 10.00 times the floor" in words
    ticks = {
        n.text: float(n.get("x")) for n in root.iter() if n.tag.endswith("text") and n.text in ("1x", "10x")
    }
    circle = [float(n.get("cx")) for n in root.iter() if n.tag.endswith("circle")]
    square = [float(n.get("x")) + 5.5 for n in root.iter() if n.tag.endswith("rect")]
    assert circle[-1] == pytest.approx(ticks["10x"], abs=0.2)
    assert square[-1] == pytest.approx(ticks["1x"], abs=0.2)


# what it comes down to


def cells(backend, *times, formula="x"):
    """Rows of a layer, one shape after the other: (forward, backward) in microseconds."""
    fixed = {"formula": formula, "layout": "nchw", "memory": "contiguous", "dtype": "bf16", "groups": 4}
    return [
        {**fixed, "backend": backend, "shape": [n + 1, 8, 4, 4], "pass": which, "median_us": us}
        for n, both in enumerate(times)
        for which, us in zip(("forward", "backward"), both, strict=True)
    ]


ROWS = [
    *cells("triton", (1.0, 2.0), (2.0, 2.0)),
    *cells("triton", (1.0, 1.0), formula="-x"),
    *cells("eager", (4.0, 2.0), (2.0, 8.0), (9.0, 9.0)),  # the third shape has no kernels
    *cells("liger", (0.5, 1.0)),
    *cells("compile", (3.0, 3.0), (2.0, 2.0)),
    *cells("compile max", (1.0, 4.0)),
]


def test_geometric_means_of_the_cells_in_which_both_ran():
    found = {(m["peer"], m["pass"]): (m["cells"], m["ratio"]) for m in geometric_means(ROWS)}
    assert {m["ours"] for m in geometric_means(ROWS)} == {"triton"}
    wanted = {
        "eager": (2, math.sqrt(4 * 1), math.sqrt(1 * 4), math.sqrt((6 / 3) * (10 / 4))),
        "liger": (1, 0.5, 0.5, 0.5),
        "compile": (2, math.sqrt(3 * 1), math.sqrt(1.5 * 1), math.sqrt((6 / 3) * (4 / 4))),
        "compile max": (1, 1.0, 2.0, 5 / 3),
        "compile best": (2, math.sqrt(1 * 1), math.sqrt(1.5 * 1), math.sqrt((5 / 3) * (4 / 4))),
    }
    assert found.keys() == {(peer, which) for peer in wanted for which in ("forward", "backward", "both")}
    for peer, (count, *ratios) in wanted.items():
        for which, ratio in zip(("forward", "backward", "both"), ratios, strict=True):
            assert found[peer, which] == (count, pytest.approx(ratio))


def test_without_generated_kernels_there_is_nothing_to_compare_with(measured):
    assert geometric_means([row for row in ROWS if row["backend"] != "triton"]) == []
    assert geometric_means(cells("triton", (1.0, 1.0)) + cells("eager", (1.0, 1.0), formula="-x")) == []
    assert measured[0]["geometric_means"] == []


def test_the_table_of_means(capsys):
    verb._print_means(geometric_means(ROWS))
    out = capsys.readouterr().out
    assert "Times over those of triton, geometric means" in out
    assert ["eager", "2", "2.00x", "2.00x", "2.24x"] in [line.split() for line in out.splitlines()]


@needs_c
def test_means_of_what_was_measured(call):
    content = document(call("bench", "relu", *SMALL, "--backends", "eager,c", "--json")[1], "bench")
    times = {(row["backend"], row["pass"]): row["median_us"] for row in content["rows"]}
    assert [(one["ours"], one["peer"], one["pass"], one["cells"]) for one in content["geometric_means"]] == [
        ("c", "eager", which, 1) for which in ("forward", "backward", "both")
    ]
    forward = content["geometric_means"][0]["ratio"]
    assert forward == pytest.approx(times["eager", "forward"] / times["c", "forward"])


# floors and bytes


def test_planned_bytes_are_those_of_the_kernels_that_would_run(monkeypatch):
    monkeypatch.delenv("EVONAS_KERNEL_COOPERATIVE", raising=False)
    shape = (128, 16, 32, 32)
    case = Case(evonas.layer("bn_relu"), "nchw", "contiguous", shape, 16, "bf16")
    tensor = 2 * math.prod(shape)
    swept = planned_bytes(case, CPU)
    assert [round(n / tensor) for n in swept] == [3, 5]
    monkeypatch.setenv("EVONAS_KERNEL_COOPERATIVE", "1")
    together = planned_bytes(case, CPU)
    assert [round(n / tensor) for n in together] == [2, 3]
    lost = Case(evonas.layer("cmean[t](x)"), "btc", "contiguous", (2, 8, 4), 4, "bf16")
    assert planned_bytes(lost, CPU) == (None, None)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_floors_from_compiled_kernels(call, capsys):
    arguments = ("bench", "evonorm_s0", "--shapes", "8,64,16,16", "--dtype", "bf16", "--rounds", "1", "--device", "cpu",
                 "--backends", "eager", "--roofline", "--json")  # fmt: skip
    content = document(call(*arguments)[1], "bench")
    floors = content["rooflines"]
    assert [one["pass"] for one in floors] == ["forward", "backward"]
    for tensors, one in zip((2, 3), floors, strict=True):
        assert (one["target"], one["machine"], one["copy_measured_here"]) == ("sm_90", "H200", False)
        parts = {limit: one[f"{limit}_us"] for limit in ("bandwidth", "issue", "special")}
        assert one["floor_us"] == parts[one["limit"]] == max(parts.values())
        # what vectors and statistics add is less than a tenth
        least = 1e6 * tensors * 2 * math.prod((8, 64, 16, 16)) / 4.3e12
        assert least < parts["bandwidth"] < 1.1 * least
        assert one["instructions"] > 10
        assert one["mufu"] >= 1  # the sigmoid's tanh
        assert one["spill_bytes"] == 0
    assert content["left_out"] == []
    verb._print_floors(content)
    assert (
        "Floors on an H200, a model from its rates: nothing of this table was measured"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_torch_compile_is_measured(call):
    content = document(call("bench", "relu", *SMALL, "--backends", "eager,compile", "--json")[1], "bench")
    assert content["left_out"] == []
    rows = [row for row in content["rows"] if row["backend"] == "compile"]
    assert [(row["pass"], row["note"]) for row in rows] == [
        ("forward", "mode=default"),
        ("backward", "mode=default"),
    ]
    assert all(row["median_us"] > 0 and row["speedup_over_eager"] > 0 for row in rows)


# what a comparison compares


@pytest.mark.parametrize("layer", ["bn_relu", "bn_silu", "gn_silu", "gn_gelu", "in_relu", "ln_gelu"])
def test_peers_are_the_same_layer(layer):
    made = evonas.layer(layer)
    peer = peers(made, "nchw")[0]
    x = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    ours = made.module(8, backend="eager", groups=4)(x)
    torch.testing.assert_close(peer.make(8, 4)(x), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("formula", ["(x - mean[c](x)) / std[c](x)", "x / rms[c](x)"])
def test_peers_of_token_layers(formula):
    made = evonas.layer(formula)
    (peer,) = [p for p in peers(made, "btc") if p.library == "torch"]
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    ours = made.module(8, backend="eager", layout="btc")(x)
    torch.testing.assert_close(peer.make(8, 4)(x), ours, rtol=1e-5, atol=1e-5)


def test_peers_are_found_by_what_a_layer_is():
    spelled = evonas.layer("sigmoid((x - mean[w,h](x)) / std[w,h](x)) * ((x - mean[w,h](x)) / std[w,h](x))")
    assert [p.library for p in peers(spelled, "nchw")] == ["torch"]
    assert peers(evonas.layer("evonorm_b0"), "nchw") == ()
    assert peers(evonas.layer("gn_silu"), "btc") == ()


# the timer


class Recorder(torch.nn.Module):
    """Writes down who is called."""

    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, x):
        self.calls.append(self.name)
        return 2 * x


def test_rounds_are_interleaved_and_begin_with_another_one_each_time(monkeypatch):
    monkeypatch.setattr("evonas.kernels.timing.CPU_SECONDS", 0.0)  # one repetition per measurement
    calls = []
    x = torch.ones(3)
    steps = {name: Step(Recorder(name, calls), x, x) for name in "abc"}
    times = time_steps(steps, Clock(torch.device("cpu")), rounds=4, warm_up=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert all(t.rounds == 4 and t.low <= t.median <= t.high for pair in times.values() for t in pair)


def test_gradients_are_new_each_time_and_of_everything():
    layer = evonas.layer("evonorm_s0").module(4, backend="eager")
    step = Step(layer, torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2))
    first = step.backward(step.forward())
    second = step.backward(step.forward())
    assert len(first) == 1 + len(list(layer.parameters()))
    assert all(torch.equal(a, b) and a is not b for a, b in zip(first, second, strict=True))
    assert step.x.grad is None


def test_quartiles():
    assert Times.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Times(3.0, 2.0, 4.0, 5)
    assert Times.of([2.0]) == Times(2.0, 2.0, 2.0, 1)
