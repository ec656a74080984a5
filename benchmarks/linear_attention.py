"""Linear attention with decay: decoding at growing context, memory, kernels as compiled, times on a GPU.

    python benchmarks/linear_attention.py [--quick] [--json] [--only decode memory kernels gpu]

decode: one layer, 8 heads of 128, float32, one thread. A state is carried through 32,768 tokens, and kept at several
contexts; then one token is decoded from each of them in turn, many times, beside softmax attention over as many cached
keys and values. memory: peak of the resident set above what the inputs hold, forward and backward, each in a process of
its own. kernels: registers, shared memory, spills and bytes, compiled for devices that are not here. gpu: see
``_attention_times.py``; waits for a GPU if there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from evonas.kernels.linear_attention import decay_rates, lightning_attention, recurrent_step
from evonas.kernels.linear_attention_passes import Heads, attention_traffic, pass_specs
from evonas.kernels.linear_attention_tiles import Device
from evonas.kernels.offline import CompileReport
from evonas.kernels.pool import CompilePool
from torch.nn import functional as F

HEADS, SIZE = 8, 128
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
TARGETS = ("sm_80", "sm_90")
WAITS = "waits for a GPU: torch sees none here"


# ------------------------------------------------------------------------------------------------ decoding


def decode(quick: bool) -> dict[str, Any]:
    """Microseconds of the processor per token at every context, medians over interleaved rounds."""
    torch.set_num_threads(1)
    contexts = [n // 8 for n in CONTEXTS] if quick else list(CONTEXTS)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(contexts[-1], 1, HEADS, SIZE, generator=generator) for _ in range(3))
    q /= SIZE**0.5
    decay = decay_rates(HEADS, 0, 24)
    state, kept = None, {}
    with torch.no_grad():
        for t in range(contexts[-1]):
            _, state = recurrent_step(state, q[t], k[t], v[t], decay)
            if t + 1 in contexts:
                kept[t + 1] = state.clone()
        if not all(bool(s.isfinite().all()) for s in kept.values()):
            raise SystemExit("error: a state is not finite")
        cached = [t[:, 0].transpose(0, 1)[None].contiguous() for t in (k, v)]
        calls: dict[tuple[str, int], Callable[[], object]] = {}
        for n in contexts:
            keys, values = (t[:, :, :n].contiguous() for t in cached)
            calls["recurrent", n] = lambda n=n: recurrent_step(kept[n], q[0], k[0], v[0], decay)
            calls["softmax", n] = lambda a=keys, b=values: F.scaled_dot_product_attention(
                q[0][:, :, None], a, b
            )
        found: dict[tuple[str, int], list[float]] = {name: [] for name in calls}
        names = list(calls)
        for n in range(20 if quick else 60):
            at = n % len(names)
            for name in names[at:] + names[:at]:
                calls[name]()  # once for the caches
                start = time.process_time()
                for _ in range(10 if name[0] == "recurrent" else 1):
                    calls[name]()
                seconds = time.process_time() - start
                found[name].append(seconds / (10 if name[0] == "recurrent" else 1))
    times = {
        what: {str(n): 1e6 * median(found[what, n]) for n in contexts} for what in ("recurrent", "softmax")
    }
    first, last = str(contexts[0]), str(contexts[-1])
    return {
        "heads": HEADS,
        "size": SIZE,
        "rounds": len(found[names[0]]),
        "us_per_token": times,
        "ratio": {what: one[last] / one[first] for what, one in times.items()},
        "state_bytes": kept[contexts[0]].numel() * 4,
        "cache_bytes": {str(n): 2 * HEADS * SIZE * n * 4 for n in contexts},
    }


# ------------------------------------------------------------------------------------------------ memory


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak since it was reset) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def peak_of_both_passes(form: str, tokens: int, heads: int = 4, size: int = 64) -> int:
    """Bytes above the inputs, of forward and backward with float32 tensors (1, heads, tokens, size)."""
    torch.set_num_threads(1)
    decay = decay_rates(heads, 0, 24)

    def run(count: int) -> Callable[[], None]:
        generator = torch.Generator().manual_seed(0)
        leaves = [
            torch.randn(1, heads, count, size, generator=generator, requires_grad=True) for _ in range(3)
        ]
        gradient = torch.randn(1, heads, count, size, generator=generator)
        return lambda: lightning_attention(*leaves, decay, form=form).backward(gradient)

    run(256)()  # code and thread pools are loaded
    step = run(tokens)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def memory(quick: bool) -> dict[str, Any]:
    """Peaks of the chunked and the masked form."""
    sizes = {"chunked": (2048, 4096, 8192, 16384, 32768, 65536), "masked": (1024, 2048, 4096)}
    rows = []
    for form, counts in sizes.items():
        for tokens in counts[: 2 if quick else None]:
            done = subprocess.run(
                [sys.executable, __file__, "--peak", form, str(tokens)],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"},
            )
            peak = int(done.stdout)
            rows.append(
                {"form": form, "tokens": tokens, "peak_bytes": peak, "bytes_per_token": peak / tokens}
            )
    return {"heads": 4, "size": 64, "block": 64, "input_bytes_per_token": 4 * 4 * 64 * 4, "rows": rows}


# ------------------------------------------------------------------------------------------------ kernels


def kernels(quick: bool) -> dict[str, Any]:
    """Every kernel of both passes as compiled, and the bytes that both passes move in sizes of q."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="evonas-compile-") as folder:
        for target in TARGETS[-1:] if quick else TARGETS:
            with CompilePool(1, folder, target, deadline=300, sass=True) as pool:
                for size in (64,) if quick else (32, 64, 128):
                    rows += compiled(pool, target, size)
    return {
        "dtype": "bf16",
        "versions": {"triton": metadata.version("triton")},
        "rows": rows,
        "traffic": traffic(),
    }


def compiled(pool: CompilePool, target: str, size: int) -> list[dict[str, Any]]:
    passes = pass_specs(Heads(8, 16, 2048, size, size), "bf16", target)
    named = {
        "out, dq": passes["forward"],
        "dk with dv" if len(passes["backward"]) == 2 else "dk, dv": passes["backward"][1:2],
    }
    rows = []
    for what, specs in named.items():
        for future in pool.submit(specs):
            report = future.result()
            if not isinstance(report, CompileReport):
                raise SystemExit(f"error: {report.message}")
            assert report.counts is not None
            rows.append(
                {
                    "target": target,
                    "size": size,
                    "gives": what,
                    "kernel": report.function,
                    "registers": report.registers,
                    "spill_bytes": report.spill_bytes,
                    "shared_bytes": report.shared_bytes,
                    "warps": report.num_warps,
                    "wgmma": report.counts.total.hgmma,
                    "mma": report.counts.total.mma,
                    "cpu_seconds": report.cpu_seconds,
                }
            )
    return rows


def traffic() -> list[dict[str, Any]]:
    rows = []
    for batch, heads, tokens in ((8, 16, 2048), (1, 4, 8192)):
        for size in (32, 64, 128):
            sizes = Heads(batch, heads, tokens, size, size)
            one = batch * heads * tokens * size * 2
            moved = attention_traffic(sizes, "bf16", Device())
            rows.append(
                {
                    "shape": [batch, heads, tokens, size],
                    **{
                        which: {"unique": m.unique / one, "swept": m.swept / one, "kernels": m.kernels}
                        for which, m in moved.items()
                    },
                }
            )
    return rows


# ------------------------------------------------------------------------------------------------ all


def gpu(quick: bool) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"waits": WAITS}
    from _attention_times import SHAPES, measure

    return measure(torch.device("cuda"), SHAPES[:2] if quick else SHAPES, 5 if quick else 15)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "decode": decode,
    "memory": memory,
    "kernels": kernels,
    "gpu": gpu,
}


def show(name: str, part: dict[str, Any]) -> None:
    print(f"\n{name}")
    if "waits" in part:
        print(f"  {part['waits']}")
    elif name == "decode":
        for what, times in part["us_per_token"].items():
            cells = "  ".join(f"{n}: {us:.0f}" for n, us in times.items())
            print(f"  {what:<10} us per token at context  {cells}  last / first {part['ratio'][what]:.2f}")
        print(f"  state {part['state_bytes']:,} bytes at every context")
    elif name == "memory":
        for row in part["rows"]:
            print(
                f"  {row['form']:<8} {row['tokens']:>6} tokens: {row['bytes_per_token']:>10,.0f} bytes per token"
            )
    elif name == "kernels":
        for row in part["rows"]:
            print(
                f"  {row['target']} head {row['size']:>3} {row['gives']:<10} {row['registers']} registers, "
                f"{row['spill_bytes']} spilled, {row['shared_bytes']:,} bytes shared"
            )
        for row in part["traffic"]:
            both = (f"{row[w]['unique']:.2f} ({row[w]['swept']:.2f} swept)" for w in ("forward", "backward"))
            print(f"  {'x'.join(map(str, row['shape']))}: {' / '.join(both)} sizes of q")
    else:
        for row in part["rows"]:
            cells = "  ".join(
                f"{n} {t['forward']['us']:.0f} / {t['backward']['us']:.0f}" for n, t in row["times"].items()
            )
            print(f"  {'x'.join(map(str, row['shape']))} us: {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: seconds")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peak", nargs=2, metavar=("FORM", "TOKENS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak_of_both_passes(given.peak[0], int(given.peak[1])))
        return
    document: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    for name in given.only:
        document[name] = PARTS[name](given.quick)
        if not given.json:
            show(name, document[name])
    if given.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
