"""The run directory: what a run leaves behind, in few files, readable without evonas."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from evonas.errors import UsageError
from evonas.run._files import unusable, write_json, write_text
from evonas.run._toml import dump_toml, load_toml
from evonas.run.environment import describe_environment
from evonas.run.lock import RunLock
from evonas.run.schema import SCHEMA_VERSION
from evonas.run.segments import EVENTS

#: Closed vocabulary of ``status`` in run.json. empty: finished with nothing valid.
RUN_STATUSES = ("created", "running", "interrupted", "finished", "empty", "failed")
_FOLDERS = (EVENTS, "exports", "report", "logs")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class RunDirectory:
    """One run: ``<utc-stamp>-<space>-<short id>/``."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self._info = info

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        space: str,
        short_id: str,
        *,
        seed: int,
        config: Mapping[str, Any],
        origins: Mapping[str, str] | None = None,
        space_description: Mapping[str, Any] | None = None,
        command: Sequence[str] = (),
        objectives: Mapping[str, Any] | None = None,
        kernels: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """A new run folder below ``root`` with everything in it but the events.

        Args:
            space: name of the search space, part of the folder's name.
            short_id: a few characters that tell runs of the same second apart.
            config: the resolved settings, nested; ``origins`` names where each came from, by dotted key.
            space_description: the content of space.json.
            command: the command line that started the run.
            objectives: what is optimised, by name: direction, unit, source; for run.json.
            kernels: what candidates are trained on: setting, backend, used, why; for environment.json.

        Raises:
            UsageError: the folder exists, or a name that no file system likes.
            EnvironmentUnusable: ``root`` cannot be written.
        """
        now = datetime.now(timezone.utc)
        name = f"{now:%Y%m%dT%H%M%SZ}-{space}-{short_id}"
        if not _SAFE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a run", hint="use letters, digits, '-', '_' and '.'")
        path = Path(root) / name
        settings = dump_toml(config, origins)
        try:
            path.mkdir(parents=True)
            for folder in _FOLDERS:
                (path / folder).mkdir()
        except FileExistsError:
            raise UsageError(
                f"{path} exists", hint="start again, or name another folder with --out"
            ) from None
        except OSError as error:
            raise unusable(f"creating {path}", error) from error
        environment = describe_environment()
        if kernels:
            environment["kernels"] = dict(kernels)
        write_text(path / "config.toml", settings)
        write_json(path / "environment.json", environment)
        write_json(path / "space.json", dict(space_description or {"name": space}))
        write_text(path / "command.txt", shlex.join(command) + "\n")
        info = {
            "id": name,
            "schema_version": "{}.{}".format(*SCHEMA_VERSION),
            "status": "created",
            "created": now.isoformat(timespec="seconds"),
            "space": space,
            "seed": seed,
            "attempts": 0,
            "versions": environment["packages"],
        }
        if objectives:
            info["objectives"] = dict(objectives)
        write_json(path / "run.json", info)  # last: a folder with a run.json is complete
        return cls(path, info)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """An existing run folder.

        Raises:
            UsageError: it is none, or a newer evonas wrote it.
        """
        folder = Path(path)
        try:
            info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            major = int(info["schema_version"].split(".")[0])
            info["id"], info["status"]
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{folder} is not a run: it holds no run.json", hint="evonas status") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{folder / 'run.json'} is damaged: {error}",
                hint="restore it from a copy; the events do not depend on it",
            ) from error
        except OSError as error:
            raise unusable(f"reading {folder / 'run.json'}", error) from error
        if major > SCHEMA_VERSION[0]:
            raise UsageError(
                f"{folder} has schema version {info['schema_version']}, newer than {SCHEMA_VERSION[0]}",
                hint="read it with a newer evonas: pip install --upgrade evonas",
            )
        return cls(folder, info)

    @property
    def id(self) -> str:
        return self._info["id"]

    @property
    def status(self) -> str:
        """As last written; a run that was killed still says "running" (``lock_holder`` knows better)."""
        return self._info["status"]

    @property
    def info(self) -> dict[str, Any]:
        """A copy of run.json."""
        return dict(self._info)

    @property
    def config(self) -> dict[str, Any]:
        """The settings in config.toml; a setting that was None is absent."""
        return load_toml(self.path / "config.toml")

    @property
    def space(self) -> dict[str, Any]:
        """The content of space.json.

        Raises:
            UsageError: it is missing or damaged.
        """
        try:
            return json.loads((self.path / "space.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / 'space.json'} cannot be read: {error}") from error

    def folder(self, name: str) -> Path:
        """A sub-folder, made again if it was deleted.

        Raises:
            EnvironmentUnusable: it cannot be made.
        """
        path = self.path / name
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise unusable(f"creating {path}", error) from error
        return path

    def set_status(self, status: str, **more: Any) -> None:
        """Writes the status, and further keys of run.json, at once.

        Raises:
            ValueError: a status that is not in ``RUN_STATUSES``.
            EnvironmentUnusable: the folder cannot be written.
        """
        if status not in RUN_STATUSES:
            raise ValueError(f"unknown status {status!r}: known are {', '.join(RUN_STATUSES)}")
        info = {**self._info, **more, "status": status}
        write_json(self.path / "run.json", info)
        self._info = info

    def lock(self) -> RunLock:
        """The lock of this run, not yet acquired; its note carries the number of this attempt."""
        return RunLock(self.path, attempt=int(self._info.get("attempts", 0)) + 1)


def list_runs(root: str | os.PathLike[str] = "runs") -> list[Path]:
    """Every run folder directly below ``root``, oldest first."""
    try:
        found = [p for p in Path(root).iterdir() if (p / "run.json").is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda p: (_created(p), p.name))


def find_run(spec: str, root: str | os.PathLike[str] = "runs") -> RunDirectory:
    """A run by path, by name, by the beginning of its name or of its short id, or ``latest``.

    Raises:
        UsageError: none fits, or several do; the near names are in the message.
    """
    if (Path(spec) / "run.json").is_file():
        return RunDirectory.open(spec)
    runs = {p.name: p for p in list_runs(root)}
    if spec == "latest" and runs:
        return RunDirectory.open(list(runs.values())[-1])
    if spec in runs:
        return RunDirectory.open(runs[spec])
    fits = [name for name in runs if spec and (name.startswith(spec) or name.split("-")[-1].startswith(spec))]
    if len(fits) == 1:
        return RunDirectory.open(runs[fits[0]])
    if fits:
        raise UsageError(
            f"{spec!r} fits {len(fits)} runs: {', '.join(fits[-5:])}", hint="type more of the name"
        )
    inside = list_runs(spec) if spec else []
    if inside:
        raise UsageError(
            f"{spec} is no run but a folder of runs", hint=f"name one of them, such as {inside[-1]}"
        )
    if not runs:
        raise UsageError(f"no run {spec!r}: {root} holds no runs", hint="evonas search --space norm_act")
    near = difflib.get_close_matches(spec, runs, n=3, cutoff=0.4)
    hint = f"there are {', '.join(list(runs)[-3:])}; see evonas status"
    raise UsageError(
        f"no run {spec!r} in {root}", hint=f"did you mean {' or '.join(near)}?" if near else hint
    )


def _created(path: Path) -> str:
    try:
        return str(json.loads((path / "run.json").read_text(encoding="utf-8"))["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
