"""A comparison as a JSON file: written after every training, read to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonas.comparing.comparison import Comparison, configuration
from evonas.comparing.contestants import Contestant
from evonas.comparing.training import Training
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.run._files import write_json
from evonas.run.settings import Settings

SCHEMA = "evonas.compare/1"
#: Settings that may be different when a comparison goes on: more trainings are paired with those that are there.
_OPEN = ("rerank.seeds", "evaluation.deadline_s", "evaluation.attempts")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Before anything is trained. Raises EnvironmentUnusable for a folder that is not there or not writable."""
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise EnvironmentUnusable(
            f"cannot write {path}: {folder} is {'not writable' if folder.is_dir() else 'no folder'}",
            hint="make the folder, or name another file with --out",
        )


def write_record(path: str | os.PathLike[str], comparison: Comparison) -> None:
    """Replace the file as a whole. Raises EnvironmentUnusable if it cannot be written."""
    write_json(Path(path), {"schema": SCHEMA, **comparison.to_dict()})


def read_record(path: str | os.PathLike[str]) -> Comparison:
    """The comparison in a file.

    Raises:
        UsageError: no such file, or one that is no comparison.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        contestants = [Contestant(one["name"], one["formula"], one["name"]) for one in found["layers"]]
        names = [one.name for one in contestants]
        trainings = tuple(map(Training.from_dict, found["trainings"]))
        return Comparison(
            Settings.from_dict(found["settings"]), contestants, names.index(found["reference"]), trainings
        )
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="--resume takes the file that --out wrote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a comparison: {error}", hint="--resume takes the file that --out wrote"
        ) from None


def check_same(recorded: Comparison, wanted: Comparison, path: str | os.PathLike[str]) -> None:
    """A comparison goes on as it began; only the number of seeds may grow.

    Raises:
        UsageError: naming what differs.
    """
    before, after = [c.text for c in recorded.contestants], [c.text for c in wanted.contestants]
    if before != after or recorded.reference != wanted.reference:
        names = ", ".join(c.name for c in recorded.contestants)
        raise UsageError(
            f"{path} compares {names} with {recorded.contestants[recorded.reference].name}; other layers, or another "
            "reference, are asked for",
            hint=f"evonas compare --resume {path} takes the layers from the file",
        )
    old, new = _flat(configuration(recorded.settings)), _flat(configuration(wanted.settings))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key not in _OPEN:
            raise UsageError(
                f"{path} began with {key} = {old.get(key)!r}, asked for is {new.get(key)!r}: its numbers depend on it",
                hint="leave it out, or begin a new comparison without --resume",
            )
    if wanted.seeds < recorded.seeds:
        raise UsageError(
            f"{path} has {recorded.seeds} seeds, asked for are {wanted.seeds}", hint="as many, or more"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
