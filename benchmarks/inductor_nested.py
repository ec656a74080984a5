"""What torch.compile moves for the layers of ``nested_layers.py``, counted as ``inductor_traffic.py`` counts.

    python benchmarks/inductor_nested.py [--json]

One spelling of each, the eager module of evonas, at the reference shape in bfloat16. ``nested_layers.py`` reads the
record and has ours beside it.
"""

from __future__ import annotations

import argparse
import json

from inductor_traffic import Case, print_table, report
from nested_layers import SHAPES, nested_layers


def cases() -> list[Case]:
    shape, groups = SHAPES["reference"]
    return [
        Case(f"nested_{n}", "graph", str(graph), "nchw", shape, groups=groups)
        for n, graph in enumerate(nested_layers())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    document = report(cases())
    del document["random_space"], document["random_mean"]
    if given.json:
        print(json.dumps(document, indent=1))
    else:
        print_table({**document, "random_mean": {}})


if __name__ == "__main__":
    main()
