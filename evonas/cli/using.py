"""The verbs that take something out of a run: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evonas.cli.options import Json, Plugin, RunArgument, Runs


def report(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Instead of report/ in the run's folder."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="html, md or tensorboard. [default: by FILE, or html]"),
    ] = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """Write a page about a run: front, ranking, funnel, lineage, what was not measured. Opens from disk."""
    from evonas.cli.report import report as write

    return write(run, runs, output=output, style=format_, plugins=plugin or (), json=json)
