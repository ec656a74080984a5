"""The verbs that read a run or a layer: `status`, `top`, `show`, `replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli import completion
from evonas.cli.options import Json, Plugin, RunArgument, Runs


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Without it, all runs.", autocompletion=completion.runs),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep the picture up to date until it ends.")
    ] = False,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """How far a run is, live, dead or copied from elsewhere."""
    from evonas.cli.status import list_all, show_status, watch_status

    if run is None:
        return list_all(runs, json=json)
    return watch_status(run, runs) if watch else show_status(run, runs, json=json)


def top(
    run: RunArgument,
    arm: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="All scored of search, control, baseline or all, not the front."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many rows.")] = 20,
    sort: Annotated[str, typer.Option(metavar="NAME", help="mean, a proxy, or latency.")] = "mean",
    format_: Annotated[str, typer.Option("--format", metavar="NAME", help="table, json or csv.")] = "table",
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """The best layers of a run: its Pareto front, and the re-ranking once it has ended."""
    from evonas.cli.top import top as show_top

    return show_top(run, runs, arm=arm, limit=limit, sort=sort, style="json" if json else format_)


def show(
    layer: Annotated[
        str,
        typer.Argument(
            metavar="LAYER",
            help="A name, a formula, a file; or a run, with the id behind it.",
            autocompletion=completion.layers,
        ),
    ],
    candidate: Annotated[
        str | None, typer.Argument(metavar="[ID]", help='A candidate of the run, or "best".')
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="N,C,H,W", help="For the cost. [default: 1,64,56,56]")
    ] = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """One layer: formula, drawing, properties, cost; of a run's candidate also how it came about."""
    from evonas.cli.show import show as show_layer

    return show_layer(layer, candidate, shape=shape, plugins=plugin or (), runs=runs, json=json)


def replay(
    run: RunArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every decision with the log.")] = False,
    until: Annotated[int | None, typer.Option(metavar="SEQ", min=0, help="Stop after this event.")] = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """Fold the log into the state again; with --verify, exit code 3 and the first event that differs."""
    from evonas.cli.replay import replay as fold

    return fold(run, runs, verify=verify, until=until, json=json)
