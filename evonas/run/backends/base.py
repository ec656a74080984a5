"""What the drive loop needs of the place where candidates are evaluated."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, Protocol

from evonas.errors import EvonasError, UsageError, unknown_name
from evonas.evaluation.protocol import EvaluatorSpec, Outcome, Task

KINDS = ("auto", "inline", "local", "ray")


class Backend(Protocol):
    """Owns ``capacity`` evaluation slots. The caller keeps at most ``capacity * depth`` tasks in flight.

    One thread calls all of it. ``poll`` is where everything happens: deadlines, replacements, answers.
    Every task that was submitted is answered exactly once, with status ``scored``, ``rejected``,
    ``failed`` or ``lost``, as long as ``poll`` is called; after ``close`` nothing is answered.
    """

    capacity: int
    depth: int

    def start(self) -> None:
        """Return when the first slot is ready.

        Raises:
            EnvironmentUnusable: no slot can be started here.
            UsageError: the evaluator or its plug-ins cannot be built.
        """

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks; more than ``capacity * depth`` in flight is a ``ValueError`` of the caller."""

    def poll(self, timeout: float) -> list[Outcome]:
        """Block until there is an outcome, at most ``timeout`` seconds. No candidate makes it raise."""

    def close(self, *, now: bool = False) -> None:
        """Leave no process behind. ``now`` skips the wait for a clean end. May be called twice."""

    def describe(self) -> dict[str, Any]:
        """Plain values: ``kind``, ``capacity``, ``ready``, ``restarts``, ``pids``, memory."""


def check_room(in_flight: int, more: int, backend: Backend) -> None:
    """Raise ``ValueError`` if ``more`` tasks on top of ``in_flight`` exceed what the backend accepts."""
    limit = backend.capacity * backend.depth
    if in_flight + more > limit:
        raise ValueError(f"{in_flight} tasks in flight and {more} more: the backend takes {limit}")


def raise_unless_ours(error: BaseException) -> None:
    """Re-raise an error of the evonas family as it is."""
    if isinstance(error, EvonasError):
        raise error


def make_backend(
    kind: str,
    workers: int,
    spec: EvaluatorSpec,
    *,
    address: str | None = None,
    memory_limit: int | None = None,
    depth: int = 2,
    gpus: Sequence[str] = (),
) -> Backend:
    """A backend with ``workers`` slots; not started.

    Args:
        kind: ``inline`` evaluates in this process; ``local`` has child processes; ``ray`` spreads them
            over the nodes of a cluster; ``auto`` is ray if there is an ``address`` (or ``RAY_ADDRESS``),
            or more workers than processors and ray is installed, otherwise local.
        address: of a running Ray cluster; None starts one on this machine when ray is chosen.
        memory_limit: bytes per slot beyond what it holds when it is ready; None: a share of what is free.
        depth: tasks in flight per slot that the caller may have.
        gpus: device numbers that the slots of this machine take in turn. With ray, their number is
            the number of devices to ask for on each node.

    Raises:
        UsageError: unknown kind, or a number of workers below 1.
    """
    if kind not in KINDS:
        raise unknown_name("backend", kind, KINDS)
    if workers < 1 or depth < 1:
        raise UsageError(f"{workers} workers at depth {depth}: needed at least 1 each", hint="--workers 2")
    address = address or os.environ.get("RAY_ADDRESS") or None
    if kind == "auto":
        crowded = workers > (os.cpu_count() or 1) and importlib.util.find_spec("ray") is not None
        kind = "ray" if address or crowded else "local"
    if kind == "inline":
        from evonas.run.backends.inline import InlineBackend

        return InlineBackend(spec, workers=workers, depth=depth)
    if kind == "local":
        from evonas.run.backends.local import LocalBackend

        return LocalBackend(spec, workers, memory_limit=memory_limit, depth=depth, gpus=gpus)
    from evonas.run.backends.ray_backend import RayBackend

    return RayBackend(spec, workers, address=address, memory_limit=memory_limit, depth=depth, gpus=len(gpus))
