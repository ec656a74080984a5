"""The funnel on generated kernels: the reference's decisions, wrong kernels turned away, machines without any."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evonas.kernels import c_operator, c_runtime
from evonas.kernels.offline import CompileFailed
from evonas.kernels.programs import LayerSpec
from torch import Tensor

from evonas.errors import EnvironmentUnusable, UsageError
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.kernel_ahead import KernelPool, target_of, training_specs
from evonas.evaluation.kernel_choice import PAYS_FROM, choose
from evonas.evaluation.protocol import Outcome, Task, dump_outcomes, load_outcomes
from evonas.layers import ZOO, Layer
from evonas.layers.c_layer import CGraphLayer
from evonas.layers.kernel_layer import KernelLayer
from evonas.layers.module import GraphLayer
from evonas.proxies import Trainer
from evonas.proxies.trainer import LayerInput, configured_process
from evonas.run.funnel_table import FunnelTable
from evonas.run.log import read_events
from evonas.run.session import create_run, evaluator_spec, execute
from evonas.run.settings import Settings, resolve

HERE = Path(__file__).parent
#: a training that is just long enough for C, of a network and a batch as small as can be
SMALL: dict[str, Any] = {
    "steps": PAYS_FROM, "batch": 16, "depth": [1] * 7, "quality_steps": 30, "stability_steps": 2,
    "quality_threshold": 1.2,
}  # fmt: skip
#: what gets through, with moments over the batch and without, and what is turned away.
LAYERS = ("evonorm_b0", "evonorm_s0", "gn_silu", "sigmoid(v0 * x)", "exp(x)", "x / rms[b,w,h](x)")
needs_compiler = pytest.mark.skipif(not c_runtime.available(), reason="no C compiler")


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVONAS_KERNEL_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


def evaluator(kernels: str, **options: Any) -> ProxyEvaluator:
    return ProxyEvaluator(proxies=["mobilenet"], kernels=kernels, **{"changes": SMALL, **options})


def evaluate(one: ProxyEvaluator, layer: str, **fields: Any) -> Outcome:
    formula = ZOO[layer].formula if layer in ZOO else layer
    [outcome] = one.evaluate([Task(0, formula, seed=1, **fields)])
    return outcome


def stages(outcome: Outcome) -> list[str]:
    return [r.stage for r in outcome.reports]


@needs_compiler
def test_c_decides_like_the_reference() -> None:
    fast, slow = evaluator("auto"), evaluator("off")
    scored = 0
    for layer in LAYERS:
        found, wanted = evaluate(fast, layer), evaluate(slow, layer)
        assert (found.status, found.stage, found.reason) == (wanted.status, wanted.stage, wanted.reason)
        assert stages(found) == ["kernel", *stages(wanted)]
        kernel = found.reports[0]
        assert kernel.evidence["backend"] == "c"
        assert kernel.seconds > kernel.evidence["compile_s"] >= 0
        formula = ZOO[layer].formula if layer in ZOO else layer
        validated = "quality" in stages(found) and "[b" in formula
        assert ("validation" in kernel.evidence) == validated
        for a, b in zip(found.reports[1:], wanted.reports, strict=True):
            if a.stage == "stability":  # eager in both, from fresh weights
                assert a.evidence == b.evidence
            # the sixth digit is another one, and training makes that grow
            for name, within in (("first_loss", 1e-5), ("loss", 0.05)):
                if b.evidence.get(name) is not None:
                    assert a.evidence[name] == pytest.approx(b.evidence[name], rel=within)
        if wanted.status == "scored":
            scored += 1
            assert abs(found.scores["mobilenet"] - wanted.scores["mobilenet"]) < 0.12
    assert scored >= 3


def test_off_is_the_reference_bit_for_bit() -> None:
    one = evaluator("off", changes={**SMALL, "steps": 6})
    outcome = evaluate(one, "evonorm_b0", mode="train")
    with configured_process():
        result = Trainer(
            one.proxies[0], lambda c: GraphLayer(_graph("evonorm_b0"), c, groups=4), seed=1
        ).finish()
    assert outcome.scores == {"mobilenet": result.score}
    assert outcome.reports[-1].evidence["final_loss"] == result.final_loss
    assert "kernel" not in stages(outcome)


def _graph(layer: str) -> Any:
    from evonas.graph import Graph

    return Graph.parse(ZOO[layer].formula)


@needs_compiler
def test_c_waits_for_trainings_that_pay() -> None:
    short = {**SMALL, "steps": PAYS_FROM - 1, "quality_steps": 5}
    assert "kernel" not in stages(evaluate(evaluator("auto", changes=short), "exp(x)"))
    assert "kernel" in stages(evaluate(evaluator("on", changes=short), "exp(x)"))
    assert "kernel" in stages(evaluate(evaluator("auto", changes=short), "exp(x)", budget=1.5))


@needs_compiler
@pytest.mark.parametrize("mode", ["train", "final"])
def test_every_mode_trains_on_c_and_repeats_its_bits(mode: str) -> None:
    one = evaluator("on", changes={**SMALL, "steps": 4})
    first, second = (evaluate(one, "bn_relu", mode=mode) for _ in range(2))
    assert stages(first)[0] == "kernel"
    assert first.reports[0].evidence["validation"] == "c"
    assert first.scores == second.scores
    assert first.reports[1].evidence == second.reports[1].evidence


@needs_compiler
@pytest.mark.parametrize("part", ["forward", "backward", "evaluation"])
def test_a_wrong_kernel_rejects_its_candidate(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth too much, in one of the functions."""
    name = "backward" if part == "backward" else "forward"
    right = getattr(c_operator.CKernels, name)

    def wrong(self: c_operator.CKernels, x: Tensor, *rest: Any) -> Any:
        first, second = right(self, x, *rest)
        if part != "evaluation" or self.statistics:
            first = first * 1.001
        return first, second

    monkeypatch.setattr(c_operator.CKernels, name, wrong)
    outcome = evaluate(evaluator("on", hurdle=False), "evonorm_b0")
    output = {"forward": "y", "backward": "dx", "evaluation": "y in evaluation"}[part]
    assert (outcome.status, outcome.stage) == ("rejected", "kernel")
    assert outcome.reason == f"disagrees_with_float64: {output}"
    [report] = outcome.reports
    assert not report.passed
    assert report.evidence["errors"][output] == pytest.approx(1e-3, rel=0.01)
    assert report.evidence["allowed"][output] < 1e-4
    assert not outcome.scores
    assert load_outcomes(dump_outcomes([outcome]))[0].to_dict() == outcome.to_dict()


@needs_compiler
def test_a_kernel_that_returns_nan_rejects_in_plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c_operator.CKernels.forward

    def nan(self: c_operator.CKernels, *given: Any) -> Any:
        y, buffer = right(self, *given)
        return y * float("nan"), buffer

    monkeypatch.setattr(c_operator.CKernels, "forward", nan)
    outcome = evaluate(evaluator("on"), "gn_silu")
    assert (outcome.status, outcome.stage) == ("rejected", "kernel")
    json.dumps(outcome.to_dict(), allow_nan=False)


@needs_compiler
def test_without_a_folder_training_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(tmp_path / "file" / "kernels"))
    c_operator.kernels.cache_clear()
    one = evaluator(
        "on", changes={**SMALL, "steps": 2, "quality_steps": 1, "quality_threshold": 0.0}, hurdle=False
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        outcomes = [evaluate(one, layer) for layer in ("gn_silu", "evonorm_b0")]
    c_operator.kernels.cache_clear()
    assert [o.status for o in outcomes] == ["scored", "scored"]
    for outcome in outcomes:
        assert outcome.reports[0].passed
        assert outcome.reports[0].evidence["backend"] == "eager"
        assert "cannot compile" in outcome.reports[0].evidence["why"]
    assert len([w for w in said if "eager reference" in str(w.message)]) == 1


@needs_compiler
def test_a_layer_that_the_compiler_refuses_is_trained_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c_operator.functions

    def refuse(spec: Any, suffix: str = "") -> Any:
        if "rms" in spec.formula:
            raise UsageError("no lowering for rms")
        return right(spec, suffix)

    monkeypatch.setattr(c_operator, "functions", refuse)
    c_operator.kernels.cache_clear()
    one = evaluator("on", changes={**SMALL, "steps": 2})
    outcome = evaluate(one, "x / rms[w,h,c/g](x)", mode="train")
    assert outcome.status == "scored"
    assert outcome.reports[0].evidence == {"backend": "eager", "why": "no lowering for rms"}
    assert evaluate(one, "gn_silu", mode="train").reports[0].evidence["backend"] == "c"


def test_groups_of_a_fixed_size_are_checked_with_channels_that_have_them() -> None:
    one = evaluator("on", changes={**SMALL, "steps": 1}, layer={"group_size": 4, "groups": 1})
    outcome = evaluate(one, "gn_silu", mode="train")
    assert outcome.reports[0].evidence["backend"] == ("c" if c_runtime.available() else "eager")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, Any]]:
    found = {}
    for planted in ("right", "wrong"):
        done = subprocess.run(
            [sys.executable, str(HERE / "kernels_in_interpreter.py"), planted],
            env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[planted] = json.loads(done.stdout)
    return found


def test_triton_takes_over_before_full_training(interpreted: dict[str, dict[str, Any]]) -> None:
    for layer in ("evonorm_b0", "evonorm_s0"):
        on, off = interpreted["right"][layer]["on"], interpreted["right"][layer]["off"]
        assert [r["stage"] for r in off["reports"]] == ["quality", "stability", "training"]
        assert [r["stage"] for r in on["reports"]] == ["quality", "stability", "kernel", "training"]
        for a, b in zip(on["reports"][:2], off["reports"][:2], strict=True):
            assert a["evidence"] == b["evidence"]  # eager in both
        kernel, training = on["reports"][2:]
        assert kernel["proxy"] == "mobilenet"
        assert kernel["evidence"]["backend"] == "triton"
        assert kernel["evidence"]["kernels"] > 1
        assert kernel["seconds"] > kernel["evidence"]["compile_s"] > 0
        assert kernel["evidence"]["error"] <= kernel["evidence"]["tolerance"]
        wanted = off["reports"][-1]["evidence"]
        assert training["evidence"]["final_loss"] == pytest.approx(wanted["final_loss"], rel=1e-3)
        # that kernels ran at all, and not the eager layers, is what the next two tests show


def test_the_swapped_layers_are_the_optimisers(interpreted: dict[str, dict[str, Any]]) -> None:
    shared = interpreted["right"]["shared"]
    assert shared["same"]
    assert shared["kernels"] == shared["sites"] > 5


def test_a_pool_compiles_for_those_that_are_trained_and_for_no_other(
    interpreted: dict[str, dict[str, Any]],
) -> None:
    right = interpreted["right"]
    assert (right["rejected"]["status"], right["rejected"]["stage"]) == ("rejected", "quality")
    assert right["rejected"]["pool"] == {}
    evidence = right["evonorm_s0"]["on"]["reports"][2]["evidence"]
    assert evidence["backend"] == "triton"
    assert evidence["compiled"] == evidence["kernels"] == right["pool"]["compiled"] > 1
    assert evidence["compile_cpu_s"] > 0
    assert right["pool"]["failed"] == 0


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernels_of_a_training_are_compiled_once_and_found_in_the_cache(tmp_path: Path) -> None:
    given = [(LayerInput((4, 8, 4, 4), False, True), 4), (LayerInput((4, 8, 4, 4), False, False), 4)]
    here = torch.device("cpu")
    specs = training_specs(LayerSpec("x / std[w,h,c/g](x)"), given, here, over_batch=False)
    assert len(specs) == 2  # validation has the forward kernel of training
    over = training_specs(LayerSpec("x / std[b,w,h](x)"), given, here, over_batch=True)
    assert len(over) == 3
    for wanted in ({"compiled": 2, "cached": 0}, {"compiled": 0, "cached": 2}):
        pool = KernelPool("sm_90", workers=1, cache=tmp_path)
        assert wanted.items() <= pool.compile(specs).items()
        pool.close()
    broken = [replace(specs[0], function="absent")]
    pool = KernelPool("sm_90", workers=1, cache=tmp_path)
    with pytest.raises(CompileFailed, match="absent"):
        pool.compile(broken)
    pool.close()


def test_a_device_that_kernels_are_not_compiled_for_ahead_has_no_pool() -> None:
    assert target_of(torch.device("cpu")) is None


def test_a_wrong_triton_kernel_rejects_its_candidate(interpreted: dict[str, dict[str, Any]]) -> None:
    on, off = interpreted["wrong"]["evonorm_b0"]["on"], interpreted["wrong"]["evonorm_b0"]["off"]
    assert off["status"] == "scored"
    assert (on["status"], on["stage"]) == ("rejected", "kernel")
    assert on["reason"].startswith("disagrees_with_float64: ")
    assert "y" in on["reports"][-1]["evidence"]["errors"]
    assert [r["stage"] for r in on["reports"]] == ["quality", "stability", "kernel"]


def test_a_layer_on_kernels_shares_everything() -> None:
    layer = Layer("b0", _graph("evonorm_b0")).module(8, backend="eager", groups=4, momentum=0.3).eval()
    made = KernelLayer.sharing(layer)
    before, after = layer.state_dict(keep_vars=True), made.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert (made.groups, made.momentum, made.eps, made.training) == (layer.groups, 0.3, layer.eps, False)
    bare = KernelLayer.sharing(GraphLayer(_graph("gn_silu"), 8, affine=False))
    assert bare.weight is None
    assert not list(bare.parameters())


def test_layers_are_seen_without_touching_the_training() -> None:
    proxy = evaluator("off").proxies[0]
    plain, watched = (Trainer(proxy, lambda c: GraphLayer(_graph("bn_relu"), c)) for _ in range(2))
    plain.run(1)
    watched.run(1)
    given = watched.layer_inputs()
    assert {g.shape[0] for g in given if g.training} == {proxy.spec.batch}
    assert {g.shape[0] for g in given if not g.training} == {proxy.spec.eval_batch}
    assert watched.network.training
    plain.run(3)
    watched.run(3)
    assert plain.losses == watched.losses
    for a, b in zip(plain.network.state_dict().values(), watched.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose("off", "cuda").used == "none"
    assert choose("auto", "cuda:1").used.startswith("triton ")
    assert choose("on", "cpu").backend == ("c" if c_runtime.available() else "eager")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("on", "cpu").backend == "triton"
    assert choose("auto", "cpu").backend != "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    missing = choose("auto", "cpu")
    assert (missing.backend, missing.used) == ("eager", "none")
    assert "C compiler" in (missing.why or "")
    with pytest.raises(EnvironmentUnusable, match="C compiler"):
        choose("on", "cpu")
    with pytest.raises(UsageError, match="did you mean 'auto'"):
        choose("atuo", "cpu")


@pytest.mark.usefixtures("without_triton")
def test_the_choice_on_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    left = choose("auto", "cuda")
    assert (left.backend, left.used) == ("eager", "none")
    assert left.why == "evaluation.kernels needs triton on a GPU, and it is not installed"
    with pytest.raises(
        EnvironmentUnusable, match=r"(?s)needs triton on a GPU.*pip install triton, or --kernels off"
    ):
        choose("on", "cuda")
    assert choose("off", "cuda").why == "evaluation.kernels is off"


@needs_compiler
def test_a_module_in_c() -> None:
    layer = Layer("silu", _graph("gn_silu"))
    made = layer.module(8, backend="c", groups=4)
    assert isinstance(made, CGraphLayer)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(made(x), layer.module(8, backend="eager", groups=4)(x))
    with pytest.raises(UsageError, match="no C kernel"):
        made(x.double())


def test_a_module_in_c_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    with pytest.raises(EnvironmentUnusable, match="C compiler"):
        Layer("silu", _graph("gn_silu")).module(8, backend="c")


def test_the_setting_is_recorded_where_it_is_not_the_default() -> None:
    settings, _ = resolve(flags={"evaluation.kernels": "off"})
    assert settings.deciding()["evaluation"]["kernels"] == "off"
    assert evaluator_spec(settings).options["kernels"] == "off"
    assert "kernels" not in Settings().deciding()["evaluation"]
    with pytest.raises(UsageError, match="did you mean 'auto'"):
        resolve(flags={"evaluation.kernels": "atuo"})
    # the folder of kernels is no setting of a section "kernel"
    given = {"EVONAS_KERNEL_DIR": "somewhere", "EVONAS_EVALUATION_KERNELS": "on"}
    assert resolve(environment=given)[0].evaluation.kernels == "on"


@needs_compiler
@pytest.mark.parametrize("kernels", ["on", "off"])
def test_slots_share_a_folder_and_the_run_says_what_it_used(
    kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    monkeypatch.setenv("EVONAS_KERNEL_DIR", str(folder))
    few = {**SMALL, "steps": 2, "quality_steps": 1, "quality_threshold": 0.0}
    flags = {
        "search.candidates": 1, "search.control": "none", "search.baselines": ["gn_silu", "evonorm_b0"],
        "search.seed": 1,
        "evaluation.proxies": ["mobilenet"], "evaluation.changes": few, "evaluation.kernels": kernels,
        "evaluation.hurdle": False, "rerank.seeds": 0, "workers.count": 2, "workers.backend": "local",
    }  # fmt: skip
    settings, _ = resolve(flags=flags)
    directory = create_run(settings, root=tmp_path)
    execute(directory, settings)
    told = json.loads((directory.path / "environment.json").read_text())["kernels"]
    finished = [e for e in read_events(directory.path) if e.kind == "finished" and e.arm == "baseline"]
    reports = [[r["stage"] for r in e.details()["reports"]] for e in finished]
    libraries = sorted(folder.glob("layer_*.so"))
    table = FunnelTable()
    for event in read_events(directory.path):
        table.add(event)
    order = [row["stage"] for row in table.rows() if row["arm"] == "baseline"]
    if kernels == "off":
        assert told == {
            "setting": "off",
            "backend": "eager",
            "used": "none",
            "why": "evaluation.kernels is off",
        }
        assert reports == [["quality", "stability", "training"]] * 2
        assert not libraries
        assert order == ["quality", "stability", "training"]
    else:
        assert (told["setting"], told["backend"]) == ("on", "c")
        assert told["used"] == choose("on", "cpu").used != "none"
        assert reports == [["kernel", "quality", "stability", "training"]] * 2
        # the trial layer, one for GN-SiLU, two for EvoNorm-B0, and those of the candidate
        assert len(libraries) >= 4
        assert not list(folder.glob("compiling_*"))
        assert order == ["kernel", "quality", "stability", "training"]
