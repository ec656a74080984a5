"""One exception family. Every message says what was given, what was needed and what to type.

The command line prints these without a traceback and leaves with ``exit_code``; anything else that
escapes is a bug and leaves with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvonasError(Exception):
    """Base class. ``hint`` is the line that tells the user what to type next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"


class UsageError(EvonasError):
    """The caller asked for something that does not exist or does not fit."""

    exit_code = 2


class FormulaError(UsageError):
    """A formula that cannot be read, or that the space or layout does not allow."""


class PluginError(UsageError):
    """A plug-in that cannot be loaded or that breaks the contract of what it registers."""


class DataError(UsageError):
    """A data set that is missing, malformed or holds values that cannot be trained on."""


class VerificationError(EvonasError):
    """A replay that does not reproduce the recorded decisions."""

    exit_code = 3


class EnvironmentUnusable(EvonasError):
    """The machine cannot do it: no space on the disk, a read-only folder, a missing package."""

    exit_code = 4


class RunLocked(EnvironmentUnusable):
    """Another process writes to this run."""


class LogCorrupt(EnvironmentUnusable):
    """An event log with damage that is not a torn tail."""


def unknown_name(kind: str, given: str, known: Iterable[str], *, hint: str | None = None) -> UsageError:
    """A ``UsageError`` for a name that is not registered, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"unknown {kind} {given!r}: known are {', '.join(names) or 'none'}",
        hint=(guess + (hint or "")).strip() or None,
    )
