"""`report`: writes the page of a run and says where it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evonas.cli.output import document
from evonas.plugins import describe_plugins, load_plugins
from evonas.report import write_report
from evonas.run.run import Run


def report(
    spec: str, root: str, *, output: Path | None, style: str | None, plugins: Sequence[str], json: bool
) -> int:
    """Write the page; its path is the only line on stdout.

    Raises:
        UsageError, PluginError, EnvironmentUnusable: see ``write_report``, ``Run`` and ``load_plugins``.
    """
    load_plugins(describe_plugins(list(plugins)))
    run = Run(spec, root)
    path = write_report(run, output, style=style)
    if json:
        style = style or ("md" if path.suffix.lower() in (".md", ".markdown") else "html")
        document("report", {"run": str(run.path), "format": style, "path": str(path), "status": run.status})
    else:
        print(path)
    return 0
