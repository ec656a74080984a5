"""How far activations of the proxies move in a few steps at growing widths, in muP and in the standard parametrization.

A slope is that of log2(mean |change of an activation|) against log2(width): 0 says that a learning rate means the
same at every width. Per proxy and parametrization the table has the network's output, and the module whose slope is
the furthest from 0.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from evonas import proxies
from evonas.layers import resolve_candidate
from evonas.proxies.coordinates import proxy_coordinates

#: multiples of the base width
FACTORS = (1, 2, 4)
#: layers that proxies on images and on text are given.
LAYERS = {"image": "gn_relu", "text": "rms_norm+silu"}
#: what the networks call the module that gives their output
OUTPUTS = ("readout", "linear", "head")


def check(name: str, layer: str | None, kind: str, seeds: int, steps: int) -> dict[str, Any]:
    """Slopes of one proxy in one parametrization."""
    proxy = proxies.get(name)
    candidate = resolve_candidate(layer or LAYERS[proxy.kind]).laid_out(proxy.layout)

    def make_layer(channels: int, slot: str | None = None) -> Any:
        return candidate.module(channels, slot=slot, backend="eager", **options)

    options = {"groups": 4} if proxy.kind == "image" else {}
    widths = [proxy.spec.base_width * factor for factor in FACTORS]
    started = time.perf_counter()
    found = proxy_coordinates(proxy, make_layer, widths, kind=kind, steps=steps, seeds=range(seeds))
    slopes = {n: s for n, s in found.slopes.items() if not math.isnan(s)}
    last = [n for n in slopes if n.split(".")[-1] in OUTPUTS]
    furthest = max(slopes, key=lambda n: abs(slopes[n]))
    return {
        "proxy": name, "parametrization": kind, "widths": widths, "seeds": seeds, "steps": steps,
        "modules": len(slopes),
        "not_finite": len(found.slopes) - len(slopes), "output": slopes[last[-1]] if last else None,
        "furthest": furthest, "furthest_slope": slopes[furthest],
        "median": sorted(slopes.values())[len(slopes) // 2], "seconds": time.perf_counter() - started,
        "slopes": found.slopes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proxies", default="transformer,transnormer", help="names, separated by commas")
    parser.add_argument("--layer", help=f"default: {LAYERS}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    proxies.configure_process()
    rows = [
        check(name, given.layer, kind, given.seeds, given.steps)
        for name in given.proxies.split(",")
        for kind in ("mup", "standard")
    ]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print("| proxy | parametrization | widths | slope of the output | median | furthest from 0 | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        output = "-" if row["output"] is None else f"{row['output']:+.2f}"
        print(
            f"| `{row['proxy']}` | {row['parametrization']} | {', '.join(f'{w:g}' for w in row['widths'])} | {output} "
            f"| {row['median']:+.2f} | {row['furthest_slope']:+.2f}, `{row['furthest']}` | {row['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
