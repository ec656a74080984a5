"""The verbs that write: `search` and `resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evonas.cli import completion
from evonas.cli.options import (
    Address,
    AllowChange,
    Backend,
    Candidates,
    Json,
    MaxTime,
    Plugin,
    Proxies,
    Quiet,
    RunArgument,
    Runs,
    Sets,
    Space,
    Workers,
)

Text = Annotated[str | None, typer.Option(metavar="NAME")]


def search(
    space: Space = None,
    workers: Workers = None,
    candidates: Candidates = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Drawn and printed if not given.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="ageing, nsga2 or random.", autocompletion=completion.strategies),
    ] = None,
    control: Annotated[
        str | None, typer.Option(metavar="NAME", help="Strategy of the control arm, random or none.")
    ] = None,
    proxies: Proxies = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="accuracy, or accuracy,latency. [default: accuracy]",
            autocompletion=completion.objectives,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="tiny, small or paper.", autocompletion=completion.scales),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Data set.")] = None,
    data_path: Annotated[str | None, typer.Option(metavar="DIR", help="Its folder.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or cuda:0.")] = None,
    kernels: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Train on generated kernels: auto, on or off. [default: auto]"),
    ] = None,
    parametrization: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="How rates and scales follow the width: standard or mup. [default: standard]"
        ),
    ] = None,
    max_time: MaxTime = None,
    backend: Backend = None,
    address: Address = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in TOML.")] = None,
    set_: Sets = None,
    plugin: Plugin = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", envvar="EVONAS_RUNS", help="Where the run's folder is made.")
    ] = "runs",
    seed_layer: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMULA", help="A layer that the search begins with; several times."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run.", autocompletion=completion.runs)
    ] = None,
    allow_change: AllowChange = False,
    no_rerank: Annotated[bool, typer.Option("--no-rerank", help="No re-ranking on fresh seeds.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it costs, make nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Discover layers: run a search and compare what it finds with the known layers."""
    from evonas.cli.search import Request
    from evonas.cli.search import resume as go_on
    from evonas.cli.search import search as begin
    from evonas.cli.values import duration, names

    request = Request(
        flags={
            "search.space": space,
            "search.candidates": candidates,
            "search.seed": seed,
            "search.strategy": strategy,
            "search.control": control,
            "search.max_time_s": duration(max_time),
            "search.seeds": seed_layer or None,
            "evaluation.proxies": names(proxies),
            "search.objectives": names(objectives),
            "evaluation.scale": scale,
            "evaluation.data": data,
            "evaluation.data_path": data_path,
            "evaluation.device": device,
            "evaluation.kernels": kernels,
            "evaluation.parametrization": parametrization,
            "workers.count": workers,
            "workers.backend": backend,
            "workers.address": address,
            "rerank.seeds": 0 if no_rerank else None,
        },
        sets=set_ or (), config=config, plugins=plugin or (), out=out, allow_change=allow_change,
        quiet=quiet, json=json,
    )  # fmt: skip
    if dry_run:
        from evonas.cli.dry_run import dry_run as show_plan
        from evonas.errors import UsageError

        if resume is not None:
            raise UsageError(
                "--dry-run plans a new run", hint=f"evonas status {resume} shows what is left of one"
            )
        return show_plan(request)
    return begin(request) if resume is None else go_on(request, resume)


def resume(
    run: RunArgument,
    workers: Workers = None,
    candidates: Candidates = None,
    max_time: MaxTime = None,
    backend: Backend = None,
    address: Address = None,
    set_: Sets = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    allow_change: AllowChange = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Go on with a run that was interrupted or killed, or give a finished one a larger budget."""
    from evonas.cli.search import Request
    from evonas.cli.search import resume as go_on
    from evonas.cli.values import duration

    request = Request(
        flags={
            "search.candidates": candidates,
            "search.max_time_s": duration(max_time),
            "workers.count": workers,
            "workers.backend": backend,
            "workers.address": address,
        },
        sets=set_ or (), plugins=plugin or (), out=runs, allow_change=allow_change, quiet=quiet, json=json,
    )  # fmt: skip
    return go_on(request, run)
