"""What random graphs are made of: base rates of the sampler, next to those of an independent generator.

    python scripts/sampler_statistics.py [--graphs 10000] [--seeds 3] [--hits 100000] [--json]

The reference numbers come from another implementation of the same description (4 inputs and 10 operations, rows
uniform, index sets uniform, arguments uniform with replacement): 3 seeds of 10,000 graphs. It looked at outputs with
v0 = 0 and v1 = 1 alone ("at start"), where max(x, v0) is a relu; the screening here also looks at gradients and at
a second setting of v0 and v1. Rates are shares of all graphs unless they say otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
from evonas.search_spaces import Space

from evonas import search_spaces
from evonas.evaluation.screening import ScreeningOptions, numeric_probe, stack_probe
from evonas.graph import Graph
from evonas.graph.fingerprint import Fingerprint, FingerprintIndex, Observation, make_probe, observe
from evonas.layers import named_layer
from evonas.rng import Draws

#: the stack as the reference ran it: signals only, He weights
SIGNAL_ONLY = ScreeningOptions(stack_gain=1.0, gradient_limit=1e300, gradient_collapse=0.0)

#: What a numeric verdict of the screening is called in the table.
_KINDS = {
    "not finite on a Gaussian batch": "not finite",
    "constant in x": "constant in x",
    "constant over space": "constant over space",
}
_INDEX_SETS = ("b,w,h", "w,h", "w,h,c", "w,h,c/g")
_GROUP = "w,h,c/g"
#: Functions that a random search may stumble on, by name.
TARGETS: dict[str, tuple[str, ...]] = {
    "relu": ("max(x, 0)",),
    "swish": ("x * sigmoid(x)", "x * sigmoid(v1 * x)"),
    "x over one statistic": tuple(f"x / {m}[{i}](x)" for m in ("std", "rms") for i in _INDEX_SETS),
    "relu over a batch std": ("max(x, 0) / std[b,w,h](x)",),
    "S0, S1 or S2": (
        f"x * sigmoid(v1 * x) / std[{_GROUP}](x)",
        f"x * sigmoid(x) / std[{_GROUP}](x)",
        f"x * sigmoid(x) / rms[{_GROUP}](x)",
        f"x * sigmoid(v1 * x) / rms[{_GROUP}](x)",
    ),
}
#: Label -> (how it prints, the reference's number for the row draw, for the concrete draw).
REFERENCE: dict[str, tuple[str, str, str]] = {
    "no x in the graph": ("percent", "64-66 %", "69 %"),
    "no x after simplification": ("percent", "", ""),
    "at start: constant in x": ("percent", "5-6 %", ""),
    "at start: constant over space": ("percent", "9 %", ""),
    "at start: not finite": ("percent", "0.1-0.3 %", ""),
    "at start: remaining": ("percent", "20 %", "9 %"),
    "at start: of these, repeat an output": ("percent", "63 %", ""),
    "constant in x": ("percent", "", ""),
    "constant over space": ("percent", "", ""),
    "not finite": ("percent", "", ""),
    "remaining": ("percent", "", ""),
    "of these, explode in a stack": ("percent", "23 %", ""),
    "of these, collapse in a stack": ("percent", "18 %", ""),
    "of these, usable in a stack": ("percent", "59 %", ""),
    "of these, repeat a function": ("percent", "", ""),
    "active operations, mean": ("number", "2.5", ""),
    "active operations, median": ("number", "2", ""),
    "active operations, 95th percentile": ("number", "5", ""),
    "batch statistics in the active part": ("percent", "", ""),
    "remaining, with batch statistics": ("percent", "0.7 %", ""),
    **{f"at start: hits of {name}": ("count", hits, "") for name, hits in
       zip(TARGETS, ("682", "10", "1-3 each", "1", "0"), strict=True)},
    **{f"hits of {name}": ("count", "", "") for name in TARGETS},
    "mutations of S0: neutral": ("percent", "49.5 %", ""),
    "mutations of S0: same digest": ("percent", "", ""),
    "mutations of S0: x is lost": ("percent", "3.6 %", ""),
    "mutations of S0: x is lost after simplification": ("percent", "", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Of one function. kind, start: numeric verdict on everything and on outputs at start; fate: in a stack of random
    convolutions; whole, output: fingerprints of everything and of the outputs at start."""

    kind: str
    start: str
    fate: str | None
    whole: Fingerprint
    output: Fingerprint


def start_output(shown: Observation) -> Fingerprint:
    """A fingerprint of the outputs with v0 = 0 and v1 = 1, no gradients."""
    y = shown.y[0].ravel()
    finite = np.isfinite(y)
    rows = make_probe("nchw").projection[: y.size]
    with np.errstate(all="ignore"):
        return Fingerprint(finite.tobytes(), np.where(finite, y / (1 + np.abs(y)), 0.0) @ rows)


def start_kind(shown: Observation) -> str:
    """The numeric verdict on the outputs with v0 = 0 and v1 = 1."""
    y = shown.y[0]
    if not np.isfinite(y).all():
        return "not finite"
    if np.ptp(y, axis=(0, 3, 4)).max() <= 1e-9 and np.abs(shown.dx[0]).max() <= 1e-12:
        return "constant in x"
    return "constant over space" if np.ptp(y, axis=(3, 4)).max() <= 1e-9 else "remaining"


class Judge:
    """Findings, one per canonical graph: graphs with the same digest compute the same thing."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.seen: dict[bytes, Finding] = {}

    def __call__(self, genotype: bytes, digest: bytes, stack: bool = True) -> Finding:
        known = self.seen.get(digest)
        if known is None:
            graph = self.space.graph(genotype)
            shown = observe(graph, make_probe(self.space.layout.name))
            reason, _ = numeric_probe(graph, shown, self.space.layout, ScreeningOptions(stack=0))
            fate = None
            if reason is None and stack:
                end, _ = stack_probe(graph, self.space.layout, SIGNAL_ONLY)
                fate = "usable" if end is None else "explode" if "explodes" in end else "collapse"
            kind = "remaining" if reason is None else _KINDS[reason]
            known = Finding(kind, start_kind(shown), fate, shown.fingerprint, start_output(shown))
            self.seen[digest] = known
        return known


def sample_statistics(space: Space, graphs: int, seed: int) -> dict[str, float]:
    """Rates over that many random graphs of one seed."""
    judge = Judge(space)
    count: Counter[str] = Counter()
    sizes = []
    functions, outputs = FingerprintIndex(), FingerprintIndex()
    for i in range(graphs):
        genotype = space.random(Draws("statistics", seed, i))
        active = space.decode(genotype).active()
        digest = space.digest(genotype)
        sizes.append(len(active))
        count["batch statistics in the active part"] += active.uses_batch
        count["no x after simplification"] += digest is None
        if "x" not in active.leaves:
            count["no x in the graph"] += 1
        elif digest is None:
            count["constant in x"] += 1
            count["at start: constant in x"] += 1
        else:
            found = judge(genotype, digest)
            count[found.kind] += 1
            count[f"at start: {found.start}"] += 1
            if found.start == "remaining":
                count["at start: of these, repeat an output"] += _repeats(outputs, found.output)
            if found.kind == "remaining":
                count[f"of these, {found.fate} in a stack"] += 1
                count["remaining, with batch statistics"] += active.uses_batch
                count["of these, repeat a function"] += _repeats(functions, found.whole)
    rates = {}
    for label, (form, _, _) in REFERENCE.items():
        if form == "percent" and not label.startswith("mutations"):
            prefix = "at start: " if label.startswith("at start") else ""
            whole = count[f"{prefix}remaining"] if "of these" in label else graphs
            rates[label] = count[label] / max(whole, 1)
    rates["active operations, mean"] = statistics.fmean(sizes)
    rates["active operations, median"] = statistics.median(sizes)
    rates["active operations, 95th percentile"] = float(np.percentile(sizes, 95))
    return rates


def _repeats(index: FingerprintIndex, fingerprint: Fingerprint) -> bool:
    if index.find(fingerprint) is not None:
        return True
    index.add(fingerprint, 0)
    return False


def count_hits(space: Space, graphs: int, seed: int = 0) -> dict[str, int]:
    """How many of that many random graphs compute one of the ``TARGETS``."""
    whole, output = FingerprintIndex(), FingerprintIndex()
    names: list[str] = []
    probe = make_probe(space.layout.name)
    for name, formulas in TARGETS.items():
        for formula in formulas:
            shown = observe(Graph.parse(formula), probe)
            whole.add(shown.fingerprint, len(names))
            output.add(start_output(shown), len(names))
            names.append(name)
    judge = Judge(space)
    hits = {f"{prefix}hits of {name}": 0 for prefix in ("at start: ", "") for name in TARGETS}
    for i in range(graphs):
        genotype = space.random(Draws("hits", seed, i))
        digest = space.digest(genotype)
        if digest is not None:
            found = judge(genotype, digest, stack=False)
            for prefix, match in (("", whole.find(found.whole)), ("at start: ", output.find(found.output))):
                if match is not None:
                    hits[f"{prefix}hits of {names[match[0]]}"] += 1
    return hits


def mutate_s0(space: Space, mutations: int, seed: int = 0) -> dict[str, float]:
    """Fates of single mutations of genotypes of EvoNorm-S0 (5 of 10 operations active)."""
    graph = named_layer("evonorm_s0").graph
    neutral = same = lost = lost_simplified = 0
    for i in range(mutations):
        genotype = space.encode(graph, Draws("s0", seed, i))
        child, _ = space.mutate(genotype, Draws("s0 mutation", seed, i))
        active = space.decode(child).active()
        digest = space.digest(child)
        neutral += active == space.decode(genotype).active()
        same += digest == space.digest(genotype)
        lost += "x" not in active.leaves
        lost_simplified += digest is None
    return {
        "mutations of S0: neutral": neutral / mutations,
        "mutations of S0: same digest": same / mutations,
        "mutations of S0: x is lost": lost / mutations,
        "mutations of S0: x is lost after simplification": lost_simplified / mutations,
    }


def collect(op_draw: str, graphs: int, seeds: int, hits: int) -> dict[str, list[float]]:
    """Every number of the table for one draw rule, one value per seed (hits and mutations: one)."""
    space = search_spaces.get("norm_act", op_draw=op_draw)
    samples = [sample_statistics(space, graphs, seed) for seed in range(seeds)]
    found = {label: [sample[label] for sample in samples] for label in samples[0]}
    if hits:
        found |= {label: [float(n)] for label, n in count_hits(space, hits).items()}
    found |= {label: [rate] for label, rate in mutate_s0(space, graphs).items()}
    return found


def show(form: str, values: list[float]) -> str:
    """Mean and, over several seeds, the range."""
    scale, unit, digits = {"percent": (100.0, " %", 1), "number": (1.0, "", 2), "count": (1.0, "", 0)}[form]
    text = f"{scale * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({scale * min(values):.{digits}f}-{scale * max(values):.{digits}f})"
    return text + unit


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graphs", type=int, default=10_000, help="graphs per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--hits", type=int, default=100_000, help="graphs in the count of known functions; 0: none"
    )
    parser.add_argument("--json", action="store_true", help="numbers for machines")
    options = parser.parse_args()
    results = {
        rule: collect(rule, options.graphs, options.seeds, options.hits) for rule in ("row", "concrete")
    }
    if options.json:
        json.dump(
            {"graphs": options.graphs, "seeds": options.seeds, "hits": options.hits, **results}, sys.stdout
        )
        print()
        return 0
    print(
        f"{options.seeds} seeds of {options.graphs:,} graphs; hits among {options.hits:,}; mean (range over seeds)\n"
    )
    print(f"| {'':48} | {'row draw':22} | {'reference':10} | {'concrete draw':22} | {'reference':9} |")
    print(f"| {'-' * 48} | {'-' * 22} | {'-' * 10} | {'-' * 22} | {'-' * 9} |")
    for label, (form, row, concrete) in REFERENCE.items():
        if label in results["row"]:
            ours = [show(form, results[rule][label]) for rule in ("row", "concrete")]
            print(f"| {label:48} | {ours[0]:22} | {row:10} | {ours[1]:22} | {concrete:9} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
