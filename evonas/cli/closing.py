"""What a search says when it has ended: front, re-ranking, verdict, funnel, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evonas.cli.output import emit
from evonas.cli.progress import read_progress
from evonas.cli.tables import funnel_table, ranking_tables, score_table
from evonas.run.verdict import verdict
from evonas.run.wording import seconds

if TYPE_CHECKING:
    from evonas.run.run import Run


def print_closing(run: Run) -> None:
    """The report on stdout."""
    progress = read_progress(run.config, run.events())
    proxies = progress.proxies
    front = [r.to_dict(proxies) for r in progress.front()]
    print()
    if front:
        emit(
            score_table(
                f"Front of the search: {len(front)} layer{'s' * (len(front) != 1)}, validation scores",
                front,
                proxies,
                progress.latency_source,
            )
        )
    else:
        emit("No candidate of the search was trained to the end on every proxy.")
    if progress.ranking:
        emit(*ranking_tables(progress.ranking, proxies), *verdict(progress.ranking), "")
    work = seconds(sum(progress.work.values()))
    counts = (
        f"{progress.next_candidate} proposed, {progress.evaluations()} evaluated, {work} of work in the slots"
    )
    emit(funnel_table(progress.funnel), counts, "")
    print("next", *(f"  {command}" for command in next_commands(run, bool(front))), sep="\n")


def next_commands(run: Run, found: bool) -> list[str]:
    """Commands that make sense now."""
    path = run.path
    commands = [f"evonas top {path}"] if found else []
    commands += [f"evonas show {path} best"] if found else []
    commands.append(f"evonas replay {path} --verify")
    if run.status in ("interrupted", "killed", "failed", "created"):
        commands.insert(0, f"evonas resume {path}")
    return commands


def closing_document(run: Run) -> dict[str, Any]:
    """The report as plain values."""
    progress = read_progress(run.config, run.events())
    front = [r.to_dict(progress.proxies) for r in progress.front()]
    return {
        "run": str(run.path),
        "id": run.id,
        "seed": run.directory.info.get("seed"),
        "proxies": list(progress.proxies),
        "objectives": run.objectives,
        "front": front,
        "ranking": progress.ranking,
        "verdict": verdict(progress.ranking),
        "funnel": progress.funnel.rows(),
        "state": progress.state(),
        "next": next_commands(run, bool(front)),
    }
