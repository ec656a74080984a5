"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli import completion

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Runs = Annotated[
    str,
    typer.Option("--runs", metavar="DIR", envvar="EVONAS_RUNS", help="Folder in which runs are looked for."),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", help="A Python file to load first; may be given several times."),
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help='A run folder, its name, the beginning of it, or "latest".',
        autocompletion=completion.runs,
    ),
]  # fmt: skip
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as rerank.seeds=5; several times."),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Evaluation slots.")]
Candidates = Annotated[
    int | None, typer.Option("--candidates", metavar="N", help="Candidates to evaluate, per arm.")
]
MaxTime = Annotated[
    str | None,
    typer.Option("--max-time", metavar="TIME", help="End after 10m, 90s, 1h30m, re-ranking included."),
]
Backend = Annotated[str | None, typer.Option("--backend", metavar="KIND", help="auto, inline, local or ray.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="Of a running Ray cluster.")
]
AllowChange = Annotated[
    bool, typer.Option("--allow-change", help="Resume although the space or a plug-in has changed.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No panel and no narration.")]

Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="NAME",
        help="Search space. [default: norm_act]",
        autocompletion=completion.spaces,
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="ageing, nsga2 or random.",
        autocompletion=completion.strategies,
    ),
]
Proxies = Annotated[
    str | None,
    typer.Option(
        "--proxies",
        metavar="A,B",
        help="Proxies to train on, separated by commas.",
        autocompletion=completion.proxies,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option("--scale", metavar="NAME", help="tiny, small or paper.", autocompletion=completion.scales),
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="RUN", help="Go on with this run.", autocompletion=completion.runs),
]
MaybeRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="Without it, all runs.", autocompletion=completion.runs),
]
