"""Where a report goes: a file in the run's own folder, or wherever the user says, all or nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from evonas import __version__
from evonas.errors import UsageError, unknown_name
from evonas.report.content import report_content
from evonas.report.html import html_page
from evonas.report.markdown import markdown_page
from evonas.run._files import unusable, write_text
from evonas.run.run import Run

_PAGES = {"html": ("report.html", html_page), "md": ("report.md", markdown_page)}
_ENDINGS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}
FORMATS = (*_PAGES, "tensorboard")


def write_report(run: Run, path: str | Path | None = None, *, style: str | None = None) -> Path:
    """Write the report of a run, live or dead, and return its path; calling it again brings it up to date.

    Args:
        path: the file; None for ``report/report.html`` (or .md) in the run's folder. A folder takes the default name.
        style: "html", "md", or "tensorboard" for a folder of scalars (``evonas.run.tensorboard``). None for what the
            ending of the file says, "html" where there is none.

    Raises:
        UsageError: an unknown format, a file whose ending is that of another one, or a run without a log.
        LogCorrupt: damage that is not a torn tail. EnvironmentUnusable: the file cannot be written.
    """
    if style is not None and style not in FORMATS:
        raise unknown_name("format", style, FORMATS, hint="--format html or --format md")
    if style == "tensorboard":
        return _tensorboard(run, path)
    target = run.path / "report" if path is None else Path(path)
    if path is None or target.is_dir():
        style = style or "html"
        target = target / _PAGES[style][0]
    else:
        style = _style_of(target, style)
    page = _PAGES[style][1]
    now = datetime.now(timezone.utc)
    footer = f"Written by evonas {__version__} at {now:%Y-%m-%d %H:%M:%S} UTC from {run.id}."
    text = page(report_content(run), footer)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(f"creating {target.parent}", error) from error
    write_text(target, text)
    return target


def _style_of(target: Path, style: str | None) -> str:
    """The format of a file, by its ending."""
    ending = target.suffix.lower()
    if ending not in _ENDINGS:
        raise UsageError(
            f"{target} does not name a page",
            hint=f"name a file such as {target}.{style or 'html'}, or an existing folder",
        )
    found = _ENDINGS[ending]
    if style is not None and style != found:
        raise UsageError(
            f"{target} names a page in {found}, and the format is to be {style}",
            hint=f"--format {found}, or name a file such as {target.with_suffix('.' + style)}",
        )
    return found


def _tensorboard(run: Run, path: str | Path | None) -> Path:
    from evonas.run.tensorboard import to_tensorboard

    try:
        return to_tensorboard(run, path)
    except OSError as error:
        where = run.path / "report" if path is None else path
        raise unusable(f"writing TensorBoard files to {where}", error) from error
