"""What evonas's kernels move for the layers of ``inductor_traffic.py``, beside what torch.compile moves for them.

    python benchmarks/kernel_traffic.py [--json] [--only NAME ...]

Bytes are in sizes of x; a kernel that reads everything once moves 2 forward and 3 backward. Nothing runs, nothing
is timed, and neither torch nor triton is needed: a plan says what its kernels load and store, and Inductor's count
is read from ``results/inductor_traffic.json``.

Two conventions. "unique" is Inductor's own: every buffer counts once per kernel. "swept" counts every sweep
over a tensor; it is known for our kernels alone, so comparing our swept units with Inductor's unique ones
favours Inductor. Inductor's figure is that of its best spelling of a layer (least bytes of both passes
together), with its workspace of partial sums counted as backward, because ours are counted as well.

"cooperative" are plans in which programs that share a domain meet in the middle of a kernel. They are off by
default (``Limits.cooperative``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evonas.kernels.lowering import plans
from evonas.kernels.plan import sweeps
from evonas.kernels.programs import LayerSpec
from evonas.kernels.tiling import LIMITS, Limits
from evonas.kernels.traffic import traffic

import evonas

INDUCTOR = Path(__file__).parent / "results" / "inductor_traffic.json"
COOPERATIVE = replace(LIMITS, cooperative=True)
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
PASSES = ("forward", "backward")


@dataclass(frozen=True, slots=True)
class Moved:
    """One pass of our kernels, in sizes of x. tensors: sweeps over buffers of the size of x, an exact count.

    swept, unique: see the module; vectors, statistics and partial sums included.
    """

    swept: float
    unique: float
    tensors: int
    kernels: int


def moved(
    formula: str,
    layout: str,
    shape: Sequence[int],
    *,
    groups: int,
    itemsize: int = 2,
    vectors: int = 4,
    limits: Limits = LIMITS,
) -> tuple[Moved, Moved]:
    """Forward and backward of a layer with its affine, in training mode. itemsize: bytes an element of x; vectors: of
    a parameter.

    Raises:
        UsageError: see ``evonas.kernels.lowering.plans``.
    """
    both = plans(LayerSpec(formula, layout), tuple(shape), groups=groups, limits=limits)
    found = []
    for plan in (both.forward, both.backward):
        count = traffic(plan, itemsize, vectors)
        found.append(Moved(count.swept_units, count.unique_units, sweeps(plan), count.kernels))
    return found[0], found[1]


def inductor_rows(path: Path = INDUCTOR) -> list[dict[str, Any]]:
    """All counts of Inductor: every layer in every spelling."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return rows


def inductor_units(row: Mapping[str, Any]) -> tuple[float, float]:
    """Forward and backward units of one count, the workspace with the backward pass."""
    workspace = row["workspace_bytes"] / row["x_bytes"]
    return row["forward_bytes"] / row["x_bytes"], row["backward_bytes"] / row["x_bytes"] + workspace


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["formula"], row["layout"], tuple(row["shape"]), row["dtype"], row["groups"]


def best_spellings(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Per layer and shape, the spelling for which Inductor moves the least in both passes together."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        held = best.get(_key(row))
        if held is None or sum(inductor_units(row)) < sum(inductor_units(held)):
            best[_key(row)] = row
    return list(best.values())


def compare(row: Mapping[str, Any]) -> dict[str, Any]:
    """Ours beside one count of Inductor."""
    out: dict[str, Any] = {n: row[n] for n in ("name", "formula", "layout", "shape", "dtype", "groups")}
    asked = (row["formula"], row["layout"], row["shape"])
    options = {"groups": row["groups"], "itemsize": ITEMSIZE[row["dtype"]]}
    found = {
        "ours": moved(*asked, **options),
        "cooperative": moved(*asked, **options, limits=COOPERATIVE),
    }
    for name, both in found.items():
        out[name] = {
            which: {
                "swept": round(one.swept, 4),
                "unique": round(one.unique, 4),
                "tensors": one.tensors,
                "kernels": one.kernels,
            }
            for which, one in zip(PASSES, both, strict=True)
        }
    out["inductor"] = {"spelling": row["spelling"]}
    for which, units in zip(PASSES, inductor_units(row), strict=True):
        out["inductor"][which] = {"unique": round(units, 4), "kernels": row[f"{which}_kernels"]}
    out["inductor"]["workspace"] = round(row["workspace_bytes"] / row["x_bytes"], 4)
    return out


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean units and kernels of both passes, by whose and how they are counted."""
    means: dict[str, Any] = {"layers": len(rows)}
    for whose, counted in (
        ("ours", "swept"),
        ("ours", "unique"),
        ("cooperative", "swept"),
        ("inductor", "unique"),
    ):
        means[f"{whose}_{counted}"] = {
            which: round(sum(row[whose][which][counted] for row in rows) / len(rows), 3) for which in PASSES
        }
    for whose in ("ours", "cooperative", "inductor"):
        kernels = [sum(row[whose][which]["kernels"] for which in PASSES) for row in rows]
        means[f"{whose}_kernels"] = round(sum(kernels) / len(rows), 2)
    return means


def report(only: Sequence[str] = ()) -> dict[str, Any]:
    """The whole document.

    Raises:
        SystemExit: a name in ``only`` that no row has.
    """
    counts = inductor_rows()
    names = list(dict.fromkeys(row["name"] for row in counts))
    unknown = [name for name in only if name not in names]
    if unknown:
        raise SystemExit(f"error: no layer {', '.join(unknown)} here\n  -> use some of {', '.join(names)}")
    rows = [compare(row) for row in best_spellings(counts) if not only or row["name"] in only]
    random = [row for row in rows if row["name"].startswith("random_")]
    document = json.loads(INDUCTOR.read_text(encoding="utf-8"))
    return {
        "assumed_device": document["assumed_device"],
        "versions": {"evonas": evonas.__version__, "inductor": document["versions"]},
        "unit": document["unit"],
        "conventions": "swept counts each sweep; unique counts a buffer once per kernel; Inductor's backward holds "
        "its workspace; Inductor in its best spelling",
        "random_mean": mean_of(random) if random else None,
        "layers": rows,
    }


def print_table(document: Mapping[str, Any]) -> None:
    print(f"{document['assumed_device']}; Inductor of torch {document['versions']['inductor']['torch']}")
    print(
        f"{'':<34}{'ours, swept':>14}{'ours, unique':>14}{'cooperative':>14}{'Inductor, unique':>18}  kernels"
    )
    for row in document["layers"]:
        label = f"{row['name']} {'x'.join(map(str, row['shape']))}"
        cells = [
            "{:.2f} / {:.2f}".format(*(row[whose][which][counted] for which in PASSES))
            for whose, counted in (
                ("ours", "swept"),
                ("ours", "unique"),
                ("cooperative", "swept"),
                ("inductor", "unique"),
            )
        ]
        kernels = [
            " + ".join(str(row[whose][which]["kernels"]) for which in PASSES)
            for whose in ("ours", "inductor")
        ]
        print(
            f"{label:<34}{cells[0]:>14}{cells[1]:>14}{cells[2]:>14}{cells[3]:>18}  {kernels[0]}, {kernels[1]}  "
            f"({row['inductor']['spelling']})"
        )
    if document["random_mean"]:
        for name, value in document["random_mean"].items():
            print(f"random layers, mean: {name} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=(), help="some of the layers")
    given = parser.parse_args()
    document = report(given.only)
    if given.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
