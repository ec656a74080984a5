"""What a search optimises: accuracy on every proxy and, if asked for, latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evonas.errors import UsageError, unknown_name
from evonas.graph import Assembly
from evonas.kernels.latency import DEVICES, model_name, modelled_latency

ACCURACY, LATENCY = "accuracy", "latency"
NAMES = (ACCURACY, LATENCY)
#: Where a latency comes from, besides the names of devices: a timing in the slot that evaluates the candidate.
MEASURED = "measured"
DEFAULT, DEFAULT_LATENCY = (ACCURACY,), "h200"


def check_objectives(objectives: Sequence[str], latency: str) -> None:
    """``UsageError`` for names that do not exist (with the nearest one), twice the same, or no accuracy."""
    for name in objectives:
        if name not in NAMES:
            raise unknown_name("objective", name, NAMES, hint="--objectives accuracy,latency")
    if ACCURACY not in objectives or len(set(objectives)) != len(objectives):
        raise UsageError(
            f"search.objectives = {list(objectives)}, needed is accuracy, alone or with others, each once",
            hint="--objectives accuracy,latency",
        )
    if latency != MEASURED and latency not in DEVICES:
        raise unknown_name("source of latencies", latency, [MEASURED, *DEVICES], hint="search.latency = h200")


def latency_source(config: Mapping[str, Any]) -> str | None:
    """In words, where the latencies of a run come from; None where they are no objective of it.

    Args:
        config: a run's settings as nested values; settings that it lacks have their default.
    """
    search = config.get("search", {})
    if LATENCY not in search.get("objectives", DEFAULT):
        return None
    origin = search.get("latency", DEFAULT_LATENCY)
    return "measured on the slots' GPU" if origin == MEASURED else model_name(origin)


def describe_objectives(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Every objective of a run by name: direction, unit, source."""
    found = {
        ACCURACY: {
            "direction": "maximise",
            "unit": "share in [0, 1], one per proxy",
            "source": "validation images",
        }
    }
    source = latency_source(config)
    if source is not None:
        unit = "us, forward + backward in bfloat16, summed over the reference shapes"
        found[LATENCY] = {"direction": "minimise", "unit": unit, "source": source}
    return found


def vector(scores: Sequence[float], latency: float | None) -> tuple[float, ...]:
    """What dominance compares, all to be maximised: the scores, and the latency with its sign turned."""
    return tuple(scores) if latency is None else (*scores, -latency)


class LatencyObjective:
    """The latency objective of one run: off, modelled in the driver, or measured in the slots."""

    def __init__(self, objectives: Sequence[str], origin: str, layout: str) -> None:
        self.on = LATENCY in objectives
        self.modelled = self.on and origin != MEASURED
        self.measured = self.on and origin == MEASURED
        self._origin, self._layout = origin, layout

    def model(self, formula: str) -> float:
        """Whole microseconds by the model; a function of the formula alone.

        Of an assembly, the sum over its parts: each counts once, however many places of a network it fills. Rounded,
        since a front must not hold what differs by the bytes of a parameter vector.
        """
        times = (
            modelled_latency(graph, layout=self._layout, device=self._origin)
            for graph in Assembly.parse(formula).graphs
        )
        return float(round(sum(times)))

    def detail(self, formula: str) -> dict[str, Any]:
        """What the log says of a candidate that is sent out: empty unless latencies are modelled."""
        if not self.modelled:
            return {}
        return {"latency_us": self.model(formula), "latency_source": model_name(self._origin)}
