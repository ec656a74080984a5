"""Every measured number that README.md and the documentation quote, from the files that hold the measurements.

    python scripts/readme_numbers.py           # print each block
    python scripts/readme_numbers.py --write   # put the blocks into the pages
    python scripts/readme_numbers.py --check   # exit 1 if a page says anything else

A page marks the place of a block with two comment lines; what stands between them belongs to this script:

    <!-- numbers: ranking -->
    <!-- /numbers -->

The sources are benchmarks/results/*.json (`make bench`, scripts/time_first_steps.py) and the run in runs/golden. A
block whose source does not exist is empty.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also when the tests load this file by its path

import _kernel_numbers  # noqa: F401  (registers its blocks)
import _language_numbers  # noqa: F401  (registers its blocks)
from _page_numbers import BLOCKS, ROOT, block, committed_run, funnel_of, results, spread, table

PAGES = ("README.md", "benchmarks/README.md", "docs/*.md")
_BLOCK = re.compile(r"(<!-- numbers: (\w+) -->\n)(.*?)(<!-- /numbers -->)", re.S)


@block
def ranking(root: Path) -> str | None:
    """The final ranking of the golden run: held-out accuracy in percent over fresh seeds."""
    run = committed_run(root)
    if run is None or not (rows := run.ranking()):
        return None
    cells = []
    for row in rows:
        versus = row["versus"]
        cells.append(
            [row["name"], row["arm"], f"`{row['formula']}`", spread((row["mean"], row["std"])),
             *(spread(row["per_proxy"][p]) for p in run.proxies), str(row["n"]),
             "" if versus is None else spread((versus["mean"], versus["std"]), "+")]
        )  # fmt: skip
    best = next((r["versus"]["name"] for r in rows if r["versus"]), "the best baseline")
    return table(["layer", "arm", "formula", "mean", *run.proxies, "n", f"against {best}"], cells)


@block
def funnel(root: Path) -> str | None:
    """What became of the candidates of the golden run."""
    return funnel_of(committed_run(root))


@block
def search_loop(root: Path) -> str | None:
    """benchmarks/search_loop.py: rates."""
    report = results(root, "search_loop")
    if report is None:
        return None
    rows = []
    for name, case in report["cases"].items():
        low, high = case["range"]
        rows.append(
            [f"`{name}`", f"{case['candidates']:,}", f"{case['rate']:,.0f}", f"{low:,.0f} to {high:,.0f}"]
        )
    head = f"{report['machine']}, load {report['load']:.1f}.\n\n"
    return head + table(["case", "candidates", "per CPU second", "range"], rows)


@block
def search_loop_targets(root: Path) -> str | None:
    """benchmarks/search_loop.py: ratios to the yardsticks measured in the same run."""
    report = results(root, "search_loop")
    if report is None:
        return None
    rows = [
        [t["what"], f"{t['value']:,.2f}", f"{'at most' if t['at_most'] else 'at least'} {t['bound']:,g}",
         "yes" if t["met"] else "no"]
        for t in report["targets"]
    ]  # fmt: skip
    return table(["what", "measured", "wanted", "met"], rows)


@block
def log(root: Path) -> str | None:
    """benchmarks/log.py."""
    report = results(root, "log")
    if report is None:
        return None
    rows = [
        [f"`{name}`", f"{c['rows_per_s']:,.0f}", f"{c['rows_per_cpu_s']:,.0f}", f"{c['bytes_per_row']:.0f}"]
        for name, c in report["cases"].items()
    ]
    head = f"{report['rows']:,} rows, median of {report['rounds']}, {report['machine']['cpus']} cores.\n\n"
    return head + table(["case", "rows/s", "rows per CPU second", "bytes/row"], rows)


@block
def workers(root: Path) -> str | None:
    """benchmarks/workers.py."""
    report = results(root, "workers")
    if report is None:
        return None
    slots, rates = report["slots"], report["rates"]
    rows = []
    for name in ("ray", "local"):
        start, driver = report[f"start_{name}"], report[f"driver_{name}"]
        rows.append(
            [name, f"{start['ready_s']:.1f} s", f"{start['tree_pss_mib'] / 1024:.2f} GiB", f"{rates[name]:,.0f}",
             f"{rates[f'{name}_batch64']:,.0f}", f"{100 * driver['cpu_share']:.1f} %"]
        )  # fmt: skip
    head = f"{slots} slots on {report['cores']} cores, load {report['load_before']:.1f}.\n\n"
    columns = [
        "backend",
        "ready",
        "memory",
        "calls/s",
        "calls/s in batches of 64",
        "driver at 0.1 s per call",
    ]
    return head + table(columns, rows)


@block
def worker_targets(root: Path) -> str | None:
    """benchmarks/workers.py against its targets."""
    report = results(root, "workers")
    if report is None:
        return None
    rates, n = report["rates"], report["slots"]
    rows = []
    for what, value, bound, most in (
        (f"{n} slots ready through Ray, s", report["start_ray"]["ready_s"], 15, True),
        ("memory of the whole tree, GiB", report["start_ray"]["tree_pss_mib"] / 1024, 4, True),
        ("Ray backend to raw Ray, one candidate per message", rates["ray_to_raw_ray"], 0.7, False),
        ("the same by processor time", rates["cpu_ray_to_raw_ray"], 0.7, False),
        ("Ray backend to raw Ray, batches of 64", rates["ray_batch64_to_raw_ray_batch64"], 0.5, False),
        ("local backend to raw Ray", rates["local_to_raw_ray"], 8, False),
        ("driver with Ray, % of a processor at 0.1 s", 100 * report["driver_ray"]["cpu_share"], 5, True),
        (
            "driver with local slots, % of a processor at 0.1 s",
            100 * report["driver_local"]["cpu_share"],
            5,
            True,
        ),
    ):
        met = value <= bound if most else value >= bound
        rows.append([what, f"{value:.2f}", f"{'<=' if most else '>='} {bound}", "yes" if met else "no"])
    return table(["target", "measured", "bound", "met"], rows)


@block
def many_workers(root: Path) -> str | None:
    """benchmarks/many_workers.py."""
    report = results(root, "many_workers")
    if report is None:
        return None
    rows = [
        ["workers, on processors", f"{report['workers']} on {report['cpus']}"],
        ["peak memory of all processes", f"{report['peak_pss_gib']:.2f} GiB"],
        ["processes", f"{report['processes']}"],
        ["first answer after", f"{report['first_answer_s']:.0f} s"],
        ["evaluations", f"{report['evaluations']} in {report['seconds']:.0f} s"],
        ["evaluations per minute", f"{report['evaluations_per_minute']:.1f}"],
        ["exit code", f"{report['exit_code']}"],
    ]
    return table(["", "measured"], rows)


@block
def first_steps(root: Path) -> str | None:
    """scripts/time_first_steps.py: from a clone to a found layer in a timm model."""
    report = results(root, "first_steps")
    if report is None:
        return None
    rows = []
    for step in report["steps"]:
        more = (
            f", of which {step['set_up_seconds'] / 60:.1f} for setting up" if "set_up_seconds" in step else ""
        )
        seconds = step["seconds"]
        time = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
        rows.append([f"`{step['command']}`", time + more])
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    head = f"{report['seconds'] / 60:.1f} minutes on {machine['cores']} cores, load {machine['load']:.1f}; {versions}"
    if report["torchvision"] != "imported as installed":
        head += f"; torchvision: {report['torchvision']}"
    return f"{head}.\n\n" + table(["command", "time"], rows)


def fill(text: str, blocks: dict[str, str], page: str = "the page") -> str:
    """The page with every marked place filled; ``SystemExit`` for a name that no block has."""

    def put(found: re.Match[str]) -> str:
        name = found[2]
        if name not in blocks:
            raise SystemExit(f"error: {page} asks for numbers {name!r}; there are {', '.join(blocks)}")
        return found[1] + blocks[name] + found[4]

    return _BLOCK.sub(put, text)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="put the blocks into the pages")
    mode.add_argument("--check", action="store_true", help="exit 1 if a page differs")
    given = parser.parse_args(argv)
    made = {name: make(root) for name, make in BLOCKS.items()}
    blocks = {name: text or "" for name, text in made.items()}
    if not (given.write or given.check):
        for name, text in blocks.items():
            print(f"{name}\n\n{text or 'not measured'}")
        return 0
    stale = []
    for page in (p for pattern in PAGES for p in sorted(root.glob(pattern))):
        old = page.read_text(encoding="utf-8")
        new = fill(old, blocks, page.name)
        if new != old:
            stale.append(page.relative_to(root))
            if given.write:
                page.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'written' if given.write else 'differs from the measurements'}", file=sys.stderr)
    if stale and given.check:
        print("  -> make numbers", file=sys.stderr)
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
