"""Language models in the funnel: stages, scores and evidence; the thresholds on known layers and on none."""

import json
import math
from pathlib import Path

import pytest

from evonas import proxies
from evonas.errors import UsageError
from evonas.evaluation.funnel import ProxyEvaluator
from evonas.evaluation.protocol import Task

KNOWN = {
    "rms_norm": "norm: x / rms[c](x)",
    "simple_rms_norm": "norm (no affine): x / rms[c](x)",
    "layer_norm": "norm: (x - mean[c](x)) / std[c](x)",
    "dyt": "norm: tanh(0.5 * s1 * x)",
    "derf": "norm: erf(0.5 * s1 * x + s0)",
}
NONE = {"identity": "norm: x", "silu": "norm: x * sigmoid(x)", "relu": "norm: max(x, 0)"}
FAST = {
    "steps": 6, "quality_steps": 4, "quality_threshold": 3.0, "stability_steps": 1, "transformer": {"hurdle": 3.0},
    "transnormer": {"hurdle": 3.0}, "depth": 2, "width": 16, "eval_windows": 8,
}  # fmt: skip


def test_both_models_in_one_evaluator_with_scores_in_bits():
    evaluator = ProxyEvaluator(proxies=("transformer", "transnormer"), changes=FAST, kernels="off")
    (outcome,) = evaluator.evaluate([Task(candidate=1, formula="norm: x / rms[c](x); act: x * sigmoid(x)")])
    assert outcome.status == "scored", outcome.reason
    assert set(outcome.scores) == {"transformer", "transnormer"}
    trained = {r.proxy: r.evidence for r in outcome.reports if r.stage == "training"}
    for name, score in outcome.scores.items():
        assert 0 < score < 1
        assert trained[name]["bits_per_byte"] == pytest.approx(8 * (1 - score))
    quality = next(r.evidence for r in outcome.reports if r.stage == "quality")
    guess = proxies.problem(evaluator.proxies[0]).guess
    assert quality["needed"] == pytest.approx(3 * guess)
    assert quality["bits_per_byte"] == pytest.approx(quality["loss"] / math.log(2))
    hurdle = next(r.evidence for r in outcome.reports if r.stage == "hurdle")
    assert hurdle["needed"] == pytest.approx(3 * guess)


def test_heldout_text_scores_finalists():
    evaluator = ProxyEvaluator(proxies=("transnormer",), changes={**FAST}, kernels="off")
    (outcome,) = evaluator.evaluate([Task(candidate=1, formula="x / rms[c](x)", mode="final")])
    evidence = next(r.evidence for r in outcome.reports if r.stage == "rerank")
    assert outcome.scores["transnormer"] == pytest.approx(1 - evidence["bits_per_byte"] / 8)
    assert evidence["validation"] != evidence["score"]


def test_images_and_text_in_one_evaluator():
    changes = {"steps": 4, "quality_steps": 2, "quality_threshold": 1e-3, "batch": 4, "depth": 1}
    images = {"depth": [1, 1, 1, 1]}
    text = {"width": 16, "eval_windows": 8, "quality_threshold": 9.0, "hurdle": 9.0}
    evaluator = ProxyEvaluator(
        proxies=("transformer", "resnet"), changes={**changes, "resnet": images, "transformer": text},
        kernels="off", stability=False, hurdle=False,
    )  # fmt: skip
    (outcome,) = evaluator.evaluate([Task(candidate=1, formula="x / rms[c](x)")])
    assert set(outcome.scores) == {"transformer", "resnet"}, outcome.reason
    qualities = {r.proxy: r.evidence for r in outcome.reports if r.stage == "quality"}
    assert "accuracy" in qualities["resnet"]
    assert "loss" in qualities["transformer"]


def test_data_of_the_wrong_kind():
    with pytest.raises(UsageError, match="'resnet' is trained on images, data set 'sotu_moby' is text"):
        ProxyEvaluator(proxies=("transformer", "resnet"), data="sotu_moby")


def test_the_tokenizer_brings_its_quality_threshold():
    get = proxies.get
    assert get("transformer").spec.quality_threshold == 0.93
    assert get("transformer", tokenizer="bpe", vocabulary=512).spec.quality_threshold == 1.03
    mine = {"tokenizer": "bpe", "vocabulary": 512, "quality_threshold": 0.93}
    assert get("transnormer", **mine).spec.quality_threshold == 0.93
    kept = get("transnormer", quality_threshold=0.5).spec.replace(tokenizer="bpe", vocabulary=512)
    assert kept.quality_threshold == 0.5
    with pytest.raises(UsageError, match="quality_threshold is -1"):
        get("transformer", quality_threshold=-1)
    with pytest.raises(UsageError, match="tokenizer is 'words'"):
        get("transformer", tokenizer="words")


RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("file", ["language_proxies", "language_proxies_soft"])
def test_the_recorded_table_is_of_the_scale_as_it_is(file):
    report = json.loads((RESULTS / f"{file}.json").read_text("utf-8"))
    for name, recorded in report["proxies"].items():
        spec = proxies.SCALES[report["scale"]][name].to_dict()
        assert {k: recorded["spec"].get(k) for k in spec} == json.loads(json.dumps(spec))
    assert report["wrong"] == 0
    assert {row["layer"] for row in report["rows"]} == {*KNOWN, *NONE}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proxy", ["transformer", "transnormer"])
def test_known_layers_pass_with_byte_pairs(proxy):
    changes = {"steps": 30, "tokenizer": "bpe", "vocabulary": 1024}
    evaluator = ProxyEvaluator(proxies=(proxy,), kernels="off", stability=False, changes=changes)
    found = {}
    for name in ("rms_norm", "simple_rms_norm", "dyt", "identity"):
        (outcome,) = evaluator.evaluate([Task(candidate=0, formula={**KNOWN, **NONE}[name])])
        found[name] = outcome.status, outcome.reason
    assert {name for name, (status, _) in found.items() if status == "scored"} == set(found) - {"identity"}, (
        found
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("proxy", ["transformer", "transnormer"])
def test_known_layers_pass_every_test_and_deep_networks_without_norms_fail(proxy):
    evaluator = ProxyEvaluator(proxies=(proxy,), kernels="off", changes={"steps": 30})
    found = {}
    for name, formula in {**KNOWN, **NONE}.items():
        (outcome,) = evaluator.evaluate([Task(candidate=0, formula=formula)])
        found[name] = outcome.status, outcome.reason
    assert {name for name, (status, _) in found.items() if status == "scored"} == set(KNOWN), found
