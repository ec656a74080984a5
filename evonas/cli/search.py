"""`search` and `resume`: settings, the run, the watch beside it, the report at its end."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evonas.cli.crash import working_on
from evonas.cli.interrupt import Interrupts
from evonas.cli.main import EMPTY, INTERRUPTED, OK, STOPPED
from evonas.cli.output import document, plain
from evonas.cli.panel import Watch, make_watch
from evonas.cli.progress import Progress, read_progress
from evonas.errors import UsageError
from evonas.run.directory import RunDirectory
from evonas.run.log import read_events, scan_log
from evonas.run.run import Run
from evonas.run.session import create_run, execute, with_plugins
from evonas.run.settings import Settings, resolve

if TYPE_CHECKING:
    from evonas.run.drive import Driver

#: What a resumed run may change; everything else its decisions depend on.
_OPEN = ("workers.", "search.candidates", "search.max_time_s")
_SPACE = ("space.", "search.space")
_CODES = {"finished": OK, "empty": EMPTY}


@dataclass
class Request:
    """What the user typed. ``flags``: dotted key -> value, None where not given."""

    flags: dict[str, Any] = field(default_factory=dict)
    sets: Sequence[str] = ()
    config: Path | None = None
    plugins: Sequence[str] = ()
    out: str = "runs"
    allow_change: bool = False
    quiet: bool = False
    json: bool = False

    def tell(self, text: str) -> None:
        """Facts about the run: on stdout, unless that is for a JSON document."""
        print(text, file=sys.stderr if self.json else sys.stdout, flush=True)


def settings_of(request: Request) -> tuple[Settings, dict[str, str]]:
    """Resolved settings with the origin of each value that is not a default; a missing seed is drawn.

    Raises:
        UsageError, PluginError: see ``evonas.run.settings.resolve`` and ``describe_plugins``.
    """
    settings, origins = resolve(
        flags=request.flags, sets=request.sets, environment=os.environ, file=request.config
    )
    if "search.seed" not in origins:
        settings = replace(settings, search=replace(settings.search, seed=secrets.randbelow(2**31)))
        origins["search.seed"] = "drawn"
    named = [str(p["path"]) for p in settings.plugins]
    if named or request.plugins:
        settings = with_plugins(settings, [*named, *request.plugins])
    return settings, origins


def search(request: Request) -> int:
    """A new run; returns the exit code."""
    settings, origins = settings_of(request)
    directory = create_run(settings, root=request.out, origins=origins)
    request.tell(f"run   {directory.path}")
    request.tell(f"seed  {settings.search.seed}" + (" (drawn)" if origins["search.seed"] == "drawn" else ""))
    return _drive(request, directory, settings, Progress(settings.to_dict()))


def resume(request: Request, spec: str) -> int:
    """Go on with a run; returns the exit code.

    Raises:
        UsageError: no such run, it is finished, or a setting that its decisions depend on is to be changed.
    """
    run = Run(spec, request.out)
    directory, recorded = run.directory, run.config
    ambient = {
        k: v
        for k, v in os.environ.items()
        if k.startswith("EVONAS_WORKERS_") or k == "EVONAS_SEARCH_MAX_TIME_S"
    }
    settings, origins = resolve(
        flags=request.flags, sets=request.sets, environment=ambient, file=request.config, base=recorded
    )
    _same_decisions(Settings.from_dict(recorded), settings, origins, directory)
    if request.allow_change and (settings.plugins or request.plugins):
        settings = with_plugins(settings, [*(str(p["path"]) for p in settings.plugins), *request.plugins])
    elif request.plugins:
        raise UsageError(
            "a run that is resumed loads the plug-ins that it began with",
            hint="leave --plugin out, or type --allow-change to go on with other ones",
        )
    begun = any((directory.path / "events").glob("*.arrows"))
    state = scan_log(directory.path, run_id=directory.id) if begun else None
    begun = state is not None and bool(state.run_id)
    progress = read_progress(recorded, read_events(directory.path) if begun else ())
    request.tell(f"run   {directory.path}")
    request.tell(f"seed  {settings.search.seed}")
    recovered = {
        "events": progress.events,
        "scored": sum(map(len, progress.scored.values())),
        "in_flight": len(progress.flights),
        "torn_bytes": 0 if state is None else state.torn_bytes,
    }
    return _drive(request, directory, settings, progress, recovered)


def _same_decisions(
    recorded: Settings, wanted: Settings, origins: Mapping[str, str], directory: RunDirectory
) -> None:
    before, after = _flat(recorded.to_dict()), _flat(wanted.to_dict())
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key) or key.startswith(("plugins", *_OPEN, *_SPACE)):
            continue
        raise UsageError(
            f"{directory.path.name} began with {key} = {before.get(key)!r}, {origins.get(key, 'the request')} "
            f"asks for {after.get(key)!r}: its decisions depend on it",
            hint="leave it out, or start a new run with evonas search",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _drive(
    request: Request,
    directory: RunDirectory,
    settings: Settings,
    progress: Progress,
    recovered: Mapping[str, int] | None = None,
) -> int:
    working_on(directory.path)
    slots = settings.workers.count
    if not request.quiet:
        print(f"starting {slots} evaluation slot{'s' * (slots > 1)} ...", file=sys.stderr, flush=True)
    watch: Watch = make_watch(progress, quiet=request.quiet)
    code = OK

    def ready(driver: Driver) -> None:
        interrupts.driver = driver
        if recovered is not None:
            request.tell(recovery_line(recovered))

    try:
        with Interrupts(watch) as interrupts:
            try:
                status = execute(
                    directory, settings, resume=recovered is not None, allow_change=request.allow_change,
                    observers=(watch,), on_driver=ready,
                )  # fmt: skip
                code = _CODES.get(status, STOPPED if interrupts.hard else INTERRUPTED)
            except KeyboardInterrupt:
                status, code = "interrupted", STOPPED
    finally:
        watch.close()
    return _finish(request, directory, status, code, recovered)


def recovery_line(recovered: Mapping[str, int]) -> str:
    """What a resumed run found, in words."""
    torn = recovered["torn_bytes"]
    return (
        f"recovered {recovered['events']} events, {recovered['scored']} scored candidates; "
        f"{recovered['in_flight']} in flight are sent out again; "
        + (f"{torn} bytes of a torn tail dropped" if torn else "no torn tail")
    )


def _finish(
    request: Request,
    directory: RunDirectory,
    status: str,
    code: int,
    recovered: Mapping[str, int] | None,
) -> int:
    if code in (INTERRUPTED, STOPPED):
        how = "drained" if code == INTERRUPTED else "stopped at once"
        print(f"interrupted ({how}); go on with: evonas resume {directory.path}", file=sys.stderr, flush=True)
    from evonas.cli.closing import closing_document, print_closing

    run = Run(directory)
    if not any((directory.path / "events").glob("*.arrows")):
        if request.json:
            document("search", {"run": str(directory.path), "status": status})
        return code
    if request.json:
        content = closing_document(run) | {"status": status, "exit_code": code}
        document("search", content | ({"recovered": plain(recovered)} if recovered else {}))
    else:
        print_closing(run)
    return code
