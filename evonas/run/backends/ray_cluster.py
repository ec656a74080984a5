"""Joining or starting Ray, and sharing slots out over its nodes. The only place that imports ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import psutil

from evonas.errors import EnvironmentUnusable

_OBJECT_STORE = 128 * 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Slots offer themselves to the kernel's OOM killer; Ray's own monitor would take the whole actor.
    "RAY_memory_monitor_refresh_ms": "0",
}


def import_ray() -> ModuleType:
    """Raises ``EnvironmentUnusable`` when ray is missing or broken."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(name, _QUIET[name])
    try:
        import ray
    except ImportError as error:
        raise EnvironmentUnusable(
            f"ray cannot be imported: {error}",
            hint="pip install 'ray>=2.40', or use --backend local",
        ) from None
    return ray


class Cluster:
    """The Ray that this process is connected to; shut down with it only if it was started here."""

    def __init__(self, address: str | None) -> None:
        self.ray = import_ray()
        self._children: list[psutil.Process] = []
        self.owned = False
        self.started = False
        if self.ray.is_initialized():
            return
        self.owned = True
        self.started = address is None
        before = {p.pid for p in psutil.Process().children(recursive=True)}
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self.started:
            options.update(
                address="local",
                num_cpus=os.cpu_count() or 1,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
            )
        else:
            options["address"] = address
        try:
            with _environment(_QUIET if self.started else {}):
                self.ray.init(**options)
        except Exception as error:
            where = "a local Ray" if self.started else f"the Ray cluster at {address!r}"
            hint = (
                "use --backend local" if self.started else "see that `ray status --address ...` answers there"
            )
            raise EnvironmentUnusable(
                f"cannot connect to {where}: {type(error).__name__}: {error}"[:1000], hint=hint
            ) from None
        if self.started:
            self._children = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]

    def nodes(self) -> dict[str, float]:
        """Node id -> processors, of the nodes that are alive and have any."""
        return {
            node["NodeID"]: float(node["Resources"]["CPU"])
            for node in self.ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) > 0
        }

    def close(self) -> None:
        """Disconnect; if Ray was started here, wait until its processes have ended."""
        if not self.owned:
            return
        self.owned = False
        self.ray.shutdown()
        if self.started:
            _, alive = psutil.wait_procs(self._children, timeout=5.0)
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(alive, timeout=2.0)


def share(slots: int, cpus: Mapping[str, float]) -> dict[str, int]:
    """Slots per node in proportion to its processors (largest remainder); nodes without any are left out."""
    total = sum(cpus.values())
    exact = {node: slots * n / total for node, n in cpus.items()}
    parts = {node: int(x) for node, x in exact.items()}
    by_rest = sorted(exact, key=lambda node: (parts[node] - exact[node], node))
    for node in by_rest[: slots - sum(parts.values())]:
        parts[node] += 1
    return {node: n for node, n in parts.items() if n}


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Any:
    saved = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
