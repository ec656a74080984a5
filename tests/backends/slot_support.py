"""What the tests of the backends share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from evonas.evaluation.protocol import EvaluatorSpec, Outcome, Task
from evonas.plugins import describe_plugins

BEHAVIOURS = Path(__file__).parent / "behaviours.py"


def behave(name: str = "behave", **options: Any) -> EvaluatorSpec:
    return EvaluatorSpec(name, options, describe_plugins([BEHAVIOURS]))


def collect(backend: Any, formulas: Sequence[str], *, deadline_s: float = 20.0) -> list[Outcome]:
    """The outcomes in the order of the formulas, each answered exactly once."""
    backend.submit([Task(i, f, deadline_s=deadline_s) for i, f in enumerate(formulas)])
    outcomes: dict[int, Outcome] = {}
    end = time.monotonic() + 60
    while len(outcomes) < len(formulas):
        assert time.monotonic() < end, f"only {sorted(outcomes)} answered"
        for outcome in backend.poll(1.0):
            assert outcome.candidate not in outcomes
            outcomes[outcome.candidate] = outcome
    return [outcomes[i] for i in range(len(formulas))]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def wait_ready(backend: Any, slots: int) -> None:
    end = time.monotonic() + 60
    while backend.describe()["ready"] < slots:
        backend.poll(0.02)
        assert time.monotonic() < end


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
