"""The latency model: what it counts, what it falls back to, and what it costs to import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from evonas.kernels.latency import DEVICES, instructions, measured_latency, model_name, modelled_latency
from evonas.kernels.lowering import passes
from evonas.kernels.programs import LayerSpec

from evonas import primitives
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.graph import Graph
from evonas.graph.cost import cost

SHAPE = (128, 256, 32, 32)
TENSOR = 2 * 128 * 256 * 32 * 32


def model(formula: str, **options: object) -> float:
    return modelled_latency(Graph.parse(formula), **{"shapes": [SHAPE], **options})  # type: ignore[arg-type]


def test_a_memory_bound_layer_takes_its_bytes_and_its_launches() -> None:
    """ReLU moves x and y, then x, dy and dx; vector gradients of the affine are summed by a second small kernel."""
    device = DEVICES["h200"]
    floor = 5 * TENSOR / device.copy
    assert 1e6 * (floor + 2 * device.launch) <= model("max(x, 0)") <= 1e6 * (1.01 * floor + 4 * device.launch)


def test_instructions_bound_a_layer_with_much_arithmetic() -> None:
    many = "sigmoid(erf(x) * erf(sigmoid(x)) * erf(erf(x)))"
    moved = 5 * TENSOR / DEVICES["h200"].copy
    assert model(many) > 1.3e6 * moved
    spec = passes(LayerSpec(many), True)
    assert instructions(spec.forward) > 3 * 28  # erf(x) is shared


def test_statistics_over_the_batch_cost_more_than_none() -> None:
    batch, none = model("max((x - mean[b,w,h](x)) / std[b,w,h](x), v0)"), model("max(x, v0)")
    assert batch > 1.2 * none


@pytest.mark.parametrize(
    ("layout", "formula"), [("nchw", "x * sigmoid(v1 * x) / std[w,h,c/g](x)"), ("btc", "x / rms[c](x)")]
)
def test_reference_shapes_are_the_default_and_add_up(layout: str, formula: str) -> None:
    from evonas.kernels.latency import REFERENCE_SHAPES

    graph = Graph.parse(formula)
    single = [modelled_latency(graph, layout=layout, shapes=[s]) for s in REFERENCE_SHAPES[layout]]
    assert modelled_latency(graph, layout=layout) == pytest.approx(sum(single))
    assert modelled_latency(graph, layout=layout, device="h100") > modelled_latency(graph, layout=layout)


def test_without_a_lowering_the_separate_operations_are_modelled() -> None:
    name = "acme_same"
    primitives.primitive(name, check=False, source="a test", gradient=lambda ops, g, y, a: (g,))(
        lambda xp, a: a
    )
    try:
        graph = Graph.parse(f"{name}(x)")
        device = DEVICES["h200"]
        moved = cost(graph, SHAPE, itemsize=2).bytes_eager
        expected = 3e6 * (moved / device.copy + 3 * device.launch)
        assert model(f"{name}(x)") == pytest.approx(expected)
        assert model(f"{name}(x)") > model("max(x, 0)")
    finally:
        primitives.unregister(name)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="h2000") as caught:
        model("max(x, 0)", device="h2000")
    assert "h200" in str(caught.value.hint)
    assert "not measured" in model_name("h200")


def test_the_same_value_in_every_process_and_without_torch() -> None:
    code = (
        "import sys\nfrom evonas.graph import Graph\nfrom evonas.kernels.latency import modelled_latency\n"
        "for f in ('tanh(mean[b,w,h](x * v1)) * x / std[w,h,c](x)', 'x - mean[w,h](abs(x)) / std[b,w,h](x)'):\n"
        "    print(modelled_latency(Graph.parse(f)).hex())\n"
        "assert not {'torch', 'triton'} & set(sys.modules)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert outputs.pop().count("\n") == 2


def test_nothing_is_measured_without_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EnvironmentUnusable, match="sees no GPU"):
        measured_latency(lambda channels: torch.nn.Identity())
