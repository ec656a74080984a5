"""Time the README's way from a clone to a found layer inside a timm model, command by command.

    python scripts/time_first_steps.py                     # a clone, a new .venv, about 15 minutes; records the times
    python scripts/time_first_steps.py --search-args "--max-time 2m --set rerank.seeds=1"   # shorter, records nothing

The commands are those of the README, read from it, with this repository in place of its address. They run in a new
folder with a new virtual environment, so that packages are downloaded or taken from pip's cache as pip is configured.
Times go to benchmarks/results/first_steps.json, and `make numbers` puts them into the README.

Standard library alone: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "first_steps.json"
_HEADING = "From a clone to a layer that was found inside a timm model"
#: Declares the operators that a torchvision built for CUDA misses beside a torch for the CPU.
_OPERATORS = "tests/docs/torchvision_operators"


def commands(readme: str) -> list[str]:
    """The five commands, without prompts and comments."""
    found = re.search(re.escape(_HEADING) + r".*?```console\n(.*?)```", readme, re.S)
    if found is None:
        raise SystemExit(f"error: README.md has no console block behind {_HEADING!r}")
    lines = [line[2:].split(" #")[0].strip() for line in found[1].splitlines() if line.startswith("$ ")]
    if not lines or not lines[0].startswith("git clone "):
        raise SystemExit("error: the block does not begin with git clone")
    return lines


def run(command: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One command in a shell; seconds of the clock and of the processors, and how it ended."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ran = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    tail = ran.stdout.strip().splitlines()[-12:]
    if ran.returncode:
        print("\n".join(tail), file=sys.stderr)
        raise SystemExit(f"error: {command!r} ended with {ran.returncode}")
    print(f"  {seconds:.1f} s, the processors {cpu:.1f} s", file=sys.stderr, flush=True)
    return {"command": command, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "said": tail[-1:]}


def lacks_operators(clone: Path, environment: dict[str, str]) -> bool:
    """Whether torchvision is of another build than torch, so that nobody can import it."""
    ran = subprocess.run(
        [".venv/bin/python", "-c", "import torchvision"], cwd=clone, env=environment, text=True, capture_output=True
    )  # fmt: skip
    return ran.returncode != 0 and "operator torchvision::" in ran.stderr


def measure(folder: Path, search_args: str, pip_args: str) -> dict[str, Any]:
    """Run all commands below a folder."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and k[:7] != "EVONAS_"
    }
    environment |= {"ARGS": search_args} if search_args else {}
    environment |= {"PIP_ARGS": pip_args} if pip_args else {}
    typed = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    report: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "pip_args": pip_args, "search_args": search_args, "steps": [], "torchvision": "imported as installed",
    }  # fmt: skip
    clone = folder / "evonas"
    for number, command in enumerate(typed):
        if number == 0:
            command = re.sub(r"git clone \S+", f"git clone --quiet {shlex.quote(str(ROOT))} evonas", command)
            done = run(command, folder, environment)
        elif "swap_timm" in command and lacks_operators(clone, environment):
            report["torchvision"] = (
                f"not of torch's build here; `{_OPERATORS}` was on PYTHONPATH for the last command"
            )
            done = run(command, clone, {**environment, "PYTHONPATH": str(clone / _OPERATORS)})
        else:
            started = time.time()
            done = run(command, clone, environment)
            if command.startswith("make "):
                done["set_up_seconds"] = round(
                    (clone / ".venv" / ".evonas-installed").stat().st_mtime - started, 2
                )
        report["steps"].append({**done, "command": typed[number]})
    report["seconds"] = round(sum(step["seconds"] for step in report["steps"]), 2)
    versions = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({n: m.version(n) for n in ('torch', 'torchvision', 'timm')}))"
    )
    ran = subprocess.run(
        [".venv/bin/python", "-c", versions], cwd=clone, env=environment, text=True, capture_output=True, check=True
    )  # fmt: skip
    report["versions"] = json.loads(ran.stdout)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--search-args", default="", help="further options of the search; nothing is recorded then"
    )
    parser.add_argument(
        "--pip-args", default="", help="further options of pip, such as an index with CPU builds"
    )
    parser.add_argument("--folder", type=Path, help="a new folder to work in; by default a temporary one")
    given = parser.parse_args()
    if given.folder is None:
        with tempfile.TemporaryDirectory(prefix="evonas-first-steps-") as folder:
            report = measure(Path(folder), given.search_args, given.pip_args)
    else:
        given.folder.mkdir(parents=True)
        report = measure(given.folder, given.search_args, given.pip_args)
    text = json.dumps(report, indent=2) + "\n"
    if given.search_args:
        print("not recorded: the search was not that of the README", file=sys.stderr)
    else:
        RESULT.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
