"""What the blocks of numbers on the pages are made with: the register, measurements, runs, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

Block = Callable[[Path], "str | None"]
BLOCKS: dict[str, Block] = {}


def block(make: Block) -> Block:
    """Register a block under the function's name."""
    BLOCKS[make.__name__] = make
    return make


def results(root: Path, name: str) -> Any:
    """A committed measurement, None if there is none."""
    path = root / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def committed_run(root: Path, kind: str = "golden") -> Any:
    """The committed run of images (golden), language models (language) or both (worlds), None if there is none."""
    folders = sorted(p.parent for p in (root / "runs" / kind).glob("**/run.json"))
    if not folders:
        return None
    import evonas

    return evonas.open_run(folders[0])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def spread(pair: Any, sign: str = "") -> str:
    """Accuracy in percent, with the standard deviation where there is one."""
    mean, std = pair
    if mean is None:
        return "none"
    return f"{100 * mean:{sign}.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def funnel_of(run: Any) -> str | None:
    """What became of the candidates of a run, None without one."""
    if run is None:
        return None
    rows = []
    for row in run.funnel().rows():
        reasons = ", ".join(f"{count:,} {why}" for why, count in list(row["reasons"].items())[:2])
        rows.append(
            [
                row["arm"],
                row["stage"],
                f"{row['in']:,}",
                f"{row['rejected']:,}",
                f"{row['seconds']:.1f}",
                reasons,
            ]
        )
    return table(["arm", "stage", "in", "rejected", "seconds", "why"], rows)
