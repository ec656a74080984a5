"""Where a layer is from: the zoo, a formula, a file, or a candidate of a run with everything that its log says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evonas.errors import EvonasError, UsageError
from evonas.graph import Graph
from evonas.layers.assembled import AssembledLayer, candidate_from, resolve_candidate
from evonas.layers.layer import Layer, named_layer
from evonas.layers.stateful.registry import STATEFUL, stateful_entry
from evonas.layers.zoo import ZOO
from evonas.run.run import Run
from evonas.run.session import open_settings, recorded_space
from evonas.run.settings import EvaluationSettings

#: What every row of a final table has.
_KNOWN_ROW = ("candidate", "arm", "name", "formula", "search_mean", "n", "mean", "std", "per_proxy",
              "validation", "chosen", "versus")  # fmt: skip


@dataclass
class Origin:
    """A layer and its history.

    words: a sentence for docstrings. command: what exports it again. facts: of the run, empty for other layers;
    plain values for layer.json. ranking: the run's final table. published: where a layer of the zoo is from.
    whole: the formula of the assembly that the layer is a part of, which facts and ranking are about.
    """

    layer: Layer | AssembledLayer
    words: str
    command: str
    facts: dict[str, Any] = field(default_factory=dict)
    ranking: list[dict[str, Any]] = field(default_factory=list)
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    published: str = ""
    whole: str = ""

    @property
    def row(self) -> dict[str, Any] | None:
        """The layer's own row of the final table."""
        return next((r for r in self.ranking if r["candidate"] == self.facts.get("candidate")), None)


def is_run(target: Any) -> bool:
    """Whether a text or path is a run folder."""
    try:
        return (Path(target) / "run.json").is_file()
    except (
        OSError,
        TypeError,
        ValueError,
    ):  # a text that no file system takes for a name, such as a long formula
        return False


def find_origin(
    target: Any,
    candidate: int | str | None,
    *,
    runs: str | os.PathLike[str] = "runs",
    plugins: Sequence[str] = (),
) -> Origin:
    """The layer that is meant: see ``evonas.export.export``.

    Raises:
        UsageError, FormulaError, PluginError: no such run, candidate or layer.
    """
    if plugins:
        from evonas.plugins import describe_plugins, load_all_plugins

        load_all_plugins(describe_plugins(plugins))
    if isinstance(target, tuple) and len(target) == 2 and candidate is None:
        target, candidate = target  # as evonas.layer takes it
        candidate = "best" if candidate is None else candidate
    if not isinstance(target, str | os.PathLike | Run | Layer | AssembledLayer | Graph):
        raise UsageError(
            f"cannot export a {type(target).__name__}",
            hint="give a run, a name, a formula, a file, a Layer, or (run, candidate)",
        )
    if isinstance(target, Run):
        return _of_run(target, candidate)
    if isinstance(target, Layer | AssembledLayer | Graph):
        return _of_layer(resolve_candidate(target))
    if candidate is not None and isinstance(target, str) and target in (*ZOO, *STATEFUL):
        raise UsageError(
            f"{target} is a layer and no run: it has no candidate {candidate}",
            hint=f"evonas export {target} -o DIR",
        )
    if candidate is not None or is_run(target) or os.fspath(target) == "latest":
        return _of_run(Run(target, runs), candidate)
    try:
        spec = target if isinstance(target, str) else Path(target)
        return _of_layer(resolve_candidate(spec), os.fspath(target))
    except UsageError as error:
        try:
            run = Run(target, runs)  # the beginning of a run's name
        except EvonasError:
            raise error from None
        return _of_run(run, candidate)


def _of_layer(layer: Layer | AssembledLayer, typed: str | None = None) -> Origin:
    if layer.name in ZOO and layer.digest == named_layer(layer.name).digest:
        entry = ZOO[layer.name]
        words = f"{layer.name} of the zoo of evonas: {entry.summary}. Source: {entry.source}."
        return Origin(layer, words, f"evonas export {layer.name} -o DIR", published=entry.source)
    if isinstance(layer, Layer) and layer.stateful and layer.name == layer.stateful:
        known = stateful_entry(layer.stateful)
        words = f"{layer.name}, a layer with state: {known.summary}. Source: {known.source}."
        return Origin(layer, words, f"evonas export {layer.name} -o DIR", published=known.source)
    words = "A formula that was given to evonas; nothing is recorded about how it was found."
    argument = typed if typed is not None else layer.formula
    return Origin(layer, words, f'evonas export "{argument}" -o DIR')


def _of_run(run: Run, candidate: int | str | None) -> Origin:
    row = run.candidate("best" if candidate is None else candidate)
    number = int(row["candidate"])
    settings = open_settings(run.directory)
    space = recorded_space(run.directory, settings, allow_change=True)
    if not row["formula"] and not row["genotype"]:
        raise UsageError(f"candidate {number} of {run.id} has no formula", hint=f"evonas top {run.path}")

    def formula(one: dict[str, Any]) -> str:
        return one["formula"] or str(space.graph(one["genotype"]))

    layout = str(run.directory.space.get("layout", "nchw"))
    layer = candidate_from(formula(row), f"{run.id}/{number}", layout, str(run.id))
    table = run.table().to_pylist()
    rows = {r["candidate"]: r for r in table if r["arm"] != "rerank"}
    ancestors: list[dict[str, Any]] = []
    parent = row["parent"]
    while parent in rows and len(ancestors) < 50:
        one = rows[parent]
        ancestors.append({"candidate": one["candidate"], "origin": one["origin"], "mean": one["mean_score"],
                          "formula": formula(one)})  # fmt: skip
        parent = one["parent"]
    proxies = run.proxies
    arm = row["arm"]
    counted = [r for r in table if r["arm"] == arm]
    sent = [
        r
        for r in counted
        if r["outcome"] == "scored" or r["stage"] not in ("structural", "duplicate", "probe")
    ]
    from evonas.evaluation.funnel import GROUPS

    evaluation = settings.evaluation
    facts = {
        "run": run.id,
        "candidate": number,
        "arm": arm,
        "born_by": row["origin"],
        "parent": row["parent"],
        "outcome": row["outcome"],
        "rejected_by": row["stage"],
        "reason": row["reason"],
        "run_status": run.status,
        "created": run.directory.info.get("created"),
        "space": settings.search.space,
        "space_identity": run.directory.space.get("identity"),
        "strategy": settings.search.strategy,
        "seed": run.directory.info.get("seed"),
        "proposed": len(counted),
        "trained": len(sent),
        "on_front": number in [r["candidate"] for r in run.front(arm if arm != "baseline" else "search")],
        "proxies": list(proxies),
        "data": evaluation.data,
        "scale": evaluation.scale,
        "changes": dict(evaluation.changes),
        "layer_options": dict(evaluation.layer),
        "groups": evaluation.layer.get("groups", GROUPS.get(evaluation.scale, 32)),
        "budget": {
            "candidates": settings.search.candidates,
            "max_time_s": settings.search.max_time_s,
            "final_times_steps": settings.rerank.budget,
            "final_seeds": settings.rerank.seeds,
        },
        "recipes": _recipes(evaluation),
        "scores": {p: row[f"score_{p}"] for p in proxies},
        "mean": row["mean_score"],
        "latency_us": row["latency_us"],
        "seconds": row["seconds"],
        "versions": run.directory.info.get("versions", {}),
        "command": run.command,
    }
    words = (
        f"Candidate {number} of the run {run.id} ({arm}, {row['origin']}), a search of evonas in the space "
        f"{settings.search.space} with seed {facts['seed']}."
    )
    return Origin(layer, words, f"evonas export {run.id} {number} -o DIR", facts, run.ranking(), ancestors)


#: Of a proxy's spec, what a training is made of.
RECIPE = ("optimiser", "lr", "schedule", "warmup", "batch", "steps", "momentum", "betas", "weight_decay",
          "label_smoothing", "clip")  # fmt: skip


def _recipes(evaluation: EvaluationSettings) -> dict[str, dict[str, Any]]:
    """Network -> the hyper-parameters of its trainings, as this version of evonas has them; empty where another
    evaluator, or a plug-in that is not there, knows them."""
    from evonas.proxies.registry import check_changes, spec_of

    if evaluation.evaluator != "proxies":
        return {}
    try:
        changes = check_changes(evaluation.changes, evaluation.scale, evaluation.proxies)
        specs = {p: spec_of(p, evaluation.scale, changes[p]).to_dict() for p in evaluation.proxies}
    except EvonasError:
        return {}
    return {p: {key: spec[key] for key in RECIPE if key in spec} for p, spec in specs.items()}


def more_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a row of the final table says beyond scores: the sweep of the learning rate, shares of the data."""
    return {k: v for k, v in row.items() if k not in _KNOWN_ROW}
