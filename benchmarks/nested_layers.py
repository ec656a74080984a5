"""How many random layers with nested index sets move the least there is, 2 tensors forward and 3 backward.

    python benchmarks/nested_layers.py [--json]

The first 100 different layers of the space whose index sets lie within one another, at the reference shape and at one
of a proxy, with plans as they are and with those whose programs wait for one another. Counts of sweeps from plans;
they do not depend on the machine. At the reference shape also beside what torch.compile moves for the same layers, by
its own convention (a buffer counts once per kernel), from ``results/inductor_nested.json``, which
``inductor_nested.py`` makes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evonas.kernels.tiling import Limits
from kernel_traffic import COOPERATIVE, LIMITS, PASSES, inductor_rows, inductor_units, moved

from evonas import search_spaces
from evonas.graph.analysis import depends_on_x
from evonas.graph.graph import Graph
from evonas.graph.layout import NCHW
from evonas.rng import Draws

INDUCTOR = Path(__file__).parent / "results" / "inductor_nested.json"
#: Name -> shape of x and groups.
SHAPES = {"reference": ((128, 256, 32, 32), 32), "proxy": ((64, 16, 12, 12), 8)}
SCHEDULES = {"default": LIMITS, "cooperative": COOPERATIVE}
#: Layers with one index set, and with several.
WANTED = {"one": 75, "several": 25}


def is_nested(graph: Graph) -> bool:
    """Whether of any two index sets one lies within the other."""
    sets = [NCHW.covered(index) for index in graph.index_sets]
    return all(a <= b or b <= a for a in sets for b in sets)


def nested_layers() -> tuple[Graph, ...]:
    """The first different layers of the space whose index sets lie within one another."""
    space = search_spaces.get("norm_act")
    wanted = dict(WANTED)
    found: dict[bytes, Graph] = {}
    seed = 0
    while any(wanted.values()):
        genotype = space.random(Draws("nested_layers", seed))
        digest, seed = space.digest(genotype), seed + 1
        if digest is None or digest in found:
            continue
        graph = space.graph(genotype)
        if not graph.index_sets or not is_nested(graph) or not depends_on_x(graph, space.layout):
            continue
        kind = "one" if len({NCHW.covered(index) for index in graph.index_sets}) == 1 else "several"
        if wanted[kind]:
            wanted[kind] -= 1
            found[digest] = graph
    return tuple(found.values())


def against_inductor(rows: Sequence[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """Units of both in Inductor's convention: means over the layers, and every pass for which ours are more."""
    pairs: dict[str, list[tuple[float, float]]] = {which: [] for which in PASSES}
    above = []
    for row in rows:
        ours = moved(row["formula"], row["layout"], row["shape"], groups=row["groups"], limits=limits)
        for which, mine, theirs in zip(PASSES, ours, inductor_units(row), strict=True):
            pairs[which].append((mine.unique, theirs))
            if mine.unique > theirs + 1e-9:
                above.append({"formula": row["formula"], "pass": which, "ours": round(mine.unique, 4),
                              "inductor": round(theirs, 4)})  # fmt: skip
    means = [{which: round(fmean(pair[n] for pair in pairs[which]), 3) for which in PASSES} for n in (0, 1)]
    return {"layers": len(rows), "above": above, "ours": means[0], "inductor": means[1]}


def report() -> list[dict[str, Any]]:
    """One row per shape and schedule; ``above`` are the layers that move more, with their sweeps."""
    counted = inductor_rows(INDUCTOR) if INDUCTOR.exists() else None
    layers = nested_layers()
    rows = []
    for where, (shape, groups) in SHAPES.items():
        for how, limits in SCHEDULES.items():
            above = []
            for graph in layers:
                forward, backward = moved(str(graph), "nchw", shape, groups=groups, limits=limits)
                if forward.tensors > 2 or backward.tensors > 3:
                    above.append(
                        {"formula": str(graph), "forward": forward.tensors, "backward": backward.tensors}
                    )
            rows.append({"where": where, "shape": shape, "groups": groups, "schedule": how, "layers": len(layers),
                         "least": len(layers) - len(above), "above": above})  # fmt: skip
            if counted is not None and where == "reference":
                rows[-1]["inductor"] = against_inductor(counted, limits)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    rows = report()
    if parser.parse_args().json:
        print(json.dumps({"rows": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['where']} {row['shape']}, {row['schedule']}: {row['least']} of {row['layers']} move 2 / 3"
        )
        for one in row["above"]:
            print(f"  {one['forward']} / {one['backward']}  {one['formula']}")
        if "inductor" in row:
            beside = row["inductor"]
            print(
                f"  mean units {beside['ours']}, torch.compile {beside['inductor']}; above it: {beside['above']}"
            )


if __name__ == "__main__":
    main()
