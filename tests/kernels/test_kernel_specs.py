"""Specs of a plan's launches: a launch finds what was compiled from them; what executed instructions are counted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from evonas.kernels.kernel_specs import kernel_specs, layer_source, layer_specs, limits_on, live_elements
from evonas.kernels.lowering import plans
from evonas.kernels.offline import CompileReport, compile_spec
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import MACHINES, PassCost, executed_per_element, floor, pass_cost, tile_passes
from evonas.kernels.runtime import limits_for
from evonas.kernels.sass import Counts, KernelCounts
from evonas.kernels.tiling import LIMITS
from evonas.kernels.traffic import traffic

from evonas.errors import UsageError
from evonas.layers.zoo import ZOO

NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
S0 = LayerSpec(ZOO["evonorm_s0"].formula)

_LAUNCHES = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from evonas.kernels.kernel_specs import DTYPES, layer_specs, layer_source, limits_on, maths_on
from evonas.kernels.lowering import plans
from evonas.kernels.offline import compile_here
from evonas.kernels.plan import launch_options
from evonas.kernels.pool import use_cache
from evonas.kernels.programs import LayerSpec
from evonas.kernels.runtime import Executable
from evonas.kernels.spec import TARGETS
from evonas.kernels.traffic import TENSORS
from pathlib import Path

class Device:  # what a launch asks the driver before it looks for its kernel
    def __init__(self, target): self.target = target
    def get_current_target(self): return self.target
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

folder, name, dtype = sys.argv[1:]
use_cache(folder + "/cache")
target = TARGETS[name]
driver.set_active(Device(GPUTarget(target.backend, target.arch, target.warp_size)))
layers = [
    (LayerSpec("x * sigmoid(v1 * x) / std[w,h,c/g](x)"), (4, 32, 8, 8), 8),
    (LayerSpec("max((x - mean[b,w,h](x)) / std[b,w,h](x), 0)"), (128, 8, 33, 31), 8),
    (LayerSpec("x / rms[c](x)", "btc", residual=True), (3, 5, 100), 4),
    (LayerSpec("(x - mean[b,w,h](x)) / std[b,w,h](x)", "nchw", "channels_last", training=False), (1, 7, 3, 5), 1),
]
found = []
for spec, shape, groups in layers:
    for one in layer_specs(spec, shape, groups, dtype=dtype, target=name, folder=Path(folder)):
        executable = Executable(one.plan, f"{spec.formula}, {one.which}.", maths_on(spec, dtype, name))
        made = {
            n: torch.empty(b.shape, dtype=torch.int32 if b.integer else torch.float32)
            for n, b in one.plan.buffers.items()
        }
        for launch, function, compiled in zip(one.plan.launches, executable._functions, one.specs):
            report = compile_here(compiled, name, sass=False)
            tensors = [made.get(t) for t in launch.tensors]
            for n, t in enumerate(launch.tensors):
                if tensors[n] is None:
                    tensors[n] = torch.empty(64, dtype=getattr(torch, DTYPES[dtype]) if t in TENSORS else torch.float32)
            launched = function.run(
                *tensors, *launch.numbers.values(), *launch.blocks.values(),
                grid=(launch.programs,), warmup=True, num_warps=launch.warps, num_stages=launch.stages,
                **launch_options(launch),
            )
            found.append([spec.formula, one.which, launch.kernel.name, report.hash == launched.hash])
print(json.dumps(found))
"""


@NEEDS_TRITON
@pytest.mark.parametrize(
    ("target", "dtype"), [("sm_90", "bf16"), pytest.param("sm_80", "fp32", marks=pytest.mark.slow)]
)
def test_a_launch_finds_what_was_compiled(tmp_path: Path, target: str, dtype: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHES, str(tmp_path), target, dtype],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 8  # the batch norm has more than a kernel per pass
    assert [one for one in found if not one[-1]] == []


def test_types_of_the_arguments(tmp_path: Path) -> None:
    spec = LayerSpec("x / rms[c](x)", "btc", residual=True)
    forward, backward = layer_specs(spec, (4, 8, 64), 1, dtype="fp16", target="sm_90", folder=tmp_path)
    types = dict(forward.specs[0].signature)
    assert {types[f"{n}_ptr"] for n in ("x", "residual", "y", "sum")} == {"*fp16"}
    assert {types[f"{n}_ptr"] for n in ("weight", "bias", "saved0")} == {"*fp32"}
    types = dict(backward.specs[0].signature)
    assert {types[f"{n}_ptr"] for n in ("x", "dy", "dsum", "dx")} == {"*fp16"}
    assert types["partial_ptr"] == "*fp32"
    vectors = kernel_specs(forward.plan, "fp16", forward.specs[0].path, vectors="fp16")
    assert dict(vectors[0].signature)["weight_ptr"] == "*fp16"
    for one in (forward, backward):
        for made in one.specs:
            assert {n for n, kind in made.signature if kind.startswith("*")} <= set(made.aligned)


def test_the_file_is_what_the_runtime_loads(tmp_path: Path) -> None:
    forward, _ = layer_specs(S0, (4, 32, 8, 8), 8, dtype="bf16", target="sm_90", folder=tmp_path)
    both = plans(S0, (4, 32, 8, 8), 8, limits_on("sm_90"))
    assert Path(forward.specs[0].path).read_text() == layer_source(S0, both.forward, False, "half")
    other, _ = layer_specs(S0, (4, 32, 8, 8), 8, dtype="fp32", target="sm_90", folder=tmp_path)
    assert "tanh.approx" in Path(forward.specs[0].path).read_text()
    assert "tanh.approx" not in Path(other.specs[0].path).read_text()


def test_widths_of_a_class_have_one_key(tmp_path: Path) -> None:
    """One compiled kernel serves them: blocks of 4096, sizes that are arguments and no multiples of 16."""

    def keys(channels: int, dtype: str = "bf16", target: str = "sm_90") -> list[str]:
        spec = LayerSpec("(x - mean[c](x)) / std[c](x)", "btc")
        passes = layer_specs(spec, (8, 2048, channels), 1, dtype=dtype, target=target, folder=tmp_path)
        return [made.key(target) for one in passes for made in one.specs]

    held = keys(3000)
    assert keys(3080) == held
    assert len(set(held)) == len(held) == 2
    others = (
        keys(3008),  # a multiple of 16: other loads
        keys(1500),  # other blocks
        keys(3000, dtype="fp32"),
        keys(3000, target="sm_80"),
    )
    for other in others:
        assert not set(other) & set(held)


def test_one_variable_allows_cooperative_kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVONAS_KERNEL_COOPERATIVE", raising=False)
    assert limits_on("sm_90") == LIMITS
    monkeypatch.setenv("EVONAS_KERNEL_COOPERATIVE", "1")
    assert all(limits_on(target).cooperative for target in ("sm_80", "gfx942"))
    monkeypatch.setattr("evonas.kernels.runtime._processors", lambda index: 132)
    assert limits_for(torch.device("cuda", 0)) == limits_on("sm_90")


@NEEDS_TRITON
def test_a_merge_is_compiled_once_for_all_layers(tmp_path: Path) -> None:
    first, second = (
        layer_specs(LayerSpec(formula), (128, 16, 32, 32), 16, target="sm_90", folder=tmp_path)[0].specs[1]
        for formula in (ZOO["bn_relu"].formula, "tanh((x - mean[b,w,h](x)) / std[b,w,h](x))")
    )
    assert first.path != second.path
    compiled = [
        compile_spec(one, "sm_90", cache_dir=tmp_path / "cache", sass=False) for one in (first, second)
    ]
    assert [one.cached for one in compiled] == [False, True]


@pytest.mark.parametrize(("dtype", "target"), [("int8", "sm_90"), ("bf16", "sm_99")])
def test_unknown_names(tmp_path: Path, dtype: str, target: str) -> None:
    with pytest.raises(UsageError, match=r"unknown (dtype|target)"):
        layer_specs(S0, (4, 32, 8, 8), 8, dtype=dtype, target=target, folder=tmp_path)


# what is executed


def report(counts: KernelCounts | None, warps: int) -> CompileReport:
    given: dict[str, Any] = {
        "registers": 40,
        "stack_bytes": 8,
        "local_bytes": 0,
        "shared_bytes": 64,
        "elements": 0,
    }
    given |= {
        "cpu_seconds": 0.5,
        "wall_seconds": 0.6,
        "cached": False,
        "hash": "",
        "binary": "",
        "metadata": "",
    }
    return CompileReport("", "f", "sm_90", num_warps=warps, counts=counts, **given)


def test_instructions_are_counted_as_often_as_they_are_executed() -> None:
    """Ten outside of loops once per program, a hundred in the loop once per tile."""
    _, backward = plans(S0, (64, 32, 16, 16), 8).forward, plans(S0, (64, 32, 16, 16), 8).backward
    (launch,) = backward.launches
    assert launch.tiling is not None
    assert launch.tiling.loop == "b"
    assert tile_passes(launch) == launch.tiling.steps
    wide = Counts(instructions=100, mufu=8, loads={128: 2})
    counts = KernelCounts(wide, Counts(instructions=10, mufu=1), (wide,), 1.0, 0)
    made = report(counts, launch.warps)
    elements = 64 * 32 * 16 * 16
    threads = launch.programs * launch.warps * 32
    instructions, mufu = executed_per_element(backward, launch, made)
    assert instructions == pytest.approx((10 + launch.tiling.steps * 100) * threads / elements)
    assert mufu == pytest.approx((1 + launch.tiling.steps * 8) * threads / elements)
    cost = pass_cost(backward, [made])
    assert (cost.registers, cost.spill_bytes, cost.wide_loads) == (40, 8, True)
    assert pass_cost(backward, [report(None, launch.warps)]).wide_loads is None


def test_elements_of_a_tile_are_those_that_exist() -> None:
    (launch,) = plans(LayerSpec("x / rms[c](x)", "btc"), (3, 5, 100), 1).forward.launches
    assert launch.tiling is not None
    rows = launch.tiling.tile_elements // 128  # blocks of 128 for the 100 channels
    assert live_elements(launch) == 100 * min(rows, 15)


def test_the_largest_floor_counts() -> None:
    plan = plans(S0, (128, 256, 32, 32), 32).forward
    h200, elements = MACHINES["H200"], 128 * 256 * 32 * 32
    free = floor(plan, 2, None, h200)
    assert free.limit == "bandwidth"
    assert free.seconds == pytest.approx(traffic(plan, 2).unique / 4.3e12)
    assert free.seconds == pytest.approx(31.2e-6, rel=0.01)

    def cost(instructions: float, mufu: float) -> PassCost:
        return PassCost(instructions, mufu, 40, 0, 0, True, 0.0, 1)

    slow = floor(plan, 2, cost(60, 1), h200)
    assert slow.limit == "issue"
    assert slow.seconds == pytest.approx(60 * elements / (132 * 128 * 1.755e9))
    special = floor(plan, 2, cost(20, 12), h200)
    assert special.limit == "special"
    assert special.seconds == pytest.approx(12 * elements / (132 * 16 * 1.755e9))
