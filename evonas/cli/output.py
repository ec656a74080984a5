"""Where output goes: results and JSON documents on stdout, narration and panels on stderr."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns of output that goes to a file or a pipe, where there is no terminal to ask.
PLAIN_WIDTH = 160
#: Columns that text which wraps is given at least; a table that has no room for that is wider than the terminal.
WRAPPED = 24


def console(*, stderr: bool = False, target: IO[str] | None = None) -> Console:
    """A console for stdout or stderr: plain text in a file, a pipe, a dumb terminal or under NO_COLOR.

    ``target`` takes what is printed instead of the stream that it is made for.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    live = is_live(stream)
    return Console(
        file=target or stream,
        force_terminal=live,
        no_color=True if "NO_COLOR" in os.environ or not live else None,
        width=None if stream.isatty() else PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def emit(*things: Any) -> None:
    """Print tables and texts on stdout, without the blanks that rich leaves at the ends of lines."""
    from rich.measure import Measurement

    buffer = io.StringIO()
    out = console(target=buffer)
    width = out.width
    for thing in things:
        out.width = width
        if not isinstance(thing, str):
            wide = out.options.update(width=10 * PLAIN_WIDTH)
            out.width = max(width, Measurement.get(out, wide, thing).minimum)
        out.print(thing)
    print("\n".join(line.rstrip() for line in buffer.getvalue().splitlines()))


def is_live(stream: Any = None) -> bool:
    """Whether a panel may be drawn on the stream (stderr by default)."""
    stream = sys.stderr if stream is None else stream
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def document(verb: str, content: Mapping[str, Any]) -> None:
    """Print the JSON document of a verb: one object with its schema first, NaN and infinities as null."""
    print(json.dumps({"schema": f"evonas.{verb}/1", **plain(content)}, indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """A value that JSON holds: tuples as lists, bytes as hex, numbers that are not finite as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right: Sequence[str] = (),
    fold: Sequence[str] = (),
) -> Table:
    """A table with light rules. ``right``: columns of numbers. ``fold``: columns that wrap rather than cut."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        title_style="bold",
        expand=False,
    )
    lines = [["" if v is None else str(v) for v in row] for row in rows]
    for n, name in enumerate(columns):
        longest = max(cell_len(text) for line in [columns, *lines] for text in line[n].splitlines() or [""])
        made.add_column(
            name,
            min_width=min(WRAPPED, longest) if name in fold else longest,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name not in fold,
        )
    for line in lines:
        made.add_row(*map(Text, line))
    return made
