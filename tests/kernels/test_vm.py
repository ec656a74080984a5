"""The batch machine: programs against the eager reference, the kernel in Triton's interpreter, compiled code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from evonas.kernels.vm import TILE_LIMIT, CandidateBatch, evaluate_batch, make_tile
from evonas.kernels.vm_program import (
    BINARY,
    LEAVES,
    MOMENTS,
    OPCODES,
    REGISTER_FILES,
    UNARY,
    NotExpressible,
    compile_program,
    encode,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs

from evonas import primitives, search_spaces
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph import Graph, differentiate
from evonas.graph.execute import ArrayOps, forward
from evonas.graph.layout import NCHW
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

torch = pytest.importorskip("torch")
INTERPRETER = Path(__file__).with_name("vm_in_interpreter.py")
NAMES = {code: name for name, code in OPCODES.items()}
SETS = {"b": "b", "g": "g", "k": "k", "p": "hw"}
SIZES = {"b": 3, "g": 2, "k": 2, "h": 2, "w": 3}


def leaves():
    rng = np.random.default_rng(0)
    shape = tuple(SIZES[d] for d in NCHW.dims)
    vector = tuple(SIZES[d] if d in "gk" else 1 for d in NCHW.dims)
    return {name: rng.normal(0.3, 1.0, vector if name in ("v0", "v1") else shape) for name in LEAVES}


def execute(program):
    """What the kernel does, on expanded numpy arrays with the primitives' own functions."""
    xp, given_ = primitives.numpy_namespace, leaves()
    registers = [np.full(given_["x"].shape, np.nan) for _ in range(program.registers)]
    with np.errstate(all="ignore"):
        for op, to, a, b in program.code:
            name = NAMES[op]
            if name == "load":
                value = given_[LEAVES[a]]
            elif name == "const":
                value = program.constants[a - 1]
            elif name in MOMENTS:
                dims = "".join(SETS[axis] for bit, axis in enumerate(SETS) if b >> bit & 1)
                axes = tuple(NCHW.dims.index(d) for d in dims)
                value = primitives.get(name).eager(xp, registers[a], axes, eps=primitives.EPS)
            else:
                used = (registers[a], registers[b])[: 1 if name in UNARY else 2]
                value = ArrayOps(xp, NCHW).function(name)(*used)
            registers[to] = np.broadcast_to(value, given_["x"].shape)
    return registers[0]


def check_program(graph, registers):
    program = compile_program(graph, NCHW, registers)
    assert {to for _, to, _, _ in program.code} == set(range(program.registers))
    assert program.registers <= registers
    with np.errstate(all="ignore"):
        want = forward(graph, leaves(), ArrayOps(primitives.numpy_namespace, NCHW))[graph.output]
    np.testing.assert_allclose(
        execute(program), np.broadcast_to(want, leaves()["x"].shape), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", [n for n in ZOO if not n.endswith("_scalar")])
def test_programs_of_known_layers(name):
    graph = Graph.parse(ZOO[name].formula)
    check_program(graph, 4)
    for gradient in differentiate(graph).values():
        check_program(gradient, 12)


@given(graphs(), st.sampled_from((2, 3, 4, 12)))
def test_programs_of_random_graphs(graph, registers):
    try:
        compile_program(graph, NCHW, registers)
    except NotExpressible:
        assert registers < 12
        with pytest.raises(NotExpressible, match="values are live"):
            compile_program(graph, NCHW, registers)
    else:
        check_program(graph, registers)


def test_every_random_layer_is_expressible():
    space = search_spaces.get("norm_act")
    genotypes = (space.random(Draws("expressible", i)) for i in range(1000))
    for genotype in genotypes:
        assert compile_program(space.decode(genotype), NCHW).registers <= REGISTER_FILES[0]


def test_every_built_in_primitive_has_an_instruction():
    """All but the causal moments, whose loops along an axis the machine does not have, and what their adjoints need."""
    built_in = {
        p.name
        for p in primitives.all_primitives()
        if p.origin == "evonas" and p.arity and not p.causal and p.name != "like"
    }
    assert built_in == {*UNARY, *BINARY, *MOMENTS}


def test_a_moment_reduces_only_axes_that_its_argument_varies_over():
    def axes(text):
        return compile_program(Graph.parse(text), NCHW).code[-1][3]

    assert axes("mean[b,w,h](x)") == 1 + 8
    assert axes("std[w,h,c](x)") == 2 + 4 + 8
    assert axes("std[w,h,c/g](x)") == 4 + 8
    assert axes("std[b,w,h](v1)") == 0
    assert axes("std[w,h,c](v1 * v0)") == 2 + 4
    assert axes("rms[b,w,h](mean[w,h](x))") == 1


def test_what_has_no_program_is_named():
    @primitives.primitive(
        "acme_half", check=False, gradient=lambda ops, g, y, a: ops.mul(ops.const(0.5), g), source="test"
    )
    def half(xp, a):
        """Half."""
        return 0.5 * a

    try:
        graph = Graph.parse("acme_half(x) + 1")
        with pytest.raises(NotExpressible, match="'acme_half' has no instruction"):
            compile_program(graph, NCHW)
        batch = CandidateBatch([Graph.parse("x"), graph, Graph.parse("mean[h](x)")])
        assert set(batch.unexpressible) == {1, 2}
        assert "part of the positions" in batch.unexpressible[2]
    finally:
        primitives.unregister("acme_half")
    assert (
        len(compile_program(Graph.parse("mean[h](v1)"), NCHW).code) == 2
    )  # nothing varies over height there


def test_tables_hold_eps_and_every_program():
    programs = [compile_program(Graph.parse(text), NCHW) for text in ("x", "x * 2.5 + 0.5")]
    code, constants, lengths = encode(programs, eps=1e-3)
    assert (code.dtype, lengths.tolist()) == (np.int32, [1, 5])
    assert constants.tolist() == [[1e-3, 0.0, 0.0], [1e-3, 2.5, 0.5]]
    assert [tuple(row) for row in code[1].tolist()] == list(programs[1].code)
    assert not code[0, 1:].any()


def interpret(tmp_path, *cases):
    pytest.importorskip("triton")
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-W", "ignore::RuntimeWarning", str(INTERPRETER), *cases]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_errors(found, tolerance):
    """Where cancellation makes the float32 result of the eager path inaccurate, the kernel may be as inaccurate."""
    assert found
    for error, eager, what in found:
        assert error <= max(tolerance, 4 * eager), what


def test_kernel_at_singular_points_and_on_known_layers(tmp_path):
    found = interpret(tmp_path, "zoo:0", "points:0", "own_inputs:6")
    check_errors(found["zoo"], 1e-6)
    check_errors(found["points"], 1e-5)
    check_errors(found["own_inputs"], 1e-13)


def test_kernel_on_other_spaces_dtypes_and_layouts(tmp_path):
    found = interpret(tmp_path, "more_primitives:20", "float64:20", "tokens:20", "registers:0")
    check_errors(found["more_primitives"], 1e-5)
    check_errors(found["float64"], 1e-12)
    check_errors(found["tokens"], 1e-5)
    check_errors(found["registers"], 1e-5)


@pytest.mark.slow
def test_kernel_on_random_layers_and_gradients(tmp_path):
    found = interpret(tmp_path, "random:200", "gradients:20")
    assert len(found["random"]) == 200
    check_errors(found["random"], 1e-5)
    check_errors(found["gradients"], 1e-12)


def shapes():
    yield make_tile((4, 4, 2, 3), 2, "nchw", 4), 4  # the fingerprint's probe
    yield make_tile((8, 8, 4, 4), 2, "nchw", 8), 8  # the stack's probe
    for size, limit in TILE_LIMIT.items():
        yield make_tile((limit // 32, 8, 2, 2), 2, "nchw", size), size
        yield make_tile((2, 1, 1, limit // 2), 1, "nchw", size), size
        yield make_tile((2, 16, limit // 32), 4, "btc", size), size


def check_compiled(tile, itemsize, registers):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("triton interprets kernels in this process")
    from evonas.kernels.vm_compile import compile_report

    report = compile_report(tile, itemsize, registers)
    assert report.spill_bytes == 0
    assert report.registers * 32 * tile.warps <= 65536
    assert report.instructions > 1000


def test_compiled_for_the_fingerprint_without_spills():
    check_compiled(make_tile((4, 4, 2, 3), 2, "nchw", 4), 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("registers", REGISTER_FILES)
def test_compiled_without_spills(registers):
    for tile, itemsize in shapes():
        check_compiled(tile, itemsize, registers)


def test_tiles():
    tile = make_tile((4, 6, 2, 3), 2, "nchw", 4)
    assert tile.sizes == (4, 2, 3, 6)
    assert tile.strides == (36, 18, 6, 1)
    assert tile.padded == (4, 2, 4, 8)
    assert make_tile((4, 5, 6), 2, "btc", 4).strides == (30, 3, 1, 6)
    assert make_tile((64, 32, 1, 1), 2, "nchw", 4).warps == 16
    for shape, groups, layout, match in (
        ((4, 6, 2), 2, "nchw", "is not"),
        ((0, 6, 2, 2), 2, "nchw", "is not"),
        ((4, 6, 2, 2), 4, "nchw", "do not split into 4 groups"),
        ((4, 6, 2, 2), 0, "nchw", "do not split"),
        ((9, 17, 9), 1, "btc", "takes a tile of 8192 elements, at most 2048 fit"),
        ((4, 6, 2, 2), 2, "nhwc", "unknown layout"),
    ):
        with pytest.raises(UsageError, match=match):
            make_tile(shape, groups, layout, 4)


def test_arguments_that_do_not_fit():
    graph, v = Graph.parse("x / std[w,h](x)"), torch.ones(4)
    x = torch.ones(2, 4, 2, 2)
    for given_, match in (
        ({"x": x.half()}, "the probe is torch.float16, the machine computes in float32 or float64"),
        ({"x": x.double()}, "v0 is torch.float32"),
        ({"v1": torch.ones(5)}, r"v1 is torch.float32 \(5,\)"),
        ({"x": torch.ones(3, 2, 4, 2, 2)}, r"needed is torch.float32 \(2, 4, 2, 2\) or \(1, 2, 4, 2, 2\)"),
        ({"x": torch.ones(64, 4, 4, 4)}, "at most 2048 fit"),
        ({"g": torch.ones(2, 4, 2, 3)}, "g is"),
    ):
        with pytest.raises(UsageError, match=match):
            evaluate_batch([graph], **({"x": x, "v0": v, "v1": v} | given_), groups=2)
    with pytest.raises(UsageError, match="reads the adjoint g"):
        evaluate_batch([differentiate(graph)["x"]], x, v, v, groups=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the kernel can run here")
def test_without_cuda_and_interpreter():
    x, v = torch.ones(2, 4, 2, 2), torch.ones(4)
    with pytest.raises(EnvironmentUnusable) as caught:
        evaluate_batch([Graph.parse("x")], x, v, v, groups=2)
    assert "TRITON_INTERPRET=1" in str(caught.value) or "pip install triton" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_cuda(dtype):
    space = search_spaces.get("norm_act")
    layers = [space.decode(space.random(Draws("cuda", i))).active() for i in range(200)]
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(8, 2, 4, 4, 4)), "v0": rng.normal(size=8), "v1": rng.normal(size=8)}
    tensors = {name: torch.from_numpy(a).to("cuda", dtype) for name, a in arrays.items()}
    tensors["x"] = tensors["x"].reshape(8, 8, 4, 4)
    values, unexpressible = evaluate_batch(layers, **tensors, groups=2)
    assert not unexpressible
    vector = (1, 2, 4, 1, 1)
    exact = {
        k: t.double().cpu().numpy().reshape(vector if t.ndim == 1 else arrays["x"].shape)
        for k, t in tensors.items()
    }
    with np.errstate(all="ignore"):
        for graph, value in zip(layers, values.double().cpu().numpy(), strict=True):
            want = forward(graph, exact, ArrayOps(primitives.numpy_namespace, NCHW))[graph.output]
            want = np.broadcast_to(want, arrays["x"].shape).reshape(value.shape)
            fits = np.abs(want) < (1e30 if dtype == torch.float32 else 1e300)
            size = np.abs(want[fits]).max(initial=1e-3)
            assert np.abs(value - want)[fits].max(initial=0.0) <= 1e-4 * size, graph
