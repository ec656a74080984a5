"""Entry point: runs a verb, turns every error into one message and one exit code."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from evonas.errors import EvonasError

OK, INTERNAL, USAGE, MISMATCH, UNUSABLE, EMPTY, INTERRUPTED, STOPPED = 0, 1, 2, 3, 4, 5, 75, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``docs/cli.md`` lists the codes.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from evonas.cli.app import app

        code = app(given, standalone_mode=False, prog_name="evonas")
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except EvonasError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        return _unread()
    except KeyboardInterrupt:
        return _complain("stopped", None, STOPPED)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # click and rich leave this way
            return _unread()
        return error.code if isinstance(error.code, int) else USAGE
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors, whichever click typer brings along
            return _usage(error)
        if type(error).__name__ == "Abort":
            return STOPPED
        from evonas.cli.crash import record_crash

        path = record_crash(error)
        return _complain(
            f"internal error, {type(error).__name__}: {str(error)[:200]}",
            f"the traceback is in {path}; `evonas doctor` checks the machine",
            INTERNAL,
        )


def _unread() -> int:
    """Nobody reads stdout any more, so nobody reads what is still in its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return OK


def _complain(message: str, hint: str | None, code: int) -> int:
    lines = f"error: {message}" + (f"\n  -> {hint}" if hint else "")
    print(lines, file=sys.stderr, flush=True)
    return code


def _usage(error: Any) -> int:
    message = str(error.format_message()).strip()
    context = getattr(error, "ctx", None)
    if type(error).__name__.startswith("NoArgsIsHelp"):
        print(message)
        return USAGE
    path = getattr(context, "command_path", "evonas") if context is not None else "evonas"
    hint = f"{path} --help"
    known: list[str] = []
    if context is not None and hasattr(context.command, "commands"):
        known = list(context.command.commands)
    elif context is not None:
        known = [o for p in context.command.params for o in p.opts if o.startswith("--")]
    wrong = re.search(r"No such (?:option|command):? '?([^\s'.]+)", message)
    if wrong:
        near = difflib.get_close_matches(wrong[1], known, n=1, cutoff=0.5)
        message = message.split(" (")[0].split(". Did")[0].rstrip(".")
        if near:
            hint = f"did you mean {near[0]}? {hint}"
    return _complain(message[:1].lower() + message[1:], hint, USAGE)


if __name__ == "__main__":
    sys.exit(main())
