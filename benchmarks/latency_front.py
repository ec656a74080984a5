"""What a search for accuracy and latency finds: the front, beside the known layers.

    python benchmarks/latency_front.py [--minutes 25] [--json]
    python benchmarks/latency_front.py --run RUN --json      # of a run that is there

The search of ``make search`` with one network, one slot, no control and no re-ranking: accuracy is that of one training
each, on validation images. On a CPU the latency is the roofline model of the generated kernels; the
document says which it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import evonas
from evonas.run._toml import tomllib


def settings(minutes: float) -> dict[str, Any]:
    """Those of ``make search``, by dotted key, with what is said above."""
    file = Path(__file__).parents[1] / "examples" / "search.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()} | {
        "search.objectives": ["accuracy", "latency"],
        "search.candidates": 300,
        "search.control": "none",
        "search.max_time_s": 60 * minutes,
        "evaluation.proxies": ["mobilenet"],
        "rerank.seeds": 0,
    }


def report(run: evonas.Run) -> dict[str, Any]:
    """The front and the baselines that trained, each with its accuracy and microseconds."""
    scored = [row for row in run.table().to_pylist() if row["mean_score"] is not None]
    members = {row["candidate"] for row in run.front()}
    state = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    return {
        "source": state["objectives"]["latency"]["source"],
        "versions": {name: state["versions"][name] for name in ("evonas", "torch", "triton")},
        "scored": sum(row["arm"] == "search" for row in scored),
        "rows": [
            {"formula": row["formula"], "arm": row["arm"], "front": row["candidate"] in members,
             "accuracy": row["mean_score"], "latency_us": row["latency_us"]}
            for row in sorted(scored, key=lambda row: (-row["mean_score"], row["latency_us"]))
            if row["candidate"] in members or row["arm"] == "baseline"
        ],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--run", type=Path, help="report this run in place of a new one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.run is not None:
        found = report(evonas.Run(given.run))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = report(evonas.search("norm_act", out=folder, settings=settings(given.minutes), workers=1))
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for row in found["rows"]:
            mark = "*" if row["front"] else " "
            print(f"{mark} {100 * row['accuracy']:5.1f} {row['latency_us']:7.0f} us  {row['formula']}")


if __name__ == "__main__":
    main()
