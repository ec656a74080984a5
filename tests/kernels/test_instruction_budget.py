"""Kernels as compiled for an H100 or H200 stay within what the bandwidth leaves time for. Needs no device."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from evonas.kernels.kernel_specs import layer_specs
from evonas.kernels.lowering import plans
from evonas.kernels.offline import compile_spec
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import MACHINES, PassCost, floor, pass_cost

from evonas.layers.zoo import ZOO

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")

IMAGES, TOKENS = ("nchw", (128, 256, 32, 32)), ("btc", (1, 16384, 4096))
#: Thread instructions per element of x in bfloat16, forward and backward, and spilled bytes per thread. What the
#: bandwidth leaves time for is in benchmarks/kernel_budget.py, ``walls``.
LAYERS = {
    "layer_norm": ("(x - mean[c](x)) / std[c](x)", TOKENS, (16, 30), 0),
    "evonorm_s0": (ZOO["evonorm_s0"].formula, IMAGES, (24, 50), 0),
    "gn_silu": (ZOO["gn_silu"].formula, IMAGES, (23, 44), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_executed_instructions(name: str, tmp_path: Path) -> None:
    formula, (layout, shape), budget, spill = LAYERS[name]
    passes = layer_specs(LayerSpec(formula, layout), shape, 32, dtype="bf16", target="sm_90", folder=tmp_path)
    for one, most in zip(passes, budget, strict=True):
        reports = [compile_spec(made, "sm_90", cache_dir=tmp_path / "cache") for made in one.specs]
        cost = pass_cost(one.plan, reports)
        assert cost.kernels == 1
        assert 8 < cost.instructions <= most, f"{name} {one.which}: {cost}"
        assert cost.mufu <= 2, f"{name} {one.which}: {cost}"
        assert cost.spill_bytes <= spill, f"{name} {one.which}: {cost}"
        assert cost.wide_loads


def test_what_the_bandwidth_leaves_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the wall, moving the tensors once takes as long as the instructions do."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from kernel_budget import SWEEPS, walls

    found = walls(SWEEPS["sm_90"])
    assert found is not None
    both = plans(LayerSpec(LAYERS["gn_silu"][0]), IMAGES[1], 32)
    for plan, one in ((both.forward, found["forward"]), (both.backward, found["backward"])):
        cost = PassCost(one["instructions"], one["mufu"], 40, 0, 0, True, 0.0, 1)
        least = floor(plan, 2, cost, MACHINES["H200"])
        assert least.issue == pytest.approx(least.bandwidth, rel=0.01)
        assert least.special == pytest.approx(least.bandwidth, rel=0.01)
    assert walls(SWEEPS["fp32"])["forward"]["instructions"] == 2 * found["forward"]["instructions"]  # type: ignore[index]
    assert walls(SWEEPS["gfx942"]) is None


#: Random layers whose backward kernels hold more tensors at once than 1024 threads have registers for.
HEAVY = (
    "exp(tanh(x)) * std[w,h,c/g](x) / (x - v0)",
    "max(std[w,h,c/g](sigmoid(mean[w,h](v1 / x / 0) * (v1 / x))), v1 / x / 0)",
)
#: Kernels with sweeps, of which the assembler spilled a few bytes to save registers.
SWEPT = ("tanh((rms[w,h,c](x) + rms[w,h](v0)) / exp(x))",)


@pytest.mark.parametrize("formula", [*HEAVY, *SWEPT])
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_heavy_layers_do_not_spill(formula: str, target: str, tmp_path: Path) -> None:
    _, backward = layer_specs(LayerSpec(formula), IMAGES[1], 32, target=target, folder=tmp_path)
    text = Path(backward.specs[-1].path).read_text(encoding="utf-8")
    assert ("afresh(" in text) == (formula in HEAVY)
    assert ("maxnreg" in dict(backward.specs[-1].options)) == (formula in SWEPT)
    reports = [
        compile_spec(spec, target, cache_dir=tmp_path / "cache", sass=False) for spec in backward.specs
    ]
    assert [report.spill_bytes for report in reports] == [0] * len(reports)
