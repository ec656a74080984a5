"""What torch.compile moves for known and for random layers, forward and backward, counted without a GPU.

    python benchmarks/inductor_traffic.py [--json] [--only NAME ...]
    python benchmarks/inductor_traffic.py --formula "x / rms[c](x)" --layout btc --shape 16 1024 1024

Bytes are in sizes of x (units); a kernel that reads everything once moves 2 forward and 3 backward. ``_inductor.py``
says how they are counted and where the count flatters Inductor. Every count is made in a child process, because the
assumed device is patched into torch. Nothing is timed, so the numbers do not depend on the machine, only on the
versions of torch and evonas.

Spellings: "graph" is the eager module of evonas, "native" is what torch.nn.functional has, "written" is the formula in
plain torch with ``torch.var``. Inductor fuses the same layer differently in each; compare with its best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import evonas
from evonas import search_spaces
from evonas.errors import EnvironmentUnusable, EvonasError, UsageError
from evonas.graph.analysis import analyse, depends_on_x
from evonas.graph.cost import split_sizes
from evonas.graph.graph import Graph
from evonas.graph.layout import get_layout
from evonas.rng import Draws

if TYPE_CHECKING:
    from _inductor import Traffic

RESULTS = Path(__file__).parent / "results" / "inductor_traffic.json"
IMAGES, TOKENS = (128, 256, 32, 32), ((16, 1024, 1024), (16, 1024, 4096))
GROUPS = 32
SPACE, RANDOM_GRAPHS, LEAST_OPERATIONS = "norm_act", 15, 5
DTYPES = ("bfloat16", "float16", "float32")
LAYER_NORM, RMS_NORM = "(x - mean[c](x)) / std[c](x)", "x / rms[c](x)"

Key = tuple[str, str, tuple[int, ...], str]


class Case(NamedTuple):
    """One count. spelling: "graph", "native" or "written"; shape: of x in the layout's axis order."""

    name: str
    spelling: str
    formula: str
    layout: str
    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    groups: int = GROUPS


def known_cases() -> list[Case]:
    """Layers with a name, in every spelling that there is."""
    from _torch_spellings import SPELLINGS

    cases = [
        Case(name, spelling, formula, "btc", shape)
        for shape in TOKENS
        for name, formula in (("layer_norm", LAYER_NORM), ("rms_norm", RMS_NORM))
        for spelling in ("native", "graph")
    ]
    for name in ("gn_silu", "gn_relu", "bn_relu", "evonorm_s0", "evonorm_s1", "evonorm_s2", "evonorm_b0"):
        formula = evonas.layer(name).formula
        spellings = (*(s for n, s in SPELLINGS if n == name), "graph")
        cases += [Case(name, spelling, formula, "nchw", IMAGES) for spelling in spellings]
    return cases


def random_cases(count: int = RANDOM_GRAPHS) -> list[Case]:
    """The first different layers that the space draws and that are worth a kernel.

    They depend on x, have a moment of x and at least ``LEAST_OPERATIONS`` operations, and their result is not one
    value per channel or sample. Most draws are smaller than that or constant over a feature map.
    """
    space = search_spaces.get(SPACE)
    found: dict[bytes, Case] = {}
    seed = 0
    while len(found) < count:
        genotype = space.random(Draws("inductor_traffic", seed))
        digest, seed = space.digest(genotype), seed + 1
        if digest is None or digest in found:
            continue
        graph = space.graph(genotype)
        if (
            len(graph) >= LEAST_OPERATIONS
            and _moment_of_x(graph)
            and depends_on_x(graph, space.layout)
            and analyse(graph, space.layout.name).varies_over_space
        ):
            found[digest] = Case(f"random_{seed - 1}", "graph", str(graph), space.layout.name, IMAGES)
    return list(found.values())


def _moment_of_x(graph: Graph) -> bool:
    """Whether a moment is taken of something that depends on x."""
    reached = {i for i, leaf in enumerate(graph.leaves) if leaf == "x"}
    for i, node in graph.operations():
        if reached.intersection(node.args):
            if node.index is not None:
                return True
            reached.add(i)
    return False


# -- counting, in the child ----------------------------------------------------------------------------


def count(case: Case) -> dict[str, Any]:
    """The row of one case. Patches torch while it runs: call it in a process of its own."""
    import torch
    from _inductor import inductor_traffic
    from _torch_spellings import SPELLINGS

    dtype = getattr(torch, case.dtype)
    x = torch.empty(case.shape, device="meta", dtype=dtype)
    channels = case.shape[1 if case.layout == "nchw" else -1]
    if case.spelling == "graph":
        layer = evonas.layer(case.formula)
        module = layer.module(channels, layout=case.layout, backend="eager", groups=case.groups)
        traffic = inductor_traffic(module, [x], dtype)
    else:
        # the functions of torch want parameters in the dtype of x on a GPU, plain torch code does not care
        trained = dtype if case.spelling == "native" else torch.float32
        function, vectors, buffers = SPELLINGS[case.name, case.spelling]
        inputs = [
            torch.empty(channels, device="meta", dtype=trained).requires_grad_() for _ in range(vectors)
        ]
        inputs += [torch.empty(channels, device="meta") for _ in range(buffers)]
        traffic = inductor_traffic(function, [x, *inputs], dtype)
    return {
        **case._asdict(),
        "operations": len(Graph.parse(case.formula).active()),
        "uses_batch": Graph.parse(case.formula).uses_batch,
        **{name: getattr(traffic, name) for name in _COUNTED},
        "forward_units": round(traffic.forward_units, 4),
        "backward_units": round(traffic.backward_units, 4),
    }


_COUNTED = (
    "forward_bytes",
    "backward_bytes",
    "forward_kernels",
    "backward_kernels",
    "x_bytes",
    "workspace_bytes",
)


def _child() -> int:
    """Cases as JSON on stdin, one row per line on stdout; an error that is a message is a row, too."""
    for fields in json.load(sys.stdin):
        case = Case(**{**fields, "shape": tuple(fields["shape"])})
        try:
            row = count(case)
        except EvonasError as error:
            row = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        print(json.dumps(row), flush=True)
    return 0


# -- in the parent -------------------------------------------------------------------------------------


def count_all(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Rows of the cases, counted in one child process.

    Raises:
        UsageError, EnvironmentUnusable: what the child reports, or that it ended early.
    """
    wanted = list(cases)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--child"],
        input=json.dumps([case._asdict() for case in wanted]),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        if "error" in row:
            kind = EnvironmentUnusable if row["error"] == "EnvironmentUnusable" else UsageError
            raise kind(row["message"], hint=row["hint"])
    if done.returncode or len(rows) < len(wanted):
        raise EnvironmentUnusable(
            f"counting {wanted[len(rows)].formula if len(rows) < len(wanted) else 'the cases'!r} "
            f"ended with exit code {done.returncode}, see its output above"
        )
    return rows


def graph_traffic(
    formula: str, layout: str, shape: Sequence[int], dtype: str = "bfloat16", groups: int = GROUPS
) -> Traffic:
    """Inductor's traffic for evonas's eager module of one formula, affine included, counted in a child process.

    Args:
        formula: or the name of a layer of the zoo.
        layout: "nchw" or "btc"; shape: of x, (B, C, H, W) or (B, T, C).
        dtype: of x, "bfloat16", "float16" or "float32"; parameters are float32.
        groups: for index sets with c/g.

    Raises:
        UsageError: any of these does not fit the others.
        EnvironmentUnusable: Inductor cannot be run here.
    """
    return _traffic(count_all([graph_case(formula, layout, shape, dtype, groups)])[0])


def graph_case(formula: str, layout: str, shape: Sequence[int], dtype: str, groups: int) -> Case:
    """The case of one formula, checked."""
    where = get_layout(layout)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not counted", hint=f"use one of {', '.join(DTYPES)}")
    axes = len(where.dims) - 1
    if len(shape) != axes or min(shape) < 1:
        raise UsageError(
            f"shape {tuple(shape)} is not {where.shape}", hint=f"give {axes} sizes of at least 1"
        )
    split_sizes(where, tuple(shape), groups)
    graph = evonas.layer(formula).graph
    for index in graph.index_sets:
        where.check(index)
    return Case(formula, "graph", str(graph), layout, tuple(shape), dtype, groups)


def _traffic(row: Mapping[str, Any]) -> Traffic:
    from _inductor import Traffic

    return Traffic(**{name: row[name] for name in _COUNTED})


@lru_cache(maxsize=1)
def load_results(path: Path = RESULTS) -> dict[Key, Traffic]:
    """The committed counts of evonas's eager modules by (formula, layout, shape, dtype), all with 32 groups.

    Formulas are as ``str(graph)`` prints them. Other spellings are in the file and not in here.

    Raises:
        EnvironmentUnusable: the file is missing.
    """
    if not path.exists():
        raise EnvironmentUnusable(
            f"{path} does not exist", hint="python benchmarks/inductor_traffic.py --json > that file"
        )
    rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return {
        (row["formula"], row["layout"], tuple(row["shape"]), row["dtype"]): _traffic(row)
        for row in rows
        if row["spelling"] == "graph"
    }


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return round(sum(row[name] for row in rows) / len(rows), 3) if rows else None


def report(cases: Sequence[Case]) -> dict[str, Any]:
    """The whole document: what was assumed, every case, and the random layers together."""
    rows = count_all(cases)
    import torch
    import triton
    from _inductor import DEVICE_NAME

    drawn = [row for row in rows if row["name"].startswith("random_")]
    parts = {
        "all": drawn,
        "with_batch": [row for row in drawn if row["uses_batch"]],
        "without_batch": [row for row in drawn if not row["uses_batch"]],
    }
    names = ("forward_units", "backward_units", "forward_kernels", "backward_kernels")
    return {
        "assumed_device": DEVICE_NAME,
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "evonas": evonas.__version__,
        },
        "unit": "size of x; a kernel that reads everything once moves 2 forward and 3 backward",
        "random_space": SPACE,
        "random_mean": {
            part: {"layers": len(chosen), **{name: _mean(chosen, name) for name in names}}
            for part, chosen in parts.items()
        },
        "cases": rows,
    }


def print_table(document: Mapping[str, Any]) -> None:
    """The document for a reader."""
    print(f"{document['assumed_device']}; torch {document['versions']['torch']}")
    print(f"{'layer':<14}{'spelling':<10}{'shape':<20}{'forward':>8}{'backward':>9}{'kernels':>9}   formula")
    for row in document["cases"]:
        shape = "x".join(map(str, row["shape"]))
        kernels = f"{row['forward_kernels']} + {row['backward_kernels']}"
        name = row["name"] if len(row["name"]) < 14 else "formula"
        print(
            f"{name:<14}{row['spelling']:<10}{shape:<20}{row['forward_units']:>8.2f}{row['backward_units']:>9.2f}"
            f"{kernels:>9}   {row['formula']}"
        )
    for part, mean in document["random_mean"].items():
        if mean["layers"]:
            print(
                f"random layers, {part.replace('_', ' ')}: {mean['layers']}, forward {mean['forward_units']:.2f}, "
                f"backward {mean['backward_units']:.2f}, "
                f"kernels {mean['forward_kernels']:.1f} + {mean['backward_kernels']:.1f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the known and random layers")
    parser.add_argument("--formula", help="one layer of your own instead")
    parser.add_argument("--layout", default="nchw", choices=("nchw", "btc"))
    parser.add_argument("--shape", nargs="+", type=int, help="of x; 128 256 32 32 or 16 1024 1024 by default")
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _child()
    try:
        if options.formula:
            shape = options.shape or (IMAGES if options.layout == "nchw" else TOKENS[0])
            cases = [graph_case(options.formula, options.layout, shape, options.dtype, options.groups)]
        else:
            cases = [*known_cases(), *random_cases()]
            names = list(dict.fromkeys(case.name for case in cases))
            for name in options.only or ():
                if name not in names:
                    raise UsageError(f"no layer {name!r} here", hint=f"use some of {', '.join(names)}")
            cases = [case for case in cases if not options.only or case.name in options.only]
        document = report(cases)
    except EvonasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print_table(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
