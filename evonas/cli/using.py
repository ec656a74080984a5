"""The verbs that use what was found: `report`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evonas.cli import completion
from evonas.cli.options import Json, Plugin, Proxies, RunArgument, Runs, Scale, Sets, Workers


def report(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Instead of report/ in the run's folder."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="html, md or tensorboard. [default: by FILE, or html]",
            autocompletion=completion.report_formats,
        ),
    ] = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """Write a page about a run: front, ranking, funnel, lineage, what was not measured. Opens from disk."""
    from evonas.cli.report import report as write

    return write(run, runs, output=output, style=format_, plugins=plugin or (), json=json)


def compare(
    layers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LAYER...",
            help="Zoo names, pairs (rms_norm+silu), formulas, files, RUN:ID or RUN:best; none with --resume.",
            autocompletion=completion.layers,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="LAYER", help="What the others are compared with. [default: the first]"),
    ] = None,
    proxies: Proxies = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Trainings per layer, paired. [default: 3]")
    ] = None,
    scale: Scale = None,
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Data set.")] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="On the training steps. [default: 1.5]")
    ] = None,
    lr_factors: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="On every learning rate; the best is taken. none: no sweep. [default: 0.5,1,2]",
        ),
    ] = None,
    data_shares: Annotated[
        str | None, typer.Option(metavar="A,B", help="Shares of the training data to train on too.")
    ] = None,
    workers: Workers = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or cuda:0.")] = None,
    kernels: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Train on generated kernels: auto, on or off.")
    ] = None,
    parametrization: Annotated[str | None, typer.Option(metavar="KIND", help="standard or mup.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything. [default: 0]")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with every training, written as they come.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on with such a file: only what is missing.")
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE", help="A picture, .svg or .png.")] = None,
    set_: Sets = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """Compare layers fairly: same budget, same sweep, paired seeds; means, intervals, win counts."""
    from evonas.cli.compare import compare as run
    from evonas.cli.values import names

    return run(
        layers or [],
        reference=reference,
        flags={
            "evaluation.proxies": names(proxies),
            "evaluation.scale": scale,
            "evaluation.data": data,
            "evaluation.device": device,
            "evaluation.kernels": kernels,
            "evaluation.parametrization": parametrization,
            "rerank.seeds": seeds,
            "rerank.budget": budget,
            "rerank.lr_factors": [] if lr_factors == "none" else names(lr_factors),
            "rerank.data_shares": names(data_shares),
            "search.seed": seed,
            "workers.count": workers,
        },
        sets=set_ or (), plugins=plugin or (), runs=runs, out=out, resume=resume, plot=plot, json=json,
    )  # fmt: skip
