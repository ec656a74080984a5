"""The verbs and their options. Importing this must stay quick: bodies import what they need."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli import checking, compiling, exporting, reading, running, using

app = typer.Typer(
    name="evonas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(running.search)
app.command()(running.resume)
app.command()(reading.status)
app.command()(reading.top)
app.command()(reading.show)
app.command()(reading.replay)
app.command()(exporting.export)
app.command()(using.report)
app.command()(using.compare)
app.command()(compiling.kernel)
app.command()(compiling.bench)
app.command("list")(checking.list_)
app.command()(checking.doctor)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from evonas.run.environment import package_versions

    versions = package_versions()
    words = [f"{name} {versions[name] or 'missing'}" for name in ("evonas", "torch", "triton", "ray")]
    typer.echo(", ".join(words))
    raise typer.Exit


@app.callback()
def evonas(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Versions, then exit.")
    ] = False,
) -> None:
    """Discovers normalization-activation layers by evolution."""
