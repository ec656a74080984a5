"""The whole search with many workers: does it complete, how fast, and how much memory does it take at most?

    python benchmarks/many_workers.py [--workers 64] [--candidates 32] [--json]

Runs ``evonas search --space norm_act --workers N`` with the real evaluator in a process of its own and weighs the
whole process tree (PSS: shared pages count once) every few seconds. Exit 1 if the search does not complete.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

import evonas
from evonas.run.environment import describe_environment

GIB = 2**30


def tree_memory(process: psutil.Process) -> tuple[int, int]:
    """PSS in bytes of a process and all that it started, and how many processes that are."""
    total = count = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
            count += 1
        except psutil.Error:
            continue
    return total, count


def measure(workers: int, candidates: int) -> dict[str, Any]:
    """Run the search; time to the first answer, evaluations per minute, peak memory, exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "evonas.cli.main", "search", "--space", "norm_act", "--workers", str(workers),
            "--candidates", str(candidates), "--seed", "0", "--out", folder, "--quiet", "--no-rerank",
        ]  # fmt: skip
        started = time.monotonic()
        run = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        process = psutil.Process(run.pid)
        peak = processes = 0
        while run.poll() is None:
            memory, count = tree_memory(process)
            peak, processes = max(peak, memory), max(processes, count)
            time.sleep(2.0)
        seconds = time.monotonic() - started
        [path] = list(Path(folder).iterdir())
        events = [e for e in evonas.open_run(path).events() if e.ts is not None]
        begin = events[0].ts or 0
        answers = [(e.ts or 0) - begin for e in events if e.kind == "finished"]
    return {
        "workers": workers,
        "candidates_per_arm": candidates,
        "exit_code": run.returncode,
        "seconds": round(seconds, 1),
        "evaluations": len(answers),
        "evaluations_per_minute": round(60 * len(answers) / seconds, 1),
        "first_answer_s": round(answers[0] / 1e6, 1) if answers else None,
        "peak_pss_gib": round(peak / GIB, 2),
        "processes": processes,
        "cpus": os.cpu_count(),
        "packages": describe_environment()["packages"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.workers, options.candidates)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for key, value in result.items():
            if key != "packages":
                print(f"{key:24} {value}")
    sys.exit(result["exit_code"] != 0)


if __name__ == "__main__":
    main()
