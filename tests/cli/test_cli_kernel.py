"""`kernel`: source that is Python, the launches behind it, and compilation for devices that are not here."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest
from cli_support import document, environment

from evonas.layers.zoo import ZOO


def functions(source):
    """Names of the kernels that a source defines, with their arguments."""
    return {
        node.name: [a.arg for a in node.args.args]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def test_the_forward_pass_is_printed_for_a_pipe(call):
    code, out, err = call("kernel", "evonorm_s0")
    assert code == 0
    assert "forward" in functions(out)
    assert "backward" not in functions(out)
    assert out.startswith('"""x * sigmoid(v1 * x) / std[w,h,c/g](x), forward."""')
    assert "2.00 times the bytes of x" in err  # one read and one write, the floor


def test_passes_that_are_named(call):
    assert "backward" in functions(call("kernel", "relu", "--backward")[1])
    assert "forward" not in functions(call("kernel", "relu", "--backward")[1])
    assert {"forward", "backward"} <= set(functions(call("kernel", "relu", "--backward", "--forward")[1]))


@pytest.mark.parametrize("layer", sorted(ZOO))
def test_launches_fit_the_source(call, layer):
    content = document(call("kernel", layer, "--shape", "4,32,8,8", "--groups", "8", "--json")[1], "kernel")
    assert [one["pass"] for one in content["passes"]] == ["forward", "backward"]
    for one in content["passes"]:
        defined = functions(one["source"])
        for launch in one["launches"]:
            given = len(launch["tensors"]) + len(launch["numbers"]) + len(launch["blocks"])
            assert len(defined[launch["kernel"]]) == given
            assert launch["programs"] >= 1


def test_options_reach_the_kernels(call):
    def content(*more):
        return document(call("kernel", "bn_relu", "--shape", "4,32,8,8", "--json", *more)[1], "kernel")

    assert content()["training"]
    evaluated = content("--eval")
    assert "statistic0_ptr" in evaluated["passes"][0]["source"]
    assert "tl.sum" not in evaluated["passes"][0]["source"]
    added = content("--residual")["passes"][0]["source"]
    assert "residual_ptr" in added
    assert "sum_ptr" in added
    assert content("--layout", "channels_last")["memory"] == "channels_last"
    assert content("--groups", "5")["groups"] == 4  # the largest divisor up to what is asked for


def test_what_is_printed_says_for_which_device_it_is(call, monkeypatch):
    monkeypatch.delenv("EVONAS_KERNEL_COOPERATIVE", raising=False)
    arguments = ("kernel", "bn_relu", "--shape", "128,16,32,32", "--groups", "16")
    assert "on sm_90: " in call(*arguments)[2]
    content = document(call(*arguments, "--json")[1], "kernel")
    assert {one["target"] for one in content["passes"]} == {"sm_90"}
    assert len(content["passes"][0]["launches"]) > 1
    monkeypatch.setenv("EVONAS_KERNEL_COOPERATIVE", "1")
    content = document(call(*arguments, "--json")[1], "kernel")
    assert len(content["passes"][0]["launches"]) == 1


def test_a_candidate_of_a_run(call, finished):
    best = call("show", finished[0], "best", "--json")[1]
    shown = document(best, "show")["formula"]
    made = document(call("kernel", finished[0], "best", "--json")[1], "kernel")
    assert made["formula"] == shown


def test_tokens(call):
    content = document(call("kernel", "x / rms[c](x)", "--layout", "btc", "--json")[1], "kernel")
    assert content["shape"] == [16, 1024, 4096]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["relu", "--dtype", "int8"], ["unknown dtype 'int8'", "bf16, fp16, fp32"]),
        (["relu", "--layout", "nwhc"], ["unknown layout 'nwhc'", "channels_last"]),
        (["bn_relu", "--layout", "btc"], ["'w'", "layout 'btc'", "use some of b, t, c, c/g"]),
        (["relu", "--compile-for", "sm_91"], ["unknown target 'sm_91'", "did you mean 'sm_90'?", "gfx942"]),
        (["relu", "--compile-for", " , "], ["names no target"]),
        (["relu", "--shape", "4,32"], ["'4,32' is not a shape"]),
        (["evonrm_s0"], ["unknown layer", "'evonorm_s0'"]),
        (["relu", "--groups", "0"], ["--groups"]),
    ],
)
def test_what_does_not_fit(call, arguments, words):
    code, out, err = call("kernel", *arguments)
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err


PLUGIN = """
import evonas

@evonas.primitive("third", gradient=lambda ops, g, y, a: ops.mul(g, ops.const(1 / 3)), source="nobody")
def third(xp, a):
    '''a / 3'''
    return a / 3
"""
#: The command line as it is where triton is not installed.
WITHOUT_TRITON = """
import sys
from importlib.machinery import PathFinder

class Others:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "triton" else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Others
from evonas.cli.main import main
sys.exit(main())
"""


def child(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=120
    )


def test_a_primitive_without_a_triton_expression(tmp_path):
    """Names the primitive, the formula and what to do."""
    plugin = tmp_path / "third.py"
    plugin.write_text(PLUGIN)
    done = child("-m", "evonas.cli.main", "kernel", "third(x) / std[w,h](x)", "--plugin", plugin)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"'third' has no Triton expression", done.stderr)
    assert "third(x) / std[w,h](x)" in done.stderr
    assert "backend='eager'" in done.stderr


def test_triton_is_needed_to_compile_alone():
    shown = child("-c", WITHOUT_TRITON, "kernel", "relu")
    assert shown.returncode == 0
    assert "forward" in functions(shown.stdout)
    refused = child("-c", WITHOUT_TRITON, "kernel", "relu", "--compile-for", "sm_90")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "triton is not installed" in refused.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_compiled_for_a_device_that_is_not_here(call):
    arguments = ("kernel", "evonorm_s0", "--shape", "8,64,16,16", "--compile-for", "sm_90")
    content = document(call(*arguments, "--json")[1], "kernel")
    rows = content["kernels"]
    assert [row["pass"] for row in rows] == ["forward", "backward"]
    for row in rows:
        assert row["target"] == "sm_90"
        assert 0 < row["registers"] <= 255
        assert row["spill_bytes"] == 0
        assert row["wide_loads"]
        # x, a product, a sigmoid, two reductions: no less than this and no more than the hand-tuned count and a half
        assert 10 < row["instructions_per_element"] < 75
        assert row["special_per_element"] >= 1  # the sigmoid's tanh
    out = call(*arguments, "--forward")[1]
    (line,) = [line for line in out.splitlines() if line.lstrip().startswith("sm_90")]
    assert str(rows[0]["registers"]) in line.split()
    assert "backward" not in out


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_source_and_table_are_of_one_plan(call):
    """The source is for the first target, and says so."""
    arguments = ("kernel", "x / rms[c](x)", "--layout", "btc", "--shape", "64,64,64", "--json")

    def read(targets, *more):
        content = document(call(*arguments, "--compile-for", targets, *more)[1], "kernel")
        (target,) = {one["target"] for one in content["passes"]}
        launches = [
            (a["kernel"], a["programs"], a["warps"]) for p in content["passes"] for a in p["launches"]
        ]
        rows = {}
        for row in content["kernels"]:
            rows.setdefault(row["target"], []).append((row["kernel"], row["programs"], row["warps"]))
        return target, launches, rows

    target, launches, rows = read("gfx942")
    assert (target, {"gfx942": launches}) == ("gfx942", rows)
    target, launches, rows = read("sm_90,gfx942", "--backward")
    assert (target, launches) == ("sm_90", rows["sm_90"])
    assert rows["sm_90"] != rows["gfx942"]  # or this test would say nothing
