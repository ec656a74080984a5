"""What a shell offers behind the cursor: names that exist. Nothing heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run folders below EVONAS_RUNS or runs/, newest first, and "latest"."""
    root = Path(os.environ.get("EVONAS_RUNS", "runs"))
    found = sorted((p.parent.name for p in root.glob("*/run.json")), reverse=True)
    return _starting([*(["latest"] if found else []), *found], incomplete)


def layers(incomplete: str) -> list[str]:
    """Layers of the zoo, and runs."""
    from evonas.layers.stateful.registry import STATEFUL
    from evonas.layers.zoo import ZOO

    return [*_starting([*ZOO, *STATEFUL], incomplete), *runs(incomplete)]


def candidates(incomplete: str) -> list[str]:
    """What stands for a candidate without a number."""
    return _starting(["best"], incomplete)


def bundle_formats(incomplete: str) -> list[str]:
    """Further formats of a bundle, also behind a comma."""
    from evonas.export.formats import FORMATS

    return list(_behind_commas(FORMATS, incomplete))


def report_formats(incomplete: str) -> list[str]:
    """Formats of a report."""
    from evonas.report.writing import FORMATS

    return _starting(FORMATS, incomplete)


def spaces(incomplete: str) -> list[str]:
    """Built-in search spaces."""
    from evonas.search_spaces import names

    return _starting(names(), incomplete)


def strategies(incomplete: str) -> list[str]:
    """Search strategies."""
    from evonas.evolution import strategy_names

    return _starting(strategy_names(), incomplete)


def proxies(incomplete: str) -> list[str]:
    """Proxies, also behind a comma."""
    from evonas.proxies.registry import BUILTIN

    return list(_behind_commas(BUILTIN, incomplete))


def scales(incomplete: str) -> list[str]:
    """Scales of the built-in proxies."""
    from evonas.proxies.spec import SCALES

    return _starting(SCALES, incomplete)


def objectives(incomplete: str) -> list[str]:
    """Objectives, also behind a comma."""
    return list(_behind_commas(("accuracy", "latency"), incomplete))


def _behind_commas(names: Iterable[str], incomplete: str) -> Iterator[str]:
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    for name in names:
        if name.startswith(last) and name not in taken:
            yield f"{before}{comma}{name}"
