"""`kernel`: the Triton source of a layer, or what its kernels are once they are compiled."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evonas.cli.layer_argument import read_layer, read_order, read_size
from evonas.cli.output import document, emit, table
from evonas.errors import EnvironmentUnusable, UsageError
from evonas.kernels.kernel_specs import (
    ITEMSIZE,
    PASSES,
    check_dtype,
    layer_source,
    layer_specs,
    limits_on,
    maths_on,
)
from evonas.kernels.lowering import plans
from evonas.kernels.offline import CompileFailed, CompileFailure, CompileReport, CompileResult
from evonas.kernels.plan import Launch, Plan
from evonas.kernels.pool import CompilePool
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import WIDE, executed_per_element
from evonas.kernels.spec import parse_target
from evonas.kernels.traffic import traffic

DEFAULT_SHAPES = {"nchw": "128,256,32,32", "btc": "16,1024,4096"}
#: What the source is for if no target is named; if several are, it is for the first.
USUAL_TARGET = "sm_90"


def kernel(
    target: str,
    candidate: str | None,
    *,
    forward: bool,
    backward: bool,
    layout: str | None,
    dtype: str,
    shape: str | None,
    groups: int,
    residual: bool,
    evaluation: bool,
    compile_for: str | None,
    plugins: Sequence[str],
    runs: str,
    json: bool,
) -> int:
    """Print source, or with ``compile_for`` the table of compiled kernels.

    Raises:
        UsageError, FormulaError: an unknown name, or a layer, layout and shape that do not fit.
        EnvironmentUnusable: compilation without triton.
        CompileFailed: a kernel that does not compile; the others are in the table.
    """
    check_dtype(dtype)
    targets = _targets(compile_for)
    layer = read_layer(target, candidate, plugins, runs)
    where, memory = read_order(layout, layer)
    sizes, count = read_size(shape or DEFAULT_SHAPES[where], where, groups)
    spec = LayerSpec(layer.formula, where, memory, residual=residual, training=not evaluation)
    wanted = [name for name, asked in zip(PASSES, (forward, backward), strict=True) if asked]
    wanted = wanted or ([*PASSES] if targets or json else ["forward"])
    content: dict[str, Any] = {
        "name": layer.name,
        "formula": layer.formula,
        "layout": where,
        "memory": memory,
        "dtype": dtype,
        "shape": sizes,
        "groups": count,
        "residual": residual,
        "training": not evaluation,
    }
    if not targets or json:
        content["passes"] = _sources(
            spec, sizes, count, dtype, wanted, targets[0] if targets else USUAL_TARGET
        )
    failures: list[CompileFailure] = []
    if targets:
        content["kernels"], failures = _compiled(spec, sizes, count, dtype, wanted, targets)
    if json:
        document("kernel", content)
    elif targets:
        _print_table(content)
    else:
        _print_source(content)
    if failures:
        _complain(failures[0])
    return 0


def _targets(text: str | None) -> list[str]:
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not names:
        raise UsageError("--compile-for names no target", hint="write --compile-for sm_90,gfx942")
    for name in names:
        parse_target(name)
    return list(dict.fromkeys(names))


def _sources(
    spec: LayerSpec, shape: tuple[int, ...], groups: int, dtype: str, wanted: Sequence[str], target: str
) -> list[dict[str, Any]]:
    both = plans(spec, shape, groups, limits_on(target))
    found = []
    for name, plan in zip(PASSES, (both.forward, both.backward), strict=True):
        if name in wanted:
            moved = traffic(plan, ITEMSIZE[dtype])
            found.append(
                {
                    "pass": name,
                    "target": target,
                    "source": layer_source(spec, plan, name == "backward", maths_on(spec, dtype, target)),
                    "launches": [_launch(launch) for launch in plan.launches],
                    "bytes": moved.unique,
                    "tensor_bytes": moved.tensor,
                }
            )
    return found


def _launch(launch: Launch) -> dict[str, Any]:
    return {
        "kernel": launch.kernel.name,
        "programs": launch.programs,
        "warps": launch.warps,
        "tensors": launch.tensors,
        "numbers": dict(launch.numbers),
        "blocks": dict(launch.blocks),
    }


def _compiled(
    spec: LayerSpec,
    shape: tuple[int, ...],
    groups: int,
    dtype: str,
    wanted: Sequence[str],
    targets: Sequence[str],
) -> tuple[list[dict[str, Any]], list[CompileFailure]]:
    rows: list[dict[str, Any]] = []
    failures: list[CompileFailure] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="evonas-kernel-") as name:
        folder = Path(name)
        for target in targets:
            both = layer_specs(spec, shape, groups, dtype=dtype, target=target, folder=folder)
            passes = [one for one in both if one.which in wanted]
            number = sum(len(one.specs) for one in passes)
            with CompilePool(min(cores, number), folder / "cache", target, sass=True) as pool:
                futures = [(one, pool.submit(one.specs)) for one in passes]
                for one, jobs in futures:
                    for launch, job in zip(one.plan.launches, jobs, strict=True):
                        result = job.result()
                        rows.append(_row(one.which, one.plan, launch, target, result))
                        failures += [result] if isinstance(result, CompileFailure) else []
    return rows, failures


def _row(which: str, plan: Plan, launch: Launch, target: str, result: CompileResult) -> dict[str, Any]:
    row: dict[str, Any] = {"target": target, "pass": which, "kernel": launch.kernel.name}
    if not isinstance(result, CompileReport):
        return row | {"failed": result.kind, "message": result.message}
    instructions, mufu = executed_per_element(plan, launch, result)
    counts = result.counts
    loads = counts.total.loads if counts is not None else {}
    return row | {
        "programs": launch.programs,
        "warps": result.num_warps,
        "registers": result.registers,
        "spill_bytes": result.spill_bytes,
        "shared_bytes": result.shared_bytes,
        "instructions_per_element": instructions,
        "special_per_element": mufu,
        "wide_loads": any(bits >= WIDE for bits in loads),
        "compile_seconds": result.wall_seconds,
        "compile_cpu_seconds": result.cpu_seconds,
        "counts": asdict(counts) if counts is not None else None,
    }


def _print_source(content: dict[str, Any]) -> None:
    sizes = "x".join(map(str, content["shape"]))
    for one in content["passes"]:
        calls = ", ".join(
            f"{at['kernel']} with {at['programs']} programs of {at['warps']} warps" for at in one["launches"]
        )
        moved = f"{one['bytes'] / one['tensor_bytes']:.2f} times the bytes of x"
        what = f"{one['pass']} for {sizes} {content['dtype']} on {one['target']}"
        print(f"{what}: {calls}; moves {moved}", file=sys.stderr)
    print("\n\n".join(one["source"].rstrip("\n") for one in content["passes"]))


def _print_table(content: dict[str, Any]) -> None:
    columns = ("target", "pass", "kernel", "registers", "spill B", "shared B", "instr/elem", "special/elem",
               "128-bit loads", "compile s")  # fmt: skip
    rows = []
    for one in content["kernels"]:
        start = (one["target"], one["pass"], one["kernel"])
        if "failed" in one:
            rows.append((*start, "failed: " + one["failed"], *[""] * 6))
            continue
        rows.append(
            (
                *start,
                one["registers"],
                one["spill_bytes"],
                one["shared_bytes"],
                f"{one['instructions_per_element']:.1f}",
                f"{one['special_per_element']:.2f}",
                "yes" if one["wide_loads"] else "no",
                f"{one['compile_seconds']:.2f}",
            )
        )
    sizes = "x".join(map(str, content["shape"]))
    title = f"{content['formula']}, {sizes} {content['dtype']}"
    emit(table(title, columns, rows, right=columns[3:]))


def _complain(failure: CompileFailure) -> None:
    if failure.transient:
        raise EnvironmentUnusable(
            f"{failure.function} for {failure.target} was not compiled ({failure.kind}): {failure.message}",
            hint="evonas doctor",
        )
    raise CompileFailed(failure)
