"""Counting Inductor's bytes without a GPU: exact where it can be worked out by hand, and the committed file."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import evonas
from evonas.errors import FormulaError, UsageError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOKENS = (16, 1024, 1024)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inductor_traffic

    return inductor_traffic


def test_the_committed_file_holds_the_cases_of_today(counting: ModuleType) -> None:
    rows = json.loads(counting.RESULTS.read_text(encoding="utf-8"))["cases"]
    fields = ("name", "spelling", "formula", "layout", "shape", "dtype", "groups")
    held = [tuple(row[name] for name in fields) for row in rows]
    cases = [*counting.known_cases(), *counting.random_cases()]
    assert held == [(*case[:4], list(case.shape), *case[5:]) for case in cases]


def test_results_are_found_by_formula_and_shape(counting: ModuleType) -> None:
    found = counting.load_results()
    for name in ("evonorm_s0", "evonorm_b0", "bn_relu", "gn_silu"):
        traffic = found[evonas.layer(name).formula, "nchw", (128, 256, 32, 32), "bfloat16"]
        assert traffic.x_bytes == 2 * 128 * 256 * 32 * 32
        # nobody can read x and write y with less, and the gradient needs x and dy and writes dx
        assert traffic.forward_units >= 2
        assert traffic.backward_units >= 3
    assert len(found) >= 20


@pytest.mark.slow
def test_an_element_wise_layer_is_one_kernel_and_its_bytes_are_known(counting: ModuleType) -> None:
    shape = (8, 64, 16, 16)
    traffic = counting.graph_traffic("max(x, 0)", "nchw", shape)
    x, vectors = 2 * 8 * 64 * 16 * 16, 2 * 4 * 64  # weight and bias are float32
    assert (traffic.x_bytes, traffic.forward_kernels, traffic.workspace_bytes) == (x, 1, 0)
    assert traffic.forward_bytes == 2 * x + vectors
    # at least x, dy and dx; at most one kernel for dx and one for the vectors' gradients that read x and dy again
    assert 3 * x < traffic.backward_bytes < 5.2 * x


@pytest.mark.slow
def test_a_count_agrees_with_the_committed_one(counting: ModuleType) -> None:
    document = json.loads(counting.RESULTS.read_text(encoding="utf-8"))
    if document["versions"]["torch"].partition("+")[0] != torch.__version__.partition("+")[0]:
        pytest.skip(f"the file was made with torch {document['versions']['torch']}")
    traffic = counting.graph_traffic(counting.RMS_NORM, "btc", TOKENS)
    assert traffic == counting.load_results()[counting.RMS_NORM, "btc", TOKENS, "bfloat16"]
    # one sweep each way, and the fused row-and-column reduction leaves its partial sums in a workspace
    assert traffic.forward_units == pytest.approx(2, abs=0.01)
    assert traffic.backward_units == pytest.approx(3, abs=0.1)
    assert traffic.workspace_bytes > 0


@pytest.mark.slow
def test_the_assumed_device_goes_away(counting: ModuleType) -> None:
    import _inductor

    before = torch.cuda.is_available, torch.cuda.get_device_properties
    with _inductor.assumed_device():
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_properties(0).multi_processor_count == 132
    assert (torch.cuda.is_available, torch.cuda.get_device_properties) == before


def test_what_does_not_fit_is_said(counting: ModuleType) -> None:
    with pytest.raises(FormulaError, match="axis 't'"):
        counting.graph_traffic("mean[t](x)", "nchw", (8, 64, 16, 16))
    with pytest.raises(UsageError, match="shape"):
        counting.graph_traffic("x", "btc", (8, 64, 16, 16))
    with pytest.raises(UsageError, match="dtype"):
        counting.graph_traffic("x", "btc", TOKENS, dtype="float64")
