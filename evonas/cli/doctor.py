"""`doctor`: prints what ``evonas.cli.checks`` finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evonas.cli.checks import Finding, examine
from evonas.cli.main import OK, UNUSABLE
from evonas.cli.output import console, document


def doctor(out: str, *, start_ray: bool, plugins: Sequence[str], json: bool) -> int:
    """Print one line per check, ok, warn or fail; exit code 4 if one fails."""
    screen = console()
    findings: list[Finding] = []
    for finding in examine(out, start_ray=start_ray, plugins=plugins):
        findings.append(finding)
        if not json:
            style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[finding.level]
            screen.print(f"{finding.level:<5}", style=style, end="")
            print(f"{finding.name:<12} {finding.found}", flush=True)
            if finding.fix:
                print(f"{'':<5}{'':<12} -> {finding.fix}", flush=True)
    levels = Counter(f.level for f in findings)
    if json:
        counts = {level: levels[level] for level in ("ok", "warn", "fail")}
        document("doctor", {**counts, "checks": [f.to_dict() for f in findings]})
    else:
        print(f"\n{levels['ok']} ok, {levels['warn']} warn, {levels['fail']} fail")
    return UNUSABLE if levels["fail"] else OK
