"""Runs with the free evaluator, for tests of everything around the evaluation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from evonas.run.directory import RunDirectory
from evonas.run.drive import Driver
from evonas.run.log import read_events
from evonas.run.schema import Event
from evonas.run.session import create_run, execute, open_settings, recorded_space, replay, with_plugins
from evonas.run.settings import Settings, resolve

EVALUATORS = Path(__file__).with_name("evaluators.py")
#: kinds that tell how a run was driven, not what was decided.
SESSION = {"resumed", "interrupted", "stopping"}


def free_settings(**flags: Any) -> Settings:
    """Settings of a run of 20 candidates per arm on two proxies; keyword a__b is the setting a.b."""
    given = {
        "search.candidates": 20,
        "evaluation.evaluator": "free",
        "evaluation.proxies": ["a", "b"],
        "workers.backend": "inline",
        "strategy.initial": 5,
        "strategy.window": 12,
        "rerank.seeds": 2,
    } | {key.replace("__", "."): value for key, value in flags.items()}
    return with_plugins(resolve(flags=given)[0], [EVALUATORS])


def free_run(root: Path, **flags: Any) -> tuple[RunDirectory, str]:
    """A run that has ended, and its status."""
    settings = free_settings(**flags)
    directory = create_run(settings, root=root)
    return directory, execute(directory, settings)


def verify(directory: RunDirectory) -> tuple[int, str]:
    """Number of events that replay, and the digest of the state at the end."""
    settings = open_settings(directory)
    states = list(replay(directory, settings, recorded_space(directory, settings)))
    return len(states), states[-1][0].state_digest() if states else ""


def decisions(directory: RunDirectory) -> list[Event]:
    """What was decided and measured, without how the run was driven."""
    return [e for e in read_events(directory.path) if e.kind not in SESSION]


class StopAt:
    """An observer that raises when so many events were logged: a crash at a chosen moment."""

    class Crash(BaseException):
        pass

    def __init__(self, events: int) -> None:
        self.left = events

    def event(self, event: Event) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.Crash

    def tick(self, driver: Driver) -> None:
        pass


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support import free_settings
from evonas.run.directory import RunDirectory
from evonas.run.session import create_run, execute, open_settings
if sys.argv[2] == "new":
    settings = free_settings(**eval_free(sys.argv[4]))
    directory = create_run(settings, root=sys.argv[3])
    print(directory.path, flush=True)
    status = execute(directory, settings)
else:
    directory = RunDirectory.open(sys.argv[3])
    print(directory.path, flush=True)
    status = execute(directory, open_settings(directory), resume=True)
print(status, flush=True)
""".replace("eval_free(sys.argv[4])", "__import__('json').loads(sys.argv[4])")


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """A driver in a process of its own: ``new ROOT JSON`` or ``resume RUN``."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
