"""The verb `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli import completion
from evonas.cli.options import Json, Plugin, Runs


def export(
    layer: Annotated[
        str,
        typer.Argument(
            metavar="RUN|LAYER",
            help="A run; or a layer by name, formula, file or bundle.",
            autocompletion=completion.layers,
        ),
    ],
    candidate: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help='A candidate of the run. [default: "best"]',
            autocompletion=completion.candidates,
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="The folder to make.")] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="A,B",
            help="Further formats: onnx, torch_export.",
            autocompletion=completion.bundle_formats,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of a bundle that is there.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the layer, for class and card.")
    ] = None,
    groups: Annotated[int, typer.Option(metavar="N", min=1, help="Default of the layer's groups.")] = 32,
    channels: Annotated[int, typer.Option(metavar="N", min=1, help="Of further formats.")] = 64,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """A layer as a folder that needs torch alone: module, kernels, test, picture, model card."""
    from evonas.cli.export import export as write

    return write(
        layer,
        candidate,
        out=out,
        to=to,
        force=force,
        name=name,
        groups=groups,
        channels=channels,
        plugins=plugin or (),
        runs=runs,
        json=json,
    )
