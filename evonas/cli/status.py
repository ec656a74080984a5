"""`status`: how far a run is, from its folder alone; without a run, the list of runs."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from typing import Any

from evonas.cli.closing import next_commands
from evonas.cli.output import console, document, emit, is_live, table
from evonas.cli.panel import INTERVAL, picture
from evonas.cli.progress import Progress
from evonas.cli.tables import funnel_table, ranking_tables, score_table
from evonas.errors import EvonasError
from evonas.run.directory import list_runs
from evonas.run.lock import lock_holder
from evonas.run.run import Run
from evonas.run.schema import batch_events
from evonas.run.segments import LogState, segment_paths, walk
from evonas.run.wording import seconds

_SHOWN = 8


class Look:
    """A run as it is now: its progress, and what only the files tell."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.status = run.status
        self.holder = lock_holder(run.path)
        self.progress = Progress(run.config)
        state = LogState()
        folder = run.path / "events"
        if folder.is_dir() and segment_paths(folder):
            for batch in walk(run.path, state):
                for event in batch_events(batch):
                    self.progress.add(event)
        self.torn_bytes = state.torn_bytes

    @property
    def span(self) -> float:
        """Seconds between the first and the last event."""
        first, last = self.progress.first_ts, self.progress.last_ts
        return 0.0 if first is None or last is None else (last - first) / 1e6

    def line(self) -> str:
        """The state in one line."""
        p = self.progress
        counts = ", ".join(f"{arm} {p.finished[arm]}/{p.budget}" for arm in p.arms)
        baselines = f"baselines {p.finished['baseline']}/{p.baselines}"
        text = f"{self.status}; {p.phase}; {baselines}, {counts} evaluated; {len(p.flights)} in flight"
        if p.finalists is not None:
            text += f"; re-ranking {p.reranking()}"
        return text

    def content(self) -> dict[str, Any]:
        """Plain values of the JSON document."""
        p = self.progress
        info = self.run.directory.info
        return {
            "run": str(self.run.path),
            "id": self.run.id,
            "status": self.status,
            "space": info.get("space"),
            "seed": info.get("seed"),
            "created": info.get("created"),
            "attempts": info.get("attempts"),
            "versions": info.get("versions"),
            "writer": self.holder,
            "torn_bytes": self.torn_bytes,
            "first_event": _moment(p.first_ts),
            "last_event": _moment(p.last_ts),
            "seconds": self.span,
            "proxies": list(p.proxies),
            "objectives": self.run.objectives,
            "state": p.state(),
            "front": [r.to_dict(p.proxies) for r in p.front()],
            "ranking": p.ranking,
            "funnel": p.funnel.rows(),
        }


def _moment(ts: int | None) -> str | None:
    return None if ts is None else datetime.fromtimestamp(ts / 1e6, timezone.utc).isoformat()


def list_all(root: str, *, json: bool) -> int:
    """Every run below ``root``, oldest first; a folder that cannot be read says why."""
    rows = []
    for path in list_runs(root):
        try:
            run = Run(str(path), root)
            keep = {k: run.directory.info.get(k) for k in ("space", "seed", "created", "attempts")}
            rows.append({"run": str(path), "status": run.status, **keep})
        except EvonasError as error:
            rows.append({"run": str(path), "status": "unreadable", "reason": error.message})
    if json:
        document("runs", {"root": root, "runs": rows})
    elif rows:
        columns = ["run", "status", "space", "seed", "created"]
        emit(table(None, columns, [[r.get(c) for c in columns] for r in rows]))
        for row in rows:
            if "reason" in row:
                print(f"warning: {row['reason']}", file=sys.stderr)
    else:
        print(f"{root} holds no runs; start one with: evonas search --space norm_act")
    return 0


def show_status(spec: str, root: str, *, json: bool) -> int:
    """One picture of a run on stdout."""
    look = Look(Run(spec, root))
    if json:
        document("status", look.content())
        return 0
    p = look.progress
    info = look.run.directory.info
    print(f"run     {look.run.path}")
    print(f"status  {look.line()}")
    print(f"space   {info.get('space')}, seed {info.get('seed')}, attempt {info.get('attempts')}")
    if look.holder:
        print(f"writer  process {look.holder.get('pid')} since {look.holder.get('started')}")
    print(f"log     {p.events} events over {seconds(look.span)}, {p.next_candidate} proposed, "
          f"{seconds(sum(p.work.values()))} of work in the slots, {p.lost} attempts lost, {p.resumes} resumes"
          + (f", {look.torn_bytes} bytes of a torn tail" if look.torn_bytes else ""))  # fmt: skip
    front = [r.to_dict(p.proxies) for r in p.front()]
    if front:
        title = f"Front ({len(front)}), validation scores"
        emit("", score_table(title, front[:_SHOWN], p.proxies, p.latency_source))
    if p.ranking:
        emit(*ranking_tables(p.ranking, p.proxies))
    if p.funnel.stages:
        emit(funnel_table(p.funnel))
    print("next", *(f"  {command}" for command in next_commands(look.run, bool(front))), sep="\n")
    return 0


def watch_status(spec: str, root: str, every: float = 1.0) -> int:
    """Show the run until nobody writes to it: a panel on a terminal, else a line now and then."""
    run = Run(spec, root)
    if not is_live(sys.stdout):
        spoken, look = "", Look(run)
        while True:
            line = look.line()
            if line != spoken:
                print(line, flush=True)
            spoken = line
            if look.holder is None:
                return 0
            time.sleep(INTERVAL if look.progress.events else every)
            look = Look(run)
    from rich.live import Live

    out = console()
    with Live(console=out, auto_refresh=False) as live:
        while True:
            look = Look(run)
            live.update(picture(look.progress, look.line(), out.height), refresh=True)
            if look.holder is None:
                return 0
            time.sleep(every)
