"""Runs the blocks of one page in order, in a folder of its own: ``python document_runner.py PAGE``.

Python blocks share one namespace, console blocks run in bash. ``evonas search``, ``evonas.search`` and
their likes are the real ones with a tiny budget: the page says what a reader would type, the settings below make it
take a second or two.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: One proxy-step or two per training instead of a hundred; every stage of the run still runs.
TINY: dict[str, Any] = {
    "search.candidates": 1,
    "search.seed": 1,  # one whose first candidate trains
    "search.baselines": ["relu"],
    "search.control": "none",
    "evaluation.proxies": ["resnet"],
    "evaluation.quality": False,
    "evaluation.stability": False,
    "evaluation.changes": {"steps": 2, "batch": 8, "lr": 0.001},
    "rerank.seeds": 1,
    "rerank.top": 1,
}
#: The same for commands: what they do not say themselves, and what ends their arguments.
TINY_ENVIRONMENT = {
    "EVONAS_SEARCH_BASELINES": "relu",
    "EVONAS_SEARCH_CONTROL": "none",
    "EVONAS_EVALUATION_PROXIES": "resnet",
    "EVONAS_EVALUATION_QUALITY": "false",
    "EVONAS_EVALUATION_STABILITY": "false",
    "EVONAS_EVALUATION_CHANGES": "{steps = 2, batch = 8, lr = 0.001}",
    "EVONAS_RERANK_SEEDS": "1",
    "EVONAS_RERANK_TOP": "1",
}
TINY_FLAGS = "--candidates 1 --seed 1"
_FENCE = re.compile(
    r"(?:<!-- docs: (?P<mark>[^>]*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``mark``: what the comment before it says, "" if there is none."""

    language: str
    text: str
    mark: str
    line: int


def blocks(page: str) -> list[Block]:
    """Every fenced block of a Markdown text."""
    return [
        Block(m["language"], m["text"], m["mark"] or "", page[: m.start("text")].count("\n"))
        for m in _FENCE.finditer(page)
    ]


def commands(text: str) -> list[tuple[str, str]]:
    """Of a console block: each command after "$ ", with the output that the page shows under it."""
    found: list[tuple[str, str]] = []
    parts = re.split(r"^\$ ", text, flags=re.M)
    for part in parts[1:]:
        lines = part.splitlines(keepends=True)
        length = 1
        while lines[length - 1].rstrip("\n").endswith("\\") and length < len(lines):
            length += 1
        found.append(("".join(lines[:length]), "".join(lines[length:])))
    return found


def shell(command: str) -> str:
    """stdout of a command; ``SystemExit`` with everything that it said if it fails."""
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"$ {command}exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def shrink() -> None:
    """Make ``evonas.search`` and ``evonas.compare`` small."""
    from evonas.comparing import api as comparing
    from evonas.run import api

    real = api.search

    def search(space: str = "norm_act", **given: Any) -> Any:
        settings = {**given.pop("settings", {}), **TINY}
        given.pop("candidates", None)
        return real(space, settings=settings, **given)

    api.search = search  # type: ignore[assignment]
    whole = comparing.compare

    def compare(*layers: Any, **given: Any) -> Any:
        settings = {**given.pop("settings", {}), "evaluation.changes": TINY["evaluation.changes"]}
        return whole(*layers, settings=settings, **{**given, "seeds": 2, "lr_factors": [], "workers": 1})

    comparing.compare = compare  # type: ignore[assignment]


def run(name: str, page: str) -> None:
    """Every block of the page that is not marked to be left out."""
    names: dict[str, Any] = {"__name__": "__page__"}
    same = doctest.OutputChecker().check_output
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for block in blocks(page):
        if block.mark.startswith("skip"):
            continue
        if block.language == "python":
            code = compile("\n" * block.line + block.text, name, "exec")
            exec(code, names)
        elif block.language in ("bash", "sh"):
            shell(block.text)
        elif block.language == "console":
            for command, shown in commands(block.text):
                got = shell(command)
                if shown.strip() and not same(shown, got, options):
                    raise SystemExit(f"{name}:{block.line}: $ {command}shows\n{shown}\nbut printed\n{got}")


if __name__ == "__main__":
    shrink()
    run(sys.argv[1], Path(sys.argv[1]).read_text(encoding="utf-8"))
