"""A run as an object: what came out, read from its folder at any time, live or dead."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evonas.errors import UsageError
from evonas.layers import AssembledLayer, Layer, candidate_from
from evonas.run.candidates import candidate_table
from evonas.run.directory import RunDirectory, find_run
from evonas.run.funnel_table import FunnelTable
from evonas.run.lock import lock_holder
from evonas.run.log import read_events
from evonas.run.objectives import describe_objectives, vector
from evonas.run.schema import Event
from evonas.run.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


class Run:
    """A run on disk. Every method reads the log as it is now; nothing is cached but the folder.

    Args:
        directory: a run folder, as an object, a path, a name, the beginning of one, or "latest".
        root: where runs are looked for by name.

    Raises:
        UsageError: no such run, or a name that no file can have.
    """

    def __init__(
        self, directory: RunDirectory | str | os.PathLike[str], root: str | os.PathLike[str] = "runs"
    ) -> None:
        if isinstance(directory, RunDirectory):
            self.directory = directory
            return
        try:
            self.directory = find_run(os.fspath(directory), root)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(
                f"no run {os.fspath(directory)[:100]!r}: {reason}", hint="evonas status"
            ) from None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.directory.path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.directory.id

    @property
    def command(self) -> str | None:
        """What was typed to start it, ``evonas search ...``, wherever the program lay; None if that was not kept."""
        try:
            text = (self.path / "command.txt").read_text(encoding="utf-8").strip()
        except OSError:
            return None
        try:
            program, *rest = shlex.split(text) or [""]
        except ValueError:  # cut off within quotes
            return text
        return (shlex.join(["evonas", *rest]) if program.rpartition("/")[2] == "evonas" else text) or None

    @property
    def status(self) -> str:
        """running, interrupted, finished, empty, failed; "killed" if it says running and nobody writes to it."""
        status = RunDirectory.open(self.path).status
        if status == "running" and lock_holder(self.path) is None:
            return "killed"
        return status

    @property
    def config(self) -> dict[str, Any]:
        """The settings in config.toml as nested values, checked; a setting that was None is absent.

        Raises:
            UsageError: a section, a key or a value that no setting has.
        """
        recorded = self.directory.config
        try:
            Settings.from_dict(recorded)
        except UsageError as error:
            raise UsageError(
                f"{self.path / 'config.toml'} is damaged: {error.message}",
                hint=error.hint or "restore it from a copy; the events do not depend on it",
            ) from error
        return recorded

    @property
    def proxies(self) -> tuple[str, ...]:
        """Proxy names, in the order of the scores."""
        return tuple(self.config.get("evaluation", {}).get("proxies", ()))

    @property
    def objectives(self) -> dict[str, dict[str, str]]:
        """What the search optimises, by name: direction, unit, source."""
        return describe_objectives(self.config)

    def events(self) -> Iterator[Event]:
        """Every event in order."""
        return read_events(self.path)

    def table(self) -> pa.Table:
        """One row per candidate; see ``evonas.run.candidates.candidate_table``."""
        return candidate_table(self.path)

    def scored(self, arm: str | None = "search") -> list[dict[str, Any]]:
        """Scored candidates of an arm (None: of all), best mean first: id, arm, formula, scores, mean; with
        latency_us (microseconds) where latency is an objective, whose source ``objectives`` names."""
        found = []
        proxies = self.proxies
        for row in self.table().to_pylist():
            if row["outcome"] == "scored" and row["arm"] != "rerank" and arm in (None, row["arm"]):
                scores = {p: row[f"score_{p}"] for p in proxies}
                cost = {} if row["latency_us"] is None else {"latency_us": row["latency_us"]}
                found.append(
                    {"candidate": row["candidate"], "arm": row["arm"], "formula": row["formula"],
                     "parent": row["parent"], "origin": row["origin"], "scores": scores,
                     "mean": fmean(scores.values()), **cost}
                )  # fmt: skip
        return sorted(found, key=lambda r: (-r["mean"], r["candidate"]))

    def front(self, arm: str = "search") -> list[dict[str, Any]]:
        """The non-dominated scored candidates of an arm, best mean first."""
        from evonas.evolution import non_dominated

        rows = self.scored(arm)
        points = [vector(tuple(r["scores"].values()), r.get("latency_us")) for r in rows]
        return [rows[i] for i in sorted(non_dominated(points))]

    def ranking(self) -> list[dict[str, Any]]:
        """The re-ranking's table, best held-out mean first; empty before it has ended (or begun anew)."""
        found: list[dict[str, Any]] = []
        for event in self.events():
            if event.kind == "rerank_finished":
                found = event.details()["ranking"]
            elif event.kind == "rerank_planned" or (
                event.kind == "resumed" and "candidates" in event.details()
            ):
                found = []
        return found

    def funnel(self) -> FunnelTable:
        """Counters of every stage."""
        table = FunnelTable(self.causal)
        for event in self.events():
            table.add(event)
        return table

    @property
    def causal(self) -> bool:
        """Whether candidates were tested for causality; False where space.json does not say."""
        try:
            return bool(self.directory.space.get("options", {}).get("causal"))
        except UsageError:
            return False

    def candidate(self, candidate: int | str) -> dict[str, Any]:
        """Everything that is known of one candidate. "best": the search's layer that the re-ranking
        chose on validation images, before that the best of the front.

        Raises:
            UsageError: no such candidate.
        """
        number = self._number(candidate)
        for row in self.table().to_pylist():
            if row["candidate"] == number:
                return row
        raise UsageError(f"run {self.id} has no candidate {candidate}", hint=f"evonas top {self.path}")

    def _number(self, candidate: int | str) -> int:
        if candidate == "best":
            ranked = [r["candidate"] for r in self.ranking() if r["arm"] == "search" and r["chosen"]]
            ranked = ranked or [r["candidate"] for r in self.front()]
            if not ranked:
                raise UsageError(
                    f"run {self.id} has no scored candidate yet", hint=f"evonas status {self.path}"
                )
            return int(ranked[0])
        try:
            return int(candidate)
        except ValueError:
            raise UsageError(f"{candidate!r} is not a candidate", hint='give its number or "best"') from None

    def layer(self, candidate: int | str = "best") -> Layer | AssembledLayer:
        """The layer of a candidate that was sent out to be trained.

        Raises:
            UsageError: no such candidate, or one that a cheap stage turned away.
        """
        row = self.candidate(candidate)
        if row["formula"] is None:
            raise UsageError(
                f"candidate {candidate} was turned away by stage {row['stage']}: {row['reason']}"
            )
        layout = str(self.directory.space.get("layout", "nchw"))
        return candidate_from(row["formula"], f"{self.id}/{row['candidate']}", layout, str(self.path))

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.status}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: status, and the front with its formulas typeset."""
        from evonas.run.notebook import run_html

        return run_html(self)
