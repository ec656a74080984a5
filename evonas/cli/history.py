"""How a candidate of a run came about: its ancestors, what every stage said of it, its scores."""

from __future__ import annotations

from typing import Any

from evonas.cli.output import emit, table
from evonas.errors import UsageError
from evonas.layers import AssembledLayer, Layer, candidate_from
from evonas.run.run import Run
from evonas.run.session import open_settings, recorded_space
from evonas.run.units import Units
from evonas.run.wording import microseconds, score, seconds

_DEPTH = 50


class History:
    """One candidate and its events.

    Args:
        run: where it is from; the plug-ins that the run names are loaded.
        candidate: its id, or "best".

    Raises:
        UsageError: no such candidate.
    """

    def __init__(self, run: Run, candidate: str) -> None:
        self.run = run
        self.row = run.candidate(candidate)
        self.id = int(self.row["candidate"])
        self._space = recorded_space(run.directory, open_settings(run.directory))
        rows = {r["candidate"]: r for r in run.table().to_pylist()}
        self.rows = rows
        self.reports: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self.ranking = next((r for r in run.ranking() if r["candidate"] == self.id), None)
        for event in run.events():
            if event.candidate != self.id:
                continue
            if event.kind == "finished":
                self.reports = event.details().get("reports", [])
            elif event.kind == "attempt_lost":
                self.lost.append(str(event.reason))

    def formula(self, row: dict[str, Any]) -> str:
        """The formula, read from the genotype where a cheap stage turned the candidate away."""
        return row["formula"] or str(self._space.graph(row["genotype"]))

    def layer(self) -> Layer | AssembledLayer:
        """The candidate as a layer."""
        name, layout = f"{self.run.id}/{self.id}", self._space.layout.name
        if not self.row["formula"] and not self.row["genotype"]:
            raise UsageError(f"candidate {self.id} has no graph", hint=f"evonas top {self.run.path}")
        return candidate_from(self.formula(self.row), name, layout, str(self.run.path))

    def ancestors(self) -> list[dict[str, Any]]:
        """The candidate's parent, its parent and so on."""
        found: list[dict[str, Any]] = []
        row = self.row
        while row["parent"] is not None and len(found) < _DEPTH and row["parent"] in self.rows:
            row = self.rows[row["parent"]]
            found.append(
                {"candidate": row["candidate"], "arm": row["arm"], "origin": row["origin"],
                 "outcome": row["outcome"], "stage": row["stage"], "mean": row["mean_score"],
                 "formula": self.formula(row)}
            )  # fmt: skip
        return found

    def content(self) -> dict[str, Any]:
        """Plain values for the JSON document."""
        row = self.row
        return {
            "run": str(self.run.path),
            "candidate": self.id,
            **{k: row[k] for k in ("arm", "origin", "parent", "outcome", "stage", "reason", "attempts")},
            "seconds": row["seconds"],
            "scores": {p: row[f"score_{p}"] for p in self.run.proxies},
            "mean": row["mean_score"],
            **({} if row["latency_us"] is None else {"latency_us": row["latency_us"]}),
            "lost_attempts": self.lost,
            "reports": self.reports,
            "ancestors": self.ancestors(),
            "ranking": self.ranking,
        }


def print_history(history: History) -> None:
    """Verdicts, scores and ancestors as tables."""
    about = history.content()
    where = f"stage {about['stage']}: {about['reason']}" if about["stage"] else ""
    print(f"\ncandidate {about['candidate']} of {about['run']}: {about['arm']}, {about['origin']}, "
          f"{about['outcome']} {where}".rstrip())  # fmt: skip
    units = Units(about["scores"])
    scores = ", ".join(f"{p} {units.value(p, v)}" for p, v in about["scores"].items())
    print(f"validation scores: {scores}, mean {score(about['mean'])}")
    if "latency_us" in about:
        source = history.run.objectives["latency"]["source"]
        print(f"latency: {microseconds(about['latency_us'])} us ({source})")
    for reason in about["lost_attempts"]:
        print(f"lost attempt: {reason}")
    if about["reports"]:
        lines = [
            (r["stage"], r["proxy"], "passed" if r["passed"] else f"no: {r['reason']}", seconds(r["seconds"]),
             ", ".join(f"{k} {_short(v)}" for k, v in r["evidence"].items()))
            for r in about["reports"]
        ]  # fmt: skip
        columns = ["stage", "proxy", "verdict", "time", "evidence"]
        emit("", table("Verdicts", columns, lines, right=["time"], fold=["evidence"]))
    if about["ancestors"]:
        rows = [
            (a["candidate"], a["origin"], a["outcome"], score(a["mean"]), a["formula"])
            for a in about["ancestors"]
        ]
        columns = ["id", "origin", "outcome", "mean", "formula"]
        emit(table("Ancestors, nearest first", columns, rows, right=["id", "mean"], fold=["formula"]))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
