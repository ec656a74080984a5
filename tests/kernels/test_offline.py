"""Compiling without a device: what the reports say, and that a launch finds what was compiled."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from evonas.kernels.offline import CompileFailed, CompileReport, compile_spec
from evonas.kernels.sass import count, parse_amdgcn, parse_sass
from evonas.kernels.spec import KernelSpec, parse_target, spec_from_call

from evonas.errors import EnvironmentUnusable, UsageError

AVAILABLE = importlib.util.find_spec("triton") is not None
pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs triton")

VERSION = tuple(int(part) for part in metadata.version("triton").split(".")[:2]) if AVAILABLE else (0, 0)
NEEDS_ROCM = pytest.mark.skipif(VERSION < (3, 5), reason="Triton 3.4 takes its linker for AMD from ROCm")

SOURCES = str(Path(__file__).with_name("offline_sources.py"))
LAYER_NORM = KernelSpec(
    SOURCES,
    "layer_norm",
    (
        ("x_ptr", "*bf16"),
        ("w_ptr", "*bf16"),
        ("b_ptr", "*bf16"),
        ("y_ptr", "*bf16"),
        ("rows", "i32"),
        ("cols", "i32"),
        ("eps", "fp32"),
        ("BLOCK", "constexpr"),
    ),
    (("BLOCK", 1024),),
    ("x_ptr", "w_ptr", "b_ptr", "y_ptr", "rows", "cols"),
    elements=1024,
)
POINTWISE = (("x_ptr", "*bf16"), ("y_ptr", "*bf16"), ("n", "i32"), ("BLOCK", "constexpr"))
SWISH = KernelSpec(SOURCES, "swish", POINTWISE, (("BLOCK", 1024),), ("x_ptr", "y_ptr", "n"), elements=1024)
EXACT = (("x_ptr", "*fp32"), ("y_ptr", "*fp32"), ("n", "i32"), ("BLOCK", "constexpr"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_layer_norm_for_nvidia(target: str, cache: Path) -> None:
    report = compile_spec(LAYER_NORM, target, cache_dir=cache)
    assert 16 <= report.registers <= 64
    assert report.spill_bytes == 0
    assert 0 < report.shared_bytes <= 1024
    assert not report.cached
    assert report.cpu_seconds > 0
    assert report.counts is not None
    # A row of 1024 over 128 threads is 8 numbers of 2 bytes each: one load per operand.
    assert report.counts.total.loads == {128: 3}
    assert report.counts.total.stores == {128: 1}
    assert report.counts.loops == ()
    assert report.counts.total.barriers >= 2
    assert 10 < report.per_element()["instructions"] < 40
    assert Path(report.binary).read_bytes()[:4] == b"\x7fELF"
    assert json.loads(Path(report.metadata).read_text())["name"] == "layer_norm"


@NEEDS_ROCM
@pytest.mark.parametrize("target", ["gfx942", "gfx90a"])
def test_layer_norm_for_amd(target: str, cache: Path) -> None:
    report = compile_spec(LAYER_NORM, target, cache_dir=cache)
    assert report.registers > 8
    assert report.spill_bytes == 0
    assert report.counts is not None
    assert report.counts.total.loads == {64: 3}  # 256 threads, 4 numbers each
    assert report.counts.total.mufu >= 1
    assert Path(report.binary).read_bytes()[:4] == b"\x7fELF"


def test_layer_norm_for_blackwell(cache: Path) -> None:
    report = compile_spec(LAYER_NORM, "sm_100", cache_dir=cache)
    assert report.registers > 8
    assert report.counts is not None
    assert report.counts.total.loads == {128: 3}


def test_without_alignment_there_are_no_wide_loads(cache: Path) -> None:
    report = compile_spec(replace(LAYER_NORM, aligned=()), "sm_90", cache_dir=cache)
    assert report.counts is not None
    assert 128 not in report.counts.total.loads
    assert report.counts.total.loads[16] >= 8
    assert report.key != compile_spec(LAYER_NORM, "sm_90", cache_dir=cache).key


def test_what_does_not_fit_into_registers_is_reported(cache: Path) -> None:
    crowded = replace(LAYER_NORM, constants=(("BLOCK", 8192),), options=(("maxnreg", 32),), elements=8192)
    report = compile_spec(crowded, "sm_90", cache_dir=cache, sass=False)
    assert report.registers <= 32
    assert report.spill_bytes > 0
    assert report.counts is None
    assert report.per_element() == {}


@NEEDS_ROCM
def test_spills_of_amd_are_reported(cache: Path) -> None:
    crowded = replace(LAYER_NORM, constants=(("BLOCK", 8192),), num_warps=1, options=(("waves_per_eu", 8),))
    report = compile_spec(crowded, "gfx90a", cache_dir=cache, sass=False)
    assert report.spill_bytes > 0


def test_a_loop_counts_by_its_body(cache: Path) -> None:
    looping = KernelSpec(
        SOURCES,
        "rows_of_swish",
        (("x_ptr", "*bf16"), ("y_ptr", "*bf16"), ("rows", "i32"), ("cols", "i32"), ("BLOCK", "constexpr")),
        (("BLOCK", 1024),),
        ("x_ptr", "y_ptr", "cols"),
        elements=1024,
    )
    report = compile_spec(looping, "sm_90", cache_dir=cache)
    counts = report.counts
    assert counts is not None
    (loop,) = counts.loops
    assert (loop.loads, loop.stores, loop.mufu) == ({128: 1}, {128: 1}, 16)
    assert counts.straight.stores == {128: 1}
    assert counts.total.instructions == loop.instructions + counts.straight.instructions
    assert counts.unroll == 1.0
    per_element = report.per_element()
    assert per_element["mufu"] == 2.0  # an exponential and a reciprocal
    assert per_element["instructions"] == loop.instructions * 128 / 1024
    assert CompileReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_a_loop_that_was_unrolled_counts_for_its_passes(cache: Path) -> None:
    short = KernelSpec(SOURCES, "add_one", EXACT, (("BLOCK", 512),), ("x_ptr", "y_ptr"), elements=512)
    report = compile_spec(short, "sm_90", cache_dir=cache)
    assert report.counts is not None
    (loop,) = report.counts.loops
    assert report.counts.unroll == loop.loads[128] == loop.stores[128] > 1
    # 4 additions, a load, a store and what a loop needs, for 4 elements per thread.
    assert 1.5 <= report.per_element()["instructions"] <= 4


def test_subroutines_stand_apart(cache: Path) -> None:
    exact = KernelSpec(SOURCES, "reciprocal", EXACT, (("BLOCK", 512),), ("x_ptr", "y_ptr"), elements=512)
    counts = compile_spec(exact, "sm_90", cache_dir=cache).counts
    assert counts is not None
    assert counts.subroutines > 50
    assert counts.total.mufu == 4


def test_code_out_of_line_is_no_loop() -> None:
    # The second block stands behind the end of the program, and jumps back into it.
    text = "\ts_cbranch_vccz .L1\n.L0:\n\tv_exp_f32 v0, v1\n\ts_endpgm\n.L1:\n\tv_mov_b32 v0, 0\n\ts_branch .L0\n"
    counts = count(parse_amdgcn(text))
    assert counts.loops == ()
    assert counts.total.instructions == 5
    around = "\tv_mov_b32 v0, 0\n.L0:\n\tv_exp_f32 v0, v1\n\ts_nop 0\n\ts_cbranch_scc1 .L0\n\ts_endpgm\n"
    (loop,) = count(parse_amdgcn(around)).loops
    assert (loop.instructions, loop.mufu) == (2, 1)


def test_widths_of_sass() -> None:
    lines = [
        "LDG.E.128 R4, desc[UR6][R2.64]",
        "@!P0 LDG.E.U16.CONSTANT R1, desc[UR6][R2.64]",
        "LDG.E R1, [R2]",
    ]
    lines += [
        "LDGSTS.E.BYPASS.64 [R1], [R2]",
        "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24",
        "FSEL R1, R2, R3, P0",
    ]
    lines += ["BAR.SYNC.DEFER_BLOCKING 0x0", "STG.E.64 desc[UR6][R2.64], R4", "EXIT", "BRA 0x90", "NOP"]
    text = "\t\tFunction : f\n" + "".join(f"        /*{16 * i:04x}*/  {s} ;\n" for i, s in enumerate(lines))
    counts = count(parse_sass(text)["f"])
    assert counts.total.loads == {16: 1, 32: 1, 64: 1, 128: 1}
    assert counts.total.load_bytes == 30
    assert counts.total.stores == {64: 1}
    assert (counts.total.hgmma, counts.total.mma, counts.total.fsel, counts.total.barriers) == (1, 1, 1, 1)
    assert counts.total.instructions == 9
    assert counts.loops == ()


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"sm_91.*gfx90a, gfx942, sm_100, sm_80, sm_90") as caught:
        compile_spec(SWISH, "sm_91")
    assert caught.value.hint is not None
    assert "sm_90" in caught.value.hint
    assert parse_target("gfx942").warp_size == 64


def test_errors_say_where_they_come_from(cache: Path, tmp_path: Path) -> None:
    wrong = KernelSpec(SOURCES, "wrong", (("x_ptr", "*fp32"), ("BLOCK", "constexpr")), (("BLOCK", 64),))
    with pytest.raises(CompileFailed, match="power of 2") as caught:
        compile_spec(wrong, "sm_90", cache_dir=cache)
    assert caught.value.failure.kind == "compile"
    torn = tmp_path / "torn.py"
    torn.write_text("def kernel(\n")
    with pytest.raises(CompileFailed, match="SyntaxError") as caught:
        compile_spec(replace(SWISH, path=str(torn)), "sm_90", cache_dir=cache)
    assert caught.value.failure.kind == "source"
    for spec, said in (
        (replace(SWISH, function="swoosh"), "swoosh"),
        (replace(SWISH, signature=(*POINTWISE, ("m", "i32"))), "the signature has"),
        (replace(SWISH, path=str(tmp_path / "nothing.py")), "FileNotFoundError"),
    ):
        with pytest.raises(CompileFailed, match=said):
            compile_spec(spec, "sm_90", cache_dir=cache)


def test_a_file_that_is_written_again_is_read_again(cache: Path, tmp_path: Path) -> None:
    head = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
    body = "def one(x_ptr, BLOCK: tl.constexpr):\n    tl.store(x_ptr + tl.arange(0, BLOCK), {}.0)\n"
    spec = KernelSpec(
        str(tmp_path / "one.py"), "one", (("x_ptr", "*fp32"), ("BLOCK", "constexpr")), (("BLOCK", 32),)
    )
    reports = []
    for number in (1, 2, 1):
        Path(spec.path).write_text(head + body.format(number))
        reports.append(compile_spec(spec, "sm_90", cache_dir=cache, sass=False))
    assert reports[0].hash != reports[1].hash
    assert [report.cached for report in reports] == [False, False, True]
    assert reports[0].key == reports[2].key != reports[1].key


def test_specs_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="BLOCK"):
        replace(SWISH, constants=())
    with pytest.raises(UsageError, match="bf17"):
        replace(SWISH, signature=(("x_ptr", "*bf17"), *POINTWISE[1:]))
    with pytest.raises(UsageError, match="aligned"):
        replace(SWISH, aligned=("z_ptr",))
    with pytest.raises(UsageError, match="power of two"):
        replace(SWISH, num_warps=6)
    with pytest.raises(UsageError, match="cannot take"):
        spec_from_call(SOURCES, "swish", {"x_ptr": "text"})
    assert KernelSpec.from_dict(json.loads(json.dumps(LAYER_NORM.as_dict()))) == LAYER_NORM


def test_this_process_stays_without_triton(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from evonas.kernels.offline import compile_spec\n"
        "from evonas.kernels.spec import KernelSpec\n"
        "from evonas.kernels import pool\n"
        f"spec = KernelSpec({SOURCES!r}, 'swish', {POINTWISE!r}, (('BLOCK', 1024),))\n"
        f"print(compile_spec(spec, 'sm_90', cache_dir={str(tmp_path)!r}, sass=False).registers)\n"
        "print('triton' in sys.modules, 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    registers, imported = done.stdout.splitlines()
    assert int(registers) > 0
    assert imported == "False False"


def test_a_process_that_interprets_cannot_compile(tmp_path: Path) -> None:
    script = (
        "from evonas.kernels.offline import compile_here\n"
        "from evonas.kernels.spec import KernelSpec\n"
        f"compile_here(KernelSpec({SOURCES!r}, 'swish', {POINTWISE!r}, (('BLOCK', 1024),)), 'sm_90')\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert EnvironmentUnusable.__name__ in done.stderr
    assert "unset TRITON_INTERPRET" in done.stderr


_LAUNCHES = """
import json, pathlib, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from evonas.kernels.offline import compile_here
from evonas.kernels.pool import use_cache
from evonas.kernels.spec import TARGETS, spec_from_call

class Device:  # what a launch asks the driver before it looks for its kernel
    def __init__(self, target): self.target = target
    def get_current_target(self): return self.target
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

path, cache, name = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(path).parent))
import offline_sources
use_cache(cache)
x, y = torch.zeros(4096, dtype=torch.bfloat16), torch.zeros(4096, dtype=torch.bfloat16)
f = torch.zeros(4096)
everything = dict(x_ptr=f, y_ptr=f[1:], none_ptr=None, rows=64, stride=1, odd=7, big=2**40, seed=32, scale=0.5,
                  flag=True, eps=1e-5, BLOCK=64)
calls = [
    ("layer_norm", dict(x_ptr=x, w_ptr=x, b_ptr=y, y_ptr=y, rows=4, cols=1024, eps=1e-5, BLOCK=1024), {}),
    ("swish", dict(x_ptr=x, y_ptr=y, n=4096, BLOCK=1024), dict(num_warps=8)),
    ("swish", dict(x_ptr=x[1:], y_ptr=y, n=4095, BLOCK=1024), dict(num_stages=1)),
    ("everything", everything, dict(options={"maxnreg": 64} if name == "sm_90" else {"waves_per_eu": 2})),
    ("everything", {**everything, "none_ptr": f, "stride": 3, "flag": False}, {}),
]
found = []
target = TARGETS[name]
driver.set_active(Device(GPUTarget(target.backend, target.arch, target.warp_size)))
for function, arguments, how in calls:
    spec = spec_from_call(path, function, arguments, ["BLOCK"], **how)
    report = compile_here(spec, name, sass=False)
    hits = []
    triton.knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
    launched = getattr(offline_sources, function).run(**arguments, grid=(1,), warmup=True, **spec.launch_options())
    triton.knobs.compilation.listener = None
    found.append([function, report.cached, report.hash == launched.hash, hits])
print(json.dumps(found))
"""


@pytest.mark.parametrize("target", ["sm_90", pytest.param("gfx942", marks=NEEDS_ROCM)])
def test_a_launch_finds_what_was_compiled(target: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHES, SOURCES, str(tmp_path / "cache"), target],
        env=environment, cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 5
    for function, cached, same, hits in found:
        assert (cached, same, hits) == (False, True, [True]), function
    assert list((tmp_path / "cache").glob("*/everything.json"))
