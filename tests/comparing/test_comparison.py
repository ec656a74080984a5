"""Comparisons with evaluators that cost nothing: what is trained, counted, kept and refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from support import EVALUATORS, free_run

import evonas
from evonas.comparing import Comparison, compare
from evonas.comparing.training import Training
from evonas.errors import UsageError
from evonas.run.run import Run
from evonas.run.units import Units

FREE: dict[str, Any] = {"evaluation.evaluator": "free", "workers.backend": "inline"}
LAYERS = ("bn_relu", "relu", "x * sigmoid(x)")


def free(*layers: Any, options: dict[str, Any] | None = None, **given: Any) -> Comparison:
    """A comparison on the proxies a and b of the free evaluator."""
    settings = FREE | {"evaluation.options": options or {}} | given.pop("settings", {})
    given = {"proxies": ["a", "b"], "seeds": 3, "plugins": [EVALUATORS]} | given
    return compare(*(layers or LAYERS), settings=settings, **given)


@pytest.fixture(scope="module")
def done() -> Comparison:
    return free(data_shares=[0.5])


def test_every_layer_is_swept_and_trained_with_the_same_seeds(done: Comparison) -> None:
    assert done.complete
    assert [(t.layer, t.replicate) for t in done.trainings] == [
        *[(i, None) for i in range(3)],
        *[(i, r) for r in range(3) for i in range(3)],
    ]
    for row in done.rows:
        assert row["n"] == 3
        for proxy in ("a", "b"):
            own = [
                t.scores[proxy]
                for t in done.trainings
                if t.layer == row["candidate"] and t.replicate is not None
            ]
            assert row["scores"][proxy] == own
            assert row["per_proxy"][proxy] == [fmean(own), stdev(own)]
            points = {f: s for f, s in row["sweep"][proxy] if s is not None}
            assert not points or points[row["lr"][proxy]] == max(points.values())
        assert row["data_shares"]["0.5"]["mean"] == pytest.approx(0.5 * row["mean"])


def test_differences_are_of_trainings_with_the_same_number(done: Comparison) -> None:
    rows = {row["name"]: row for row in done.rows}
    own, theirs = rows["relu"], rows["bn_relu"]
    assert theirs["reference"]
    assert theirs["differences"] is theirs["wins"] is theirs["versus"] is None
    gaps = [a - b for a, b in zip(own["scores"]["a"], theirs["scores"]["a"], strict=True)]
    found = own["differences"]["a"]
    assert (found["n"], found["mean"], found["std"]) == (
        3,
        pytest.approx(fmean(gaps)),
        pytest.approx(stdev(gaps)),
    )
    assert found["high"] - found["mean"] == pytest.approx(4.302653 * stdev(gaps) / 3**0.5)
    assert own["wins"]["wins"] == sum(
        a > b for p in ("a", "b") for a, b in zip(own["scores"][p], theirs["scores"][p], strict=True)
    )
    assert sum(own["wins"].values()) == 6
    assert own["differences"]["mean"]["mean"] == pytest.approx(own["mean"] - theirs["mean"])
    assert own["versus"]["mean"] == own["differences"]["mean"]["mean"]


def test_the_final_table_of_a_search_comes_again(tmp_path: Path) -> None:
    directory, _ = free_run(
        tmp_path, search__candidates=6, search__baselines=["bn_relu", "relu"], search__seed=5, rerank__top=2,
        rerank__control_top=1, rerank__lr_factors=[0.5, 1.0, 2.0], rerank__data_shares=[0.25],
    )  # fmt: skip
    run = Run(directory)
    ranking = list({row["formula"]: row for row in run.ranking()}.values())  # both arms may find the same
    again = free(
        *[(run, row["candidate"]) for row in ranking], seeds=2, seed=5, data_shares=[0.25], runs=tmp_path
    )
    assert len(again.rows) == len(ranking) >= 4
    same = (
        "n",
        "mean",
        "std",
        "per_proxy",
        "validation",
        "lr",
        "sensitivity",
        "sweep",
        "data_shares",
        "formula",
    )
    for mine, logged in zip(again.rows, ranking, strict=True):
        assert {k: mine[k] for k in same} == {k: logged[k] for k in same}


def test_layers_by_every_name(tmp_path: Path) -> None:
    directory, _ = free_run(
        tmp_path / "runs", search__candidates=2, search__baselines=["relu"], rerank__seeds=0
    )
    file = tmp_path / "mine.txt"
    file.write_text("tanh(x)")
    best = f"{directory.path}:best"
    found = free(
        "rms_norm+silu", "max(x, v0)", "norm: x / rms[c](x); act: tanh(x)", str(file), best, (directory.path, 0),
        evonas.layer("gelu"), seeds=1, lr_factors=[], reference=best,
    )  # fmt: skip
    names = [one.name for one in found.contestants]
    assert names[:2] == ["rms_norm+silu", "max(x, v0)"]
    assert names[3] == "mine"
    assert names[4].startswith(f"{directory.id}/")
    assert names[6] == "gelu"
    assert found.reference == 4
    assert found.complete
    assert found.planned == 7


def test_one_layer_is_the_reference_that_is_named(done: Comparison) -> None:
    other = free(reference="relu", data_shares=[0.5])
    assert {r["name"]: r["mean"] for r in other.rows} == {r["name"]: r["mean"] for r in done.rows}
    ours = {r["name"]: r for r in done.rows}["relu"]["differences"]["mean"]
    turned = {r["name"]: r for r in other.rows}["bn_relu"]["differences"]["mean"]
    assert (turned["mean"], turned["wins"]) == (pytest.approx(-ours["mean"]), ours["losses"])


@pytest.mark.parametrize(
    ("layers", "given", "message"),
    [
        (("bn_relu",), {}, "1 layer to compare, needed are at least two"),
        ((), {"layers": ()}, "0 layers to compare"),
        (("bn_relu", "nothing_of_the_kind"), {}, "nothing_of_the_kind"),
        (("bn_relu", "relu", "max(x, 0)"), {}, "are the same layer"),
        (("bn_relu", "relu"), {"seeds": 0}, "0 seeds, needed is at least one"),
        (("bn_relu", "relu"), {"reference": "gelu"}, "'gelu' is not among the layers"),
        (("bn_relu", "no_such_run:3"), {}, "no_such_run"),
        (("bn_relu", "relu"), {"lr_factors": [0.0]}, "different numbers above 0"),
    ],
)
def test_what_is_refused(layers: tuple[str, ...], given: dict[str, Any], message: str) -> None:
    given = {"proxies": ["a", "b"], "plugins": [EVALUATORS]} | given
    with pytest.raises(UsageError, match=message):
        compare(*given.pop("layers", layers), settings=FREE, **given)


def test_a_layer_that_does_not_fit_names_the_proxy() -> None:
    with pytest.raises(UsageError, match=r"layer 'bn_relu' does not fit proxy 'transformer'.*tokens"):
        compare("gelu", "bn_relu", proxies=["transformer"])
    with pytest.raises(UsageError, match=r"does not fit proxy 'resnet', whose layers are given images"):
        compare("relu", "x / rms[t,c](x)", proxies=["transformer", "resnet"])
    with pytest.raises(UsageError, match=r"does not fit proxy 'resnet'.*its norms differ"):
        compare(
            "relu", "pre_ffn: x / rms[c](x); pre_attention: x / std[c](x); act: tanh(x)", proxies=["resnet"]
        )
    with pytest.raises(UsageError, match="unknown proxy 'resnett'"):
        compare("relu", "gelu", proxies=["resnett"])


def test_outcomes_stand_in_the_table(tmp_path: Path) -> None:
    failing = free(options={"fail": True}, seeds=2)
    assert failing.complete
    for row in failing.rows:
        assert (row["n"], row["mean"]) == (0, None)
        assert row["failed"] == [
            {"seed": s, "outcome": "failed", "reason": "error: always"} for s in (None, 0, 1)
        ]
    ET.fromstring(failing.plot())
    swept = free(options={"fail_sweeps": True}, seeds=2)
    assert all(row["n"] == 2 and row["lr"] == {"a": 1.0, "b": 1.0} for row in swept.rows)
    assert all([f["seed"] for f in row["failed"]] == [None] for row in swept.rows)


def test_a_timeout_and_a_lost_slot_are_outcomes(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    slots = {"workers.backend": "local", "evaluation.deadline_s": 0.2}
    found = free(
        seeds=3, lr_factors=[], workers=2, settings=slots, options={"sleep_s": 0.6, "kill_first": str(marks)}
    )
    assert found.complete
    assert list(marks.iterdir()), "no slot was lost"
    reasons = [f["reason"] for row in found.rows for f in row["failed"]]
    assert reasons
    assert all("timeout" in reason for reason in reasons)
    assert all(row["n"] + len(row["failed"]) == 3 for row in found.rows)
    for row in found.rows:  # only pairs count
        if row["differences"] is not None:
            other = next(r for r in found.rows if r["reference"])
            pairs = zip(row["scores"]["a"], other["scores"]["a"], strict=True)
            assert row["differences"]["a"]["n"] == sum(None not in pair for pair in pairs)


def test_a_file_goes_on_where_it_ended(tmp_path: Path, done: Comparison) -> None:
    file = tmp_path / "comparison.json"

    def stop(training: Training, now: Comparison) -> None:
        if len(now.trainings) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        free(data_shares=[0.5], out=file, listener=stop)
    kept = json.loads(file.read_text())
    assert (kept["status"], len(kept["trainings"])) == ("incomplete", 5)
    fresh: list[Training] = []
    more = compare(resume=file, listener=lambda training, now: fresh.append(training))
    assert len(fresh) == 12 - 5
    assert more.complete
    assert _without_times(more.to_dict()) == _without_times(done.to_dict())
    assert json.loads(file.read_text())["status"] == "complete"
    fresh.clear()
    larger = free(
        data_shares=[0.5], resume=file, seeds=4, listener=lambda training, now: fresh.append(training)
    )
    assert [(t.layer, t.replicate) for t in fresh] == [(0, 3), (1, 3), (2, 3)]
    assert larger.rows[0]["n"] == 4


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k != "seconds"}
    return [_without_times(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "comparison.json"
    free(seeds=2, out=file)
    for given, message in (
        ({"seeds": 1}, "has 2 seeds, asked for are 1"),
        ({"budget": 2.0}, "began with rerank.budget = 1.5, asked for is 2.0"),
        ({"lr_factors": []}, "rerank.lr_factors"),
        ({"seed": 4}, "search.seed"),
        ({"proxies": ["a"]}, "evaluation.proxies"),
        ({"reference": "relu"}, "other layers, or another reference"),
    ):
        with pytest.raises(UsageError, match=message):
            free(resume=file, **{"seeds": 2} | given)
    with pytest.raises(UsageError, match="other layers"):
        free("bn_relu", "gelu", resume=file)
    file.write_text(file.read_text().replace("evonas.compare/1", "evonas.compare/9"))
    with pytest.raises(UsageError, match="is not a comparison"):
        compare(resume=file)
    with pytest.raises(UsageError, match="cannot read"):
        compare(resume=tmp_path / "absent.json")


def test_the_picture_has_every_score(done: Comparison) -> None:
    root = ET.fromstring(done.plot())
    titles = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
    for row in done.rows:
        for proxy in ("a", "b"):
            for seed, value in enumerate(row["scores"][proxy]):
                assert f"{row['name']}, seed {seed + 1}: {value:.4f}" in titles
    assert sum("95 % interval" in title for title in titles) == 6
    assert done._repr_html_() == done.plot()
    assert "relu" in repr(done)


def test_bits_per_byte_turn_differences_round() -> None:
    units = Units(["transformer", "resnet"])
    assert units.change("transformer", 0.01) == pytest.approx(-0.08)
    assert units.change("resnet", 0.01) == 0.01
    assert units.number("transformer", 0.75) == 2.0
    assert units.lower_is_better("transformer")
    assert not units.lower_is_better("resnet")


@pytest.mark.slow
def test_a_real_comparison(tmp_path: Path) -> None:
    """Images and text, the real evaluator, one layer that diverges."""
    tiny = {"evaluation.changes": {"steps": 3, "batch": 8, "transformer": {"eval_windows": 4}}}
    found = compare(
        "rms_norm+silu", "relu", "exp(exp(exp(10 * x)))", proxies=["resnet", "transformer"], seeds=2, budget=1.0,
        lr_factors=[0.5, 1.0], settings={**tiny, "workers.backend": "inline"}, out=tmp_path / "real.json",
    )  # fmt: skip
    assert found.complete
    rows = {row["name"]: row for row in found.rows}
    lost = rows["exp(exp(exp(10 * x)))"]
    assert {(d["seed"], d["proxy"]) for d in lost["diverged"]} == {
        (s, p) for s in (0, 1) for p in ("resnet", "transformer")
    }
    assert lost["mean"] == 0.0
    good = rows["rms_norm+silu"]
    assert not good["failed"]
    assert not good["diverged"]
    assert 0 < good["validation"] < 1
    assert good["differences"] is None
    assert lost["wins"] == {"wins": 0, "ties": 0, "losses": 4}
    again = compare(resume=tmp_path / "real.json")
    assert _without_times(again.to_dict()) == _without_times(found.to_dict())
    ET.fromstring(found.plot())
