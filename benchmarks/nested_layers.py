"""How many random layers with nested index sets move the least there is, 2 tensors forward and 3 backward.

    python benchmarks/nested_layers.py [--json]

The first 100 different layers of the space whose index sets lie within one another, at the reference shape and at one
of a proxy, with plans as they are and with those whose programs wait for one another. Counts of sweeps from plans;
they do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from kernel_traffic import COOPERATIVE, LIMITS, moved

from evonas import search_spaces
from evonas.graph.analysis import depends_on_x
from evonas.graph.graph import Graph
from evonas.graph.layout import NCHW
from evonas.rng import Draws

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


def report() -> list[dict[str, Any]]:
    """One row per shape and schedule; ``above`` are the layers that move more, with their sweeps."""
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


if __name__ == "__main__":
    main()
