"""`bench`: forward and backward times of layers on this machine, against other ways of running them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.cli.bench_means import PASSES, geometric_means
from evonas.cli.bench_plot import Point, check_plot, write_plot
from evonas.cli.layer_argument import read_layer, read_order, read_size
from evonas.cli.output import document, emit, table
from evonas.errors import EnvironmentUnusable, EvonasError, UsageError, unknown_name
from evonas.kernels.kernel_specs import check_dtype

#: By device and layout: what is measured if nothing is asked for. On the CPU, sizes of proxies.
DEFAULT_SHAPES = {
    ("cuda", "nchw"): "128,256,32,32",
    ("cuda", "btc"): "16,1024,1024;16,1024,4096",
    ("cpu", "nchw"): "16,64,16,16",
    ("cpu", "btc"): "8,256,128",
}
#: What runs where, if nothing is asked for. torch.compile takes ten seconds per layer on a CPU.
DEFAULT_BACKENDS = {
    "cuda": ("triton", "eager", "compile", "torch", "liger", "fla", "apex"),
    "cpu": ("eager", "c", "torch"),
}


def bench(
    targets: Sequence[str],
    *,
    shapes: str | None,
    dtype: str | None,
    layout: str | None,
    groups: int,
    backends: str | None,
    device: str | None,
    rounds: int,
    roofline: bool,
    plot: str | None,
    plugins: Sequence[str],
    json: bool,
) -> int:
    """Measure, and print tables.

    Raises:
        UsageError, FormulaError: unknown names, shapes that do not fit.
        EnvironmentUnusable: a device that is not there, or nothing that runs here.
    """
    from evonas.cli import bench_run

    if plot is not None:
        check_plot(plot)
    wanted = _backends(backends)
    where = bench_run.device_for(device)
    kind = check_dtype(dtype or ("bf16" if where.type == "cuda" else "fp32"))
    names = wanted or list(DEFAULT_BACKENDS[where.type])
    cases = [
        bench_run.Case(layer, *order, *size, kind)
        for layer in (read_layer(target, None, plugins, "") for target in targets)
        for order in (read_order(layout, layer),)
        for size in _sizes(shapes or DEFAULT_SHAPES[where.type, order[0]], order[0], groups)
    ]
    machine = bench_run.describe(where)
    _tell(
        f"{machine['name']}, torch {machine['versions'].get('torch')}: the copy that times are compared with"
    )
    clock, copy = bench_run.start(where)
    rows: list[dict[str, Any]] = []
    floors: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for case in cases:

        def skip(backend: str, reason: str, name: str = case.label) -> None:
            entry = {"layer": name, "backend": backend, "reason": reason}
            if entry not in left_out:
                left_out.append(entry)
                _tell(f"{name}: without {backend}: {reason}")

        rows += bench_run.measure(case, clock, names, rounds=rounds, copy=copy, left_out=skip, tell=_tell)
        if roofline:
            try:
                floors += bench_run.rooflines(case, where, copy)
            except EvonasError as error:
                skip("roofline", error.message)
    if not rows:
        raise EnvironmentUnusable(
            "nothing that was asked for runs here: "
            + "; ".join(f"{one['backend']}: {one['reason']}" for one in left_out),
            hint="--backends eager runs everywhere",
        )
    content = {
        **machine,
        "copy_bytes_per_second": copy,
        "rows": rows,
        "geometric_means": geometric_means(rows),
        "rooflines": floors,
        "left_out": left_out,
    }
    if plot is not None:
        _plot(plot, content)
    if json:
        document("bench", content)
    else:
        _print(content)
    return 0


def _backends(text: str | None) -> list[str] | None:
    from evonas.cli.bench_run import BACKENDS

    if text is None:
        return None
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in BACKENDS:
            raise unknown_name("backend", name, BACKENDS)
    if not names:
        raise UsageError("--backends names none", hint=f"some of {', '.join(BACKENDS)}")
    return names


def _sizes(text: str, layout: str, groups: int) -> list[tuple[tuple[int, ...], int]]:
    return [read_size(part, layout, groups) for part in text.split(";") if part.strip()]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(content: Mapping[str, Any]) -> None:
    rows = content["rows"]
    threads = f", {content['threads']} threads" if content["threads"] else ""
    cold = "cold L2 cache" if content["device"] == "cuda" else "caches as they are"
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    print(f"{content['name']}{threads}; {versions}")
    print(f"A copy reaches {content['copy_bytes_per_second'] / 1e9:.1f} GB/s; {cold}; "
          f"medians of {rows[0]['rounds']} interleaved rounds")  # fmt: skip
    columns = ("layer", "shape", "dtype", "pass", "backend", "µs", "± quartiles", "of a copy", "vs eager", "")
    lines = []
    for row in rows:
        sizes = "x".join(map(str, row["shape"])) + (" cl" if row["memory"] == "channels_last" else "")
        gain = row["speedup_over_eager"]
        lines.append(
            (
                _name(row),
                sizes,
                row["dtype"],
                row["pass"],
                row["backend"],
                f"{row['median_us']:.1f}",
                f"{row['iqr_us'] / 2:.1f}",
                f"{row['share_of_copy']:.0%}",
                "" if gain is None else f"{gain:.2f}x",
                row["note"],
            )
        )
    emit(table(None, columns, lines, right=columns[5:9], fold=("layer",)))
    if content["geometric_means"]:
        _print_means(content["geometric_means"])
    if content["rooflines"]:
        _print_floors(content)


def _print_means(means: Sequence[Mapping[str, Any]]) -> None:
    found = {(one["peer"], one["pass"]): one for one in means}
    lines = []
    for peer in dict.fromkeys(one["peer"] for one in means):
        ratios = [f"{found[peer, which]['ratio']:.2f}x" for which in PASSES]
        lines.append((peer, found[peer, PASSES[0]]["cells"], *ratios))
    title = f"Times over those of {means[0]['ours']}, geometric means"
    emit(table(title, ("backend", "cases", *PASSES), lines, right=("cases", *PASSES)))


def _name(row: Mapping[str, Any], most: int = 60) -> str:
    """The layer's name, or its formula if it has none, cut to that many characters."""
    name = str(row["layer"] if row["layer"] != "layer" else row["formula"])
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _print_floors(content: Mapping[str, Any]) -> None:
    floors = content["rooflines"]
    first = floors[0]
    if first["copy_measured_here"]:
        title = f"Floors on {first['machine']}: bytes at the speed of the copy above, counted instructions"
    else:
        title = f"Floors on an {first['machine']}, a model from its rates: nothing of this table was measured"
    columns = ("layer", "shape", "pass", "floor µs", "limit", "bandwidth", "issue", "special", "instr/elem",
               "special/elem", "registers", "spill B")  # fmt: skip
    lines = [
        (
            _name(one),
            "x".join(map(str, one["shape"])),
            one["pass"],
            *(f"{one['floor_us']:.1f}", one["limit"]),
            *(f"{one[name]:.1f}" for name in ("bandwidth_us", "issue_us", "special_us", "instructions")),
            f"{one['mufu']:.2f}",
            one["registers"],
            one["spill_bytes"],
        )
        for one in floors
    ]
    emit(table(title, columns, lines, right=(*columns[3:4], *columns[5:]), fold=("layer",)))


def _plot(path: str, content: Mapping[str, Any]) -> None:
    """Floors of this device: by bytes, or by the roofline where it is of this device too."""
    known = {
        (one["layer"], tuple(one["shape"]), one["pass"]): one["floor_us"]
        for one in content["rooflines"]
        if one["copy_measured_here"]
    }
    points = []
    for row in content["rows"]:
        by_bytes = 1e6 * row["least_bytes"] / content["copy_bytes_per_second"]
        least = known.get((row["layer"], tuple(row["shape"]), row["pass"]), by_bytes)
        what = f"{_name(row, 36)} {'x'.join(map(str, row['shape']))} {row['pass']}"
        points.append(Point(what, row["backend"], least, row["median_us"]))
    kind = (
        "the larger of bytes, instructions and special functions" if known else "bytes at the speed of a copy"
    )
    title = f"Forward and backward on {content['name']}, {content['rows'][0]['dtype']}"
    write_plot(path, points, title, f"floor: {kind}, {content['copy_bytes_per_second'] / 1e9:.1f} GB/s")
    _tell(f"wrote {path}")
