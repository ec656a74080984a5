"""The verbs that look at the installation: `list` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli.options import Json, Plugin


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="spaces, primitives, proxies, layers, data, strategies or plugins."
        ),
    ],
    plugin: Plugin = None,
    json: Json = False,
) -> int:
    """What there is to choose from."""
    from evonas.cli.listing import list_things

    return list_things(what, plugins=plugin or (), json=json)


def doctor(
    out: Annotated[
        str, typer.Option(metavar="DIR", envvar="EVONAS_RUNS", help="The folder for runs to check.")
    ] = "runs",
    ray: Annotated[bool, typer.Option("--ray", help="Start Ray and call a function.")] = False,
    plugin: Plugin = None,
    json: Json = False,
) -> int:
    """Check this machine: each line ok, warn or fail, with what to do about it."""
    from evonas.cli.doctor import doctor as examine

    return examine(out, start_ray=ray, plugins=plugin or (), json=json)
