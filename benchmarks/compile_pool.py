"""How many kernels per second the compile pool makes, and how large its compilers grow.

    python benchmarks/compile_pool.py [--quick] [--json] [--kernels 100] [--workers 1 2] [--target sm_90]

Every kernel is a source of its own: a LayerNorm of 1024 columns with two activations, or an element-wise chain of 6 to
12 operations. Seconds are of the clock, from the first submission to the last answer, with compilers that are ready.
CPU seconds are of compilation, the assembler included. Needs no device.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from evonas.kernels.offline import CompileReport
from evonas.kernels.pool import CompilePool
from evonas.kernels.spec import KernelSpec

_HEAD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
_NORM = """def kernel(x_ptr, w_ptr, b_ptr, y_ptr, rows, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    live = at < cols
    x = tl.load(x_ptr + row * cols + at, mask=live, other=0.0).to(tl.float32)
    d = tl.where(live, x - tl.sum(x, 0) / cols, 0.0)
    var = tl.sum(d * d, 0) / cols
    w = tl.load(w_ptr + at, mask=live, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + at, mask=live, other=0.0).to(tl.float32)
    y = d * tl.rsqrt(var + eps) * w + b
{chain}
    tl.store(y_ptr + row * cols + at, y.to(tl.bfloat16), mask=live)
"""
_CHAIN = """def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    y = x
{chain}
    tl.store(y_ptr + at, y.to(tl.bfloat16), mask=at < n)
"""
_STEPS = (
    "y = y * tl.sigmoid(y)",
    "y = tl.maximum(y, {c})",
    "y = tl.exp(-y * y) + {c}",
    "y = y / (1.0 + tl.abs(y))",
)
_NORM_ARGUMENTS = (
    *((name, "*bf16") for name in ("x_ptr", "w_ptr", "b_ptr", "y_ptr")),
    *(("rows", "i32"), ("cols", "i32"), ("eps", "fp32"), ("BLOCK", "constexpr")),
)
_CHAIN_ARGUMENTS = (("x_ptr", "*bf16"), ("y_ptr", "*bf16"), ("n", "i32"), ("BLOCK", "constexpr"))


def kernels(folder: Path, number: int) -> list[KernelSpec]:
    """Half of them norms, half chains, all different."""
    draws = random.Random(0)
    specs = []
    for i in range(number):
        steps = [
            draws.choice(_STEPS).format(c=draws.random()) for _ in range(2 if i % 2 else draws.randint(6, 12))
        ]
        text = (_NORM if i % 2 else _CHAIN).format(chain="\n".join(f"    {step}" for step in steps))
        path = folder / f"kernel_{i}.py"
        path.write_text(_HEAD + text)
        signature = _NORM_ARGUMENTS if i % 2 else _CHAIN_ARGUMENTS
        aligned = tuple(name for name, _ in signature if name not in ("rows", "eps", "BLOCK"))
        specs.append(KernelSpec(str(path), "kernel", signature, (("BLOCK", 1024),), aligned, elements=1024))
    return specs


def memory(pids: list[int]) -> float:
    """Largest resident set of the compilers, in MB."""
    lines = (Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids)
    return max(int(line.split()[1]) / 1024 for part in lines for line in part if line.startswith("VmRSS"))


def measure(workers: int, number: int, target: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="evonas-compile-") as name:
        folder = Path(name)
        specs = kernels(folder, number + 2 * workers)
        with CompilePool(workers, folder / "cache", target) as pool:
            for future in pool.submit(specs[number:]):  # the compilers are ready, and have done one of each
                future.result()
            before = memory(pool.describe()["pids"])
            start = time.perf_counter()
            results = [future.result() for future in pool.submit(specs[:number])]
            seconds = time.perf_counter() - start
            after = memory(pool.describe()["pids"])
        good = [result for result in results if isinstance(result, CompileReport)]
        cpu = [result.cpu_seconds for result in good]
        return {
            "workers": workers,
            "kernels": number,
            "failed": number - len(good),
            "spilling": sum(result.spill_bytes > 0 for result in good),
            "kernels_per_second": number / seconds,
            "median_cpu_seconds": statistics.median(cpu),
            "max_cpu_seconds": max(cpu),
            "memory_mb": after,
            "growth_kb_per_kernel": (after - before) * 1024 * workers / number,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20 kernels")
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--target", default="sm_90")
    given = parser.parse_args()
    rows = [measure(workers, 20 if given.quick else given.kernels, given.target) for workers in given.workers]
    versions = {"python": platform.python_version(), "triton": metadata.version("triton")}
    if given.json:
        print(json.dumps({"target": given.target, "versions": versions, "cases": rows}, indent=2))
        return
    print(f"{given.target}, Triton {versions['triton']}")
    for row in rows:
        print(
            f"{row['workers']} workers: {row['kernels_per_second']:.1f} kernels/s, "
            f"{row['median_cpu_seconds']:.2f} CPU-s each (at most {row['max_cpu_seconds']:.2f}), "
            f"{row['memory_mb']:.0f} MB per compiler, +{row['growth_kb_per_kernel']:.0f} KB per kernel, "
            f"{row['failed']} failed, {row['spilling']} spill"
        )


if __name__ == "__main__":
    main()
