"""Numbers of the kernels: what is counted, compiled, checked and timed of them, and of linear attention."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from _page_numbers import block, results, table

#: Layers of benchmarks/c_backend.py; "bn_relu native" is a yardstick beside them.
C_LAYERS = ("evonorm_s0", "evonorm_b0", "random")


def _shape(row: Any) -> str:
    return "x".join(str(n) for n in row["shape"])


def _units(row: Any, whose: str, counted: str) -> str:
    return " / ".join(f"{row[whose][which][counted]:.2f}" for which in ("forward", "backward"))


def _traffic_cells(row: Any) -> list[str]:
    return [_units(row, "ours", "swept"), _units(row, "cooperative", "swept"), _units(row, "ours", "unique"),
            _units(row, "inductor", "unique")]  # fmt: skip


def _both_kernels(row: Any, whose: str) -> str:
    return " + ".join(str(row[whose][which]["kernels"]) for which in ("forward", "backward"))


@block
def kernel_traffic(root: Path) -> str | None:
    """benchmarks/kernel_traffic.py: every layer, forward / backward in sizes of x."""
    report = results(root, "kernel_traffic")
    if report is None:
        return None
    rows = []
    for row in report["layers"]:
        name = f"`{row['formula']}`" if row["name"].startswith("random_") else row["name"]
        kernels = f"{_both_kernels(row, 'ours')} / {_both_kernels(row, 'inductor')}"
        rows.append([name, _shape(row), *_traffic_cells(row), row["inductor"]["spelling"], kernels])
    mean = report["random_mean"]
    if mean:
        pairs = [
            " / ".join(f"{mean[name][which]:.2f}" for which in ("forward", "backward"))
            for name in ("ours_swept", "cooperative_swept", "ours_unique", "inductor_unique")
        ]
        kernels = f"{mean['ours_kernels']:.1f} / {mean['inductor_kernels']:.1f}"
        rows.append([f"mean of the {mean['layers']} random layers", "", *pairs, "", kernels])
    head = f"{report['assumed_device']}; torch {report['versions']['inductor']['torch']}.\n\n"
    columns = ["layer", "shape", "evonas, swept", "the same, cooperative", "evonas, unique", "torch.compile, unique",
               "its spelling", "kernels"]  # fmt: skip
    return head + table(columns, rows)


SHORT_TRAFFIC = ("layer_norm", "rms_norm", "gn_silu", "evonorm_s0", "bn_relu", "evonorm_b0")


@block
def kernel_traffic_short(root: Path) -> str | None:
    """The same, some layers, for the README."""
    report = results(root, "kernel_traffic")
    if report is None:
        return None
    known = {row["name"]: row for row in report["layers"]}  # of two shapes, the larger one, which stands last
    rows = []
    for name in SHORT_TRAFFIC:
        row = known[name]
        rows.append([name, _shape(row), _units(row, "ours", "swept"), _units(row, "inductor", "unique")])
    mean = report["random_mean"]
    pairs = [
        " / ".join(f"{mean[name][which]:.2f}" for which in ("forward", "backward"))
        for name in ("ours_swept", "inductor_unique")
    ]
    rows.append([f"mean of {mean['layers']} random layers", "128x256x32x32", *pairs])
    return table(["layer", "shape", "evonas", "torch.compile"], rows)


@block
def kernel_budget(root: Path) -> str | None:
    """benchmarks/kernel_budget.py, part budget: instructions per element."""
    report = results(root, "kernel_budget")
    if report is None:
        return None
    good = [row for row in report["budget"] if "failed" not in row]
    rows = []
    for row in (row for row in good if not row["layer"].startswith("random_")):
        rows.append(
            [row["layer"], row["pass"], f"{row['instructions']:.1f}", str(row["budget"]), f"{row['mufu']:.2f}",
             str(row["registers"]), str(row["spill_bytes"]), "yes" if row["wide_loads"] else "no",
             f"{row['cpu_seconds']:.2f}"]
        )  # fmt: skip
    for which in ("forward", "backward"):
        random = [row for row in good if row["layer"].startswith("random_") and row["pass"] == which]
        if not random:
            continue
        numbers = sorted(row["instructions"] for row in random)
        rows.append(
            [f"{len(random)} random layers, median (most)", which,
             f"{statistics.median(numbers):.1f} ({numbers[-1]:.1f})", "",
             f"{statistics.median(row['mufu'] for row in random):.2f} ({max(row['mufu'] for row in random):.2f})",
             f"{max(row['registers'] for row in random)}", f"{max(row['spill_bytes'] for row in random)}",
             f"{sum(bool(row['wide_loads']) for row in random)} of {len(random)}",
             f"{statistics.median(row['cpu_seconds'] for row in random):.2f}"]
        )  # fmt: skip
    head = f"sm_90, {report['dtype']}, Triton {report['versions']['triton']}.\n\n"
    columns = ["layer", "pass", "instructions per element", "budget", "special functions", "registers",
               "spilled bytes", "128-bit loads", "CPU s to compile"]  # fmt: skip
    return head + table(columns, rows)


def _sweep_name(row: Any) -> list[str]:
    """What a sweep is for, as the cells of a table: target, dtype, x and plans."""
    memory = "channels last" if row["memory"] == "channels_last" else ""
    x = f"{_shape(row)} {'tokens' if row['layout'] == 'btc' else memory}".rstrip()
    waiting = f"cooperative in {row['waiting']} of {row['passes']} passes"
    return [row["target"], row["dtype"], x, waiting if row["cooperative"] else "default"]


@block
def kernel_sweep(root: Path) -> str | None:
    """benchmarks/kernel_budget.py, part sweep: many layers for every target, dtype, memory order and kind of plan."""
    report = results(root, "kernel_budget")
    if report is None or "sweep" not in report:
        return None
    rows, trouble = [], ""
    for row in report["sweep"]:
        worst = max(row["spilling"].values(), default=0)
        rows.append(
            [*_sweep_name(row), str(row["layers"]), str(len(row["failed"])),
             f"{len(row['spilling'])} of {row['passes']}" + (f", at most {worst} bytes a thread" if worst else ""),
             "" if row["narrow_loads"] is None else f"{row['exact'] - len(row['narrow_loads'])} of {row['exact']}",
             str(row["most_registers"]), f"{row['median_cpu_seconds']:.2f} ({row['max_cpu_seconds']:.2f})"]
        )  # fmt: skip
        what = ", ".join(_sweep_name(row))
        trouble += "".join(f"- {name} ({what}) does not compile\n" for name in row["failed"])
        if row["spilling"]:
            known = {name: n for name, n in row["spilling"].items() if not name.startswith("random_")}
            named = "".join(f"{name} {n}, " for name, n in known.items())
            others = len(row["spilling"]) - len(known)
            trouble += f"- spilled bytes a thread ({what}): {named}and {others} passes of random layers\n"
    columns = ["target", "dtype", "x", "plans", "layers", "do not compile", "passes that spill",
               "128-bit loads where blocks are full", "most registers", "CPU s a layer (most)"]  # fmt: skip
    return table(columns, rows) + (f"\n{trouble}" if trouble else "")


@block
def kernel_walls(root: Path) -> str | None:
    """The same sweeps: instructions and special functions per element against what the bandwidth leaves time for."""
    report = results(root, "kernel_budget")
    if report is None or "sweep" not in report:
        return None
    rows = []
    for row in report["sweep"]:
        for which, made in (row["executed"] or {}).items():
            cells = [*_sweep_name(row)[:3], "cooperative" if row["cooperative"] else "default", which]
            for what in ("instructions", "mufu"):
                one = made[what]
                cells.append(f"{one['median']:.1f} ({one['max']:.1f})")
                known = one["wall"] is not None
                cells += (
                    [f"{one['wall']:.1f}", f"{len(one['above'])} of {made['passes']}"] if known else ["", ""]
                )
            rows.append(cells)
    columns = ["target", "dtype", "x", "plans", "pass", "instructions, median (most)", "wall", "passes above",
               "special functions, median (most)", "wall", "passes above"]  # fmt: skip
    return table(columns, rows)


@block
def nested_layers(root: Path) -> str | None:
    """benchmarks/nested_layers.py: random layers with nested index sets that move the least there is."""
    report = results(root, "nested_layers")
    if report is None:
        return None
    rows = []
    for row in report["rows"]:
        above = "; ".join(f"{one['forward']} / {one['backward']} `{one['formula']}`" for one in row["above"])
        shape = "x".join(str(n) for n in row["shape"])
        rows.append([shape, row["schedule"], f"{row['least']} of {row['layers']}", above])
    return table(["shape", "plans", "move 2 / 3", "the others"], rows)


@block
def inductor_nested(root: Path) -> str | None:
    """The same layers beside torch.compile, by its convention: benchmarks/inductor_nested.py and nested_layers.py."""
    report = results(root, "nested_layers")
    row = (
        next((r for r in report["rows"] if "inductor" in r and r["schedule"] == "default"), None)
        if report
        else None
    )
    if row is None:
        return None
    found = row["inductor"]
    ours, theirs = (" / ".join(f"{found[whose][w]:.2f}" for w in ("forward", "backward"))
                    for whose in ("ours", "inductor"))  # fmt: skip
    above = [one["ours"] - one["inductor"] for one in found["above"]]
    waiting = next(
        r["inductor"] for r in report["rows"] if "inductor" in r and r["schedule"] == "cooperative"
    )
    passes = 2 * found["layers"]
    most = f", by {max(above):.3f} at most" if above else ""
    return (
        f"For the {found['layers']} layers at {_shape(row)}, in one spelling (*graph*): the mean is {ours} of ours in "
        f"default plans and {theirs} under `torch.compile`. In default plans {len(above)} of {passes} passes are above "
        f"it{most}; in cooperative ones {len(waiting['above'])}.\n"
    )


@block
def latency_front(root: Path) -> str | None:
    """benchmarks/latency_front.py: the front of accuracy against latency, and the known layers."""
    report = results(root, "latency_front")
    if report is None:
        return None
    rows = [
        [f"`{row['formula']}`", "found" if row["front"] else "known", f"{100 * row['accuracy']:.1f}",
         f"{row['latency_us']:.0f}"]
        for row in report["rows"]
    ]  # fmt: skip
    head = f"{report['scored']} candidates trained to the end. Latency: {report['source']}.\n\n"
    return head + table(["layer", "", "accuracy %", "latency us"], rows)


def _set_name(one: Any) -> str:
    return "the zoo" if one["layers"] == "zoo" else "random"


def _off(one: Any, failed: Any) -> str:
    """A case that is further off than rounding explains, with what is."""
    outputs = "; ".join(
        f"{name} by {failed['errors'][name]:.1e}, rounding moves it by {failed['rounding'][name]:.1e}"
        for name in failed["outputs"]
    )
    return f"- `{failed['formula']}` ({_set_name(one)}, {one['limits']}, {one['dtype']}): {outputs}\n"


@block
def kernel_fuzz(root: Path) -> str | None:
    """benchmarks/kernel_fuzz.py: layers in the interpreter against float64; below them, every one that is off."""
    report = results(root, "kernel_fuzz")
    if report is None:
        return None
    rows = [
        [_set_name(one), one["limits"], one["dtype"], f"{one['cases']:,}", f"{one['tolerance']:g}",
         f"{one['within_tolerance']:,}", f"{one['within_rounding']:,}",
         *(str(len(one[name])) for name in ("disagree", "overflow"))]
        for one in report["sets"]
    ]  # fmt: skip
    head = f"Triton {report['versions']['triton']}, torch {report['versions']['torch']}.\n\n"
    columns = ["layers", "limits", "dtype", "cases", "tolerance", "within it", "as far off as rounding explains",
               "further off", "with outputs beyond float32"]  # fmt: skip
    off = "".join(_off(one, failed) for one in report["sets"] for failed in one["disagree"])
    below = f"Further off:\n\n{off}" if off else "None is further off.\n"
    return f"{head}{table(columns, rows)}\n{below}"


@block
def compile_pool(root: Path) -> str | None:
    """benchmarks/compile_pool.py."""
    report = results(root, "compile_pool")
    if report is None:
        return None
    rows = [
        [str(case["workers"]), str(case["kernels"]), str(case["failed"]), f"{case['kernels_per_second']:.1f}",
         f"{case['median_cpu_seconds']:.2f}", f"{case['memory_mb']:.0f} MB"]
        for case in report["cases"]
    ]  # fmt: skip
    head = f"For {report['target']}, Triton {report['versions']['triton']}.\n\n"
    columns = ["workers", "kernels", "failed", "kernels per second", "CPU s a kernel", "memory of a worker"]
    return head + table(columns, rows)


@block
def candidate_batches(root: Path) -> str | None:
    """benchmarks/candidate_batches.py, part host: what a fingerprint costs, and what the gradients as graphs cost."""
    report = results(root, "candidate_batches")
    if report is None:
        return None
    host = report["host"]
    return (
        f"Per second of one core, over {report['candidates']:,} random layers: {host['numpy_fingerprint']:,.0f} "
        f"fingerprints in numpy, gradients and all; {host['symbolic_gradients']:,.0f} candidates whose gradients are "
        f"made as graphs; {host['programs']:,.0f} whose programs are.\n"
    )


@block
def c_backend(root: Path) -> str | None:
    """benchmarks/c_backend.py: training steps of the proxies with generated C."""
    report = results(root, "c_backend")
    if report is None:
        return None
    rows = []
    for proxy, cases in report["proxies"].items():
        native = cases["bn_relu native"]
        rows.append([proxy, "bn_relu of torch", f"{native['ms']:.1f}", "", "", ""])
        for name in C_LAYERS:
            eager, generated = cases[f"{name} eager"], cases[f"{name} C"]
            rows.append(
                [proxy, name, f"{eager['ms']:.1f}", f"{generated['ms']:.1f}", f"{generated['speed_up']:.2f}",
                 f"{generated['break_even_steps']:.0f}"]
            )  # fmt: skip
    head = (
        f"{report['cores']} cores, load {report['load']:.1f}, median of {report['rounds']} rounds; the random layer is "
        f"`{report['random']}`.\n\n"
    )
    columns = ["proxy", "layer", "eager ms", "C ms", "times as fast", "steps until compiling has paid"]
    return head + table(columns, rows)


@block
def c_backend_short(root: Path) -> str | None:
    """The same as one sentence, for the README."""
    report = results(root, "c_backend")
    if report is None:
        return None
    cases = [cases[f"{name} C"] for cases in report["proxies"].values() for name in C_LAYERS]
    ratios = sorted(case["speed_up"] for case in cases)
    steps = max(case["break_even_steps"] for case in cases)
    low, middle, high = (1 / ratio for ratio in (ratios[-1], statistics.median(ratios), ratios[0]))
    return (
        f"On the CPU, a training step of a proxy with generated C takes {low:.2f} to {high:.2f} of the eager step's "
        f"time (median {middle:.2f}, {len(ratios)} pairs of network and layer), and compiling has paid after "
        f"{math.ceil(steps)} steps at most.\n"
    )


@block
def search_kernels(root: Path) -> str | None:
    """benchmarks/search_kernels.py: the same candidates with generated kernels and without."""
    report = results(root, "search_kernels")
    if report is None:
        return None
    rows = []
    for name, what in (
        ("all", "random layers and three of the zoo"),
        ("scored", "those that trained to the end"),
    ):
        part = report[name]
        rows.append(
            [what, str(part["candidates"]), f"{part['off_per_hour']:.0f}", f"{part['auto_per_hour']:.0f}",
             f"{part['speed_up']:.2f}", f"{part['median_speed_up']:.2f}", f"{100 * part['kernel_share']:.0f} %",
             f"{part['same_end']} of {part['candidates']}"]
        )  # fmt: skip
    head = (
        f"{report['device']}, {report['cores']} cores, load {report['load']:.1f}, one slot; {report['scale']}, "
        f"{' and '.join(report['proxies'])}; kernels by {report['kernels']}.\n\n"
    )
    columns = ["candidates", "how many", "per hour, eager", "per hour, kernels", "times as many", "median of each",
               "of the time for compiling and checking", "end at the same stage"]  # fmt: skip
    return head + table(columns, rows)


@block
def attention_decode(root: Path) -> str | None:
    """benchmarks/linear_attention.py, part decode: time per token at growing context."""
    report = results(root, "linear_attention")
    if report is None:
        return None
    part = report["decode"]
    names = {"recurrent": "`recurrent_step`", "softmax": "softmax over a cache"}
    contexts = list(part["us_per_token"]["recurrent"])
    rows = []
    for what, name in names.items():
        times = part["us_per_token"][what]
        rows.append([name, *(f"{times[n]:,.0f}" for n in contexts), f"{part['ratio'][what]:.2f}"])
    cache = part["cache_bytes"]
    rows.append(["bytes of the state", *(f"{part['state_bytes']:,}" for _ in contexts), "1.00"])
    rows.append(["bytes of the cache", *(f"{cache[n]:,}" for n in contexts),
                 f"{cache[contexts[-1]] / cache[contexts[0]]:.2f}"])  # fmt: skip
    head = (
        f"One layer, {part['heads']} heads of {part['size']}, float32, batch 1, one thread, load "
        f"{report['machine']['load']:.1f}; median of {part['rounds']} interleaved rounds.\n\n"
    )
    columns = ["CPU µs per token after", *(f"{int(n):,} tokens" for n in contexts), "last / first"]
    return head + table(columns, rows)


@block
def attention_memory(root: Path) -> str | None:
    """benchmarks/linear_attention.py, part memory: peak of forward and backward."""
    report = results(root, "linear_attention")
    if report is None:
        return None
    part = report["memory"]
    rows = [
        [f"`{row['form']}`", f"{row['tokens']:,}", f"{row['peak_bytes'] / 2**20:,.0f} MiB",
         f"{row['bytes_per_token']:,.0f}"]
        for row in part["rows"]
    ]  # fmt: skip
    head = (
        f"{part['heads']} heads of {part['size']}, float32, batch 1, chunks of {part['block']}; q, k, v and the "
        f"gradient of the output, {part['input_bytes_per_token']:,} bytes per token, not counted.\n\n"
    )
    return head + table(["form", "tokens", "peak of both passes", "bytes per token"], rows)


@block
def attention_kernels(root: Path) -> str | None:
    """benchmarks/linear_attention.py, part kernels: as compiled."""
    report = results(root, "linear_attention")
    if report is None:
        return None
    part = report["kernels"]
    rows = [
        [row["target"], str(row["size"]), row["gives"], str(row["registers"]), str(row["spill_bytes"]),
         f"{row['shared_bytes']:,}", str(row["warps"]), "wgmma" if row["wgmma"] else "mma"]
        for row in part["rows"]
    ]  # fmt: skip
    head = f"{part['dtype']}, Triton {part['versions']['triton']}.\n\n"
    columns = [
        "target",
        "head size",
        "gives",
        "registers",
        "spilled bytes",
        "shared bytes",
        "warps",
        "matrix unit",
    ]
    return head + table(columns, rows)


@block
def attention_traffic(root: Path) -> str | None:
    """benchmarks/linear_attention.py, part kernels: bytes from plans, in sizes of q."""
    report = results(root, "linear_attention")
    if report is None:
        return None
    rows = []
    for row in report["kernels"]["traffic"]:
        cells = [
            f"{row[which]['unique']:.2f} ({row[which]['swept']:.2f})" for which in ("forward", "backward")
        ]
        kernels = " + ".join(str(row[which]["kernels"]) for which in ("forward", "backward"))
        rows.append([_shape(row), *cells, kernels])
    return table(["batch x heads x tokens x size", "forward", "backward", "launches"], rows)
