"""Everything a report says, as plain values: the pages are two ways of writing this down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.evolution import non_dominated
from evonas.report.agreement import agreement
from evonas.report.pictures import Pictures
from evonas.report.reading import Reading, Told
from evonas.run.objectives import LATENCY, vector
from evonas.run.run import Run
from evonas.run.verdict import verdict
from evonas.run.wording import seconds

#: Candidates whose formulas are typeset and drawn: all that matter, and the best of the rest up to this many.
DRAWN = 300


def report_content(run: Run) -> dict[str, Any]:
    """What is known of a run, live or dead, as JSON-able values.

    Raises:
        UsageError: the run has no log yet. LogCorrupt: damage that is not a torn tail.
    """
    config = run.config
    reading = Reading(run.events(), run.causal)
    proxies = list(run.proxies)
    scored = reading.scored()
    fronts = _fronts(scored)
    lines = {
        f["candidate"]: _lineage(reading, f["candidate"])
        for f in _finalists(reading)
        if f["arm"] != "baseline"
    }
    needed = fronts | {t.candidate for t in scored if t.arm == "baseline"} | set(lines)
    needed |= {step["candidate"] for line in lines.values() for step in line}
    pictures = Pictures()
    drawn = sorted(scored, key=lambda t: t.candidate not in needed)[: max(DRAWN, len(needed))]
    for told in (*drawn, *(reading.told[c] for c in needed if c in reading.told)):
        pictures.add(told.formula)
    ranking = [dict(r) for r in reading.ranking]
    for row in ranking:
        pictures.add(row["formula"])
    return {
        "run": _about(run, reading, config),
        "proxies": proxies,
        "axes": _axes(proxies, any(t.latency is not None for t in scored)),
        "verdict": verdict(ranking),
        "ranking": ranking,
        "points": [_point(t, proxies, t.candidate in fronts, pictures) for t in scored],
        "funnel": reading.funnel.rows(),
        "best": {arm: [list(step) for step in steps] for arm, steps in reading.best.items()},
        "lineages": {str(c): line for c, line in lines.items()},
        "agreement": agreement(reading),
        "sensitivity": _sensitivity(ranking, proxies),
        "unmeasured": unmeasured(run, reading, config),
        "pictures": pictures.to_dict(),
    }


def _about(run: Run, reading: Reading, config: Mapping[str, Any]) -> dict[str, Any]:
    info, search = run.directory.info, config.get("search", {})
    return {
        "id": run.id,
        "status": run.status,
        "created": info.get("created"),
        "space": search.get("space", info.get("space")),
        "strategy": search.get("strategy"),
        "control": search.get("control"),
        "seed": info.get("seed"),
        "scale": config.get("evaluation", {}).get("scale"),
        "command": run.command,
        "versions": info.get("versions", {}),
        "machine": _machine(run),
        "events": reading.events,
        "duration": seconds(60 * reading.minutes),
        "proposed": dict(reading.funnel.proposed),
        "scored": dict(reading.funnel.scored),
        "replicates": reading.replicates,
        "lost": reading.lost,
        "resumes": reading.resumes,
        "objectives": run.objectives,
    }


def _machine(run: Run) -> dict[str, Any]:
    """What environment.json says of the machine; empty for a run that lacks the file."""
    try:
        found = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: found.get(key) for key in ("python", "platform", "cpus", "gpus")}


def _axes(proxies: Sequence[str], timed: bool) -> list[dict[str, Any]]:
    """What the scatter can show: key of a point, label, whether more is better."""
    axes = [{"key": p, "label": f"{p}, score", "more": True} for p in proxies]
    axes.append({"key": "mean", "label": "mean score", "more": True})
    if timed:
        axes.append({"key": "latency", "label": "latency, us", "more": False})
    return [
        *axes,
        {"key": "operations", "label": "operations in the formula", "more": False},
        {"key": "candidate", "label": "candidate number", "more": None},
    ]


def _fronts(scored: Sequence[Told]) -> set[int]:
    """Candidates that nothing of their arm dominates."""
    found = set()
    for arm in {t.arm for t in scored}:
        members = [t for t in scored if t.arm == arm]
        points = [vector(t.scores or (), t.latency) for t in members]
        found |= {members[i].candidate for i in non_dominated(points)}
    return found


def _finalists(reading: Reading) -> Sequence[Mapping[str, Any]]:
    """Finalists of the re-ranking; before it, the best of every arm."""
    if reading.ranking or reading.finalists:
        return reading.ranking or reading.finalists
    return [
        {"candidate": told.candidate, "arm": arm}
        for arm in ("search", "control")
        for told in [t for t in reading.scored() if t.arm == arm][:3]
    ]


def _point(told: Told, proxies: Sequence[str], front: bool, pictures: Pictures) -> dict[str, Any]:
    mean = told.mean
    return {
        "candidate": told.candidate,
        "arm": told.arm,
        "name": told.name or f"{told.arm}/{told.candidate}",
        "formula": told.formula,
        "operations": pictures.operations(told.formula),
        "scores": dict(zip(proxies, told.scores or (), strict=False)),
        "mean": mean,
        "latency": told.latency,
        "parent": told.parent,
        "origin": told.origin,
        "minutes": told.minutes,
        "front": front,
    }


def _lineage(reading: Reading, candidate: int) -> list[dict[str, Any]]:
    """From the oldest ancestor that was evaluated to the candidate: what each mutation changed the mean score by."""
    steps = []
    before: float | None = None
    for told in reversed(reading.lineage(candidate)):
        gain = None if told.mean is None or before is None else told.mean - before
        steps.append(
            {"candidate": told.candidate, "origin": told.origin, "formula": told.formula, "mean": told.mean,
             "gain": gain, "outcome": told.outcome}
        )  # fmt: skip
        before = told.mean
    return steps


def _sensitivity(ranking: Sequence[Mapping[str, Any]], proxies: Sequence[str]) -> list[dict[str, Any]]:
    """Per finalist with a sweep: the chosen factor on the learning rate and what the sweep's worst point loses."""
    return [
        {"name": row["name"], "arm": row["arm"], "lr": row.get("lr") or {}, "loss": row.get("sensitivity") or {},
         "sweep": row.get("sweep") or {}}
        for row in ranking
        if any((row.get("sensitivity") or {}).get(p) is not None for p in proxies)
    ]  # fmt: skip


def unmeasured(run: Run, reading: Reading, config: Mapping[str, Any]) -> list[str]:
    """What a reader might take for measured and is not, in words."""
    found = []
    evaluation, rerank = config.get("evaluation", {}), config.get("rerank", {})
    if run.status not in ("finished", "empty"):
        so_far = seconds(60 * reading.minutes)
        found.append(f"The run is {run.status}: everything here is as of {so_far} after its start.")
    if evaluation.get("scale", "tiny") == "tiny":
        found.append(
            "Networks and trainings are tiny. The scores tell layers that train from layers that do not; "
            "what they say of large networks was not measured."
        )
    if not reading.ranking:
        found.append(
            "No re-ranking on fresh seeds: scores are of one seed, on the data that the search selected by."
        )
    short = [f"{r['name']} ({r['n']})" for r in reading.ranking if r["n"] < int(rerank.get("seeds", 0))]
    if short:
        found.append(
            f"Fewer fresh seeds than the {rerank.get('seeds')} that were planned: {', '.join(short)}."
        )
    if reading.ranking and not any(row.get("sensitivity") for row in reading.ranking):
        found.append(
            "Learning rates were not tuned per layer, so sensitivity to hyper-parameters is unknown; "
            "rerank.lr_factors sweeps them."
        )
    if LATENCY not in run.objectives:
        found.append("Speed was no objective and was not measured.")
    elif "model" in str(run.objectives[LATENCY].get("source", "")):
        found.append(f"Latencies are from a model, {run.objectives[LATENCY]['source']}; nothing was timed.")
    dropped = sum(r["rejected"] for r in reading.funnel.rows() if r["stage"] == "matter")
    if dropped:
        which = "1 candidate was" if dropped == 1 else f"{dropped:,} candidates were"
        found.append(
            f"{which} not trained on the remaining proxies, because of scores too low to matter any more."
        )
    if config.get("search", {}).get("control") == "none":
        found.append("There was no random control, so nothing here says what evolution adds to luck.")
    if reading.lost:
        found.append(f"{reading.lost} evaluations were lost with their worker and sent out again.")
    if not all(math.isfinite(t.mean or 0.0) for t in reading.scored()):
        found.append("Some scores are not finite.")
    return found
