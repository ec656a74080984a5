"""How fast the event log takes rows, next to a plain Arrow stream, both with an fsync per 100 rows.

Every case runs in a process of its own, the cases take turns, and a figure is the median of the rounds.
The yardstick writes the same rows as flat Arrow columns to one file and keeps neither numbers nor
checksums nor segments, so the ratio is the price of what the log adds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from evonas.run.log import EventLog, scan_log
from evonas.run.schema import Event, event_schema, pack

GROUP = 100
MINIMUM_ROWS_PER_S = 28_000
MAXIMUM_BYTES_PER_ROW = 1024
METADATA = {"proxies": ["resnet", "mobilenet", "efficientnet"]}


def make_row(i: int) -> Event:
    """One row of a search: a 10-node genotype, digest, formula for a third, scores, short evidence."""
    digest = hashlib.blake2b(b"%d" % i, digest_size=46).digest()
    return Event(
        "finished" if i % 2 else "proposed",
        "search",
        i // 2,
        1,
        max(i // 2 - 1, 0),
        "mutation",
        digest[16:],
        digest[:16],
        "x * sigmoid(v1 * x) / std[w,h,c/g](x) + v0" if i % 3 == 0 else None,
        "scored" if i % 2 else "rejected",
        "train" if i % 2 else "quality",
        None if i % 2 else "quality: 0.11 after 100 steps, 0.20 needed",
        (i % 97 / 97, i % 89 / 89, i % 83 / 83),
        0.25,
        pack({"stage": "quality", "steps": 100, "accuracy": i % 71 / 71, "bar": 0.2, "seconds": 0.31}),
    )


def write_log(folder: Path, rows: list[Event]) -> None:
    """The event log as a search uses it."""
    with EventLog.create(folder, "benchmark", METADATA) as log:
        append = log.append
        for row in rows:
            append(row)


def write_plain(folder: Path, rows: list[Event]) -> None:
    """The yardstick: the same columns, one Arrow stream, fsync per group, nothing else."""
    import pyarrow as pa

    schema = event_schema()
    names = [f.name for f in schema]
    with open(folder / "plain.arrows", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, len(rows), GROUP):
            columns = dict(zip(Event._fields, zip(*rows[at : at + GROUP], strict=True), strict=True))
            arrays = [pa.array(columns[name], schema.field(name).type) for name in names]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            file.flush()
            os.fsync(file.fileno())


def write_bytes(folder: Path, rows: list[Event]) -> None:
    """What the disk allows at all: as many bytes in as many groups, each with its fsync."""
    block = os.urandom(314 * GROUP)
    with open(folder / "bytes.arrows", "wb", buffering=0) as file:
        for _ in range(0, len(rows), GROUP):
            file.write(block)
            os.fsync(file.fileno())


def read_log(folder: Path, rows: list[Event]) -> None:
    """Checking a whole log, as every resume does."""
    assert scan_log(folder).next_seq == len(rows)


CASES: dict[str, Callable[[Path, list[Event]], None]] = {
    "event_log": write_log,
    "plain_arrow": write_plain,
    "bare_fsync": write_bytes,
    "scan": read_log,
}


def measure(case: str, count: int, where: Path | None) -> dict[str, float]:
    """Rates of one case; wall-clock and CPU time of this process."""
    rows = [make_row(i) for i in range(count)]
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        (write_log if case == "scan" else CASES[case])(folder, rows[: 2 * GROUP])  # loads what is needed
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if case == "scan":
            write_log(folder, rows)
        wall, cpu = time.perf_counter(), time.process_time()
        CASES[case](folder, rows)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in folder.rglob("*.arrows"))
    return {"rows_per_s": count / wall, "rows_per_cpu_s": count / cpu, "bytes_per_row": size / count}


def in_own_process(case: str, count: int, where: Path | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--rows", str(count)]
    command += ["--dir", str(where)] if where else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 10,000 rows")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--dir", type=Path, help="folder for the files: the disk that is measured")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.rows, options.dir)))
        return 0
    count, rounds = (10_000, 1) if options.quick else (options.rows, options.rounds)
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, results in runs.items():
            results.append(in_own_process(case, count, options.dir))
    middle = {
        case: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for case, results in runs.items()
    }
    log, plain = middle["event_log"], middle["plain_arrow"]
    checks = {
        "rows_per_s": log["rows_per_s"] >= MINIMUM_ROWS_PER_S,
        "bytes_per_row": log["bytes_per_row"] <= MAXIMUM_BYTES_PER_ROW,
        "half_the_yardstick": log["rows_per_cpu_s"] >= 0.5 * plain["rows_per_cpu_s"],
    }
    ratio = log["rows_per_cpu_s"] / plain["rows_per_cpu_s"]
    report = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "rows": count,
        "rounds": rounds,
        "cases": middle,
        "cpu_ratio_to_plain_arrow": ratio,
        "wall_ratio_to_plain_arrow": log["rows_per_s"] / plain["rows_per_s"],
        "checks": checks,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{'case':<12}{'rows/s':>12}{'rows/CPU s':>12}{'bytes/row':>12}   (median of {rounds})")
        for case, r in middle.items():
            print(
                f"{case:<12}{r['rows_per_s']:>12,.0f}{r['rows_per_cpu_s']:>12,.0f}{r['bytes_per_row']:>12.0f}"
            )
        wall = report["wall_ratio_to_plain_arrow"]
        print(f"event_log / plain_arrow: {ratio:.2f} in CPU time, {wall:.2f} in wall time")
        print(
            f"the disk alone, with an fsync per group, takes {middle['bare_fsync']['rows_per_s']:,.0f} rows/s"
        )
        print("  ".join(f"{name}: {'ok' if good else 'MISSED'}" for name, good in checks.items()))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
