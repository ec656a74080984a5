"""What a re-ranking says, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evonas.run.wording import spread


def verdict(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the best layer found stands against plain ReLU, the best baseline and the control, in words.

    "above" and "below" are said where the difference of the means is larger than its standard deviation: over
    the seeds that both share where the ranking has it (the best baseline), else the two layers' own, combined.
    Everything else is "within the spread". It describes these few trainings, it is not a test.
    """
    ranked = [r for r in ranking if r["mean"] is not None]
    picked = sorted(
        ranked, key=lambda r: not r.get("chosen", False)
    )  # chosen on validation images, if any is
    found = next((r for r in picked if r["arm"] == "search"), None)
    if found is None:
        return []
    lines = [
        f"Best layer found: {found['name']}, {spread(found['mean'], found['std'])} over {found['n']} seeds."
    ]
    baselines = [r for r in ranked if r["arm"] == "baseline"]
    best = next((r for r in picked if r["arm"] == "baseline"), None)
    relu = next((r for r in baselines if r["name"] == "relu"), None)
    control = next((r for r in picked if r["arm"] == "control"), None)
    if relu is not None:
        words = "plain ReLU without norm" + (", which is the best baseline" if relu is best else "")
        lines.append(f"  {_compare(found, relu)} {words}; {_proxies_above(found, relu)}.")
    if best is not None and best is not relu:
        lines.append(f"  {_compare(found, best)} the best baseline, {best['name']}.")
    if control is not None:
        lines.append(f"  {_compare(found, control)} random search (the control), {control['name']}.")
    return lines


def _compare(found: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    difference = found["mean"] - rival["mean"]
    paired = found["versus"]
    if paired and paired["name"] == rival["name"] and paired["n"] == found["n"] and paired["std"] is not None:
        return _placed(difference, paired["std"])
    if found["std"] is None or rival["std"] is None:
        side = "above" if difference > 0 else "below" if difference < 0 else "level with"
        return f"{difference:+.3f}: {side} (one seed, no spread known)"
    return _placed(difference, (found["std"] ** 2 + rival["std"] ** 2) ** 0.5)


def _placed(difference: float, deviation: float) -> str:
    words = "above" if difference > 0 else "below"
    if abs(difference) <= deviation:
        words = "within the spread of"
    return f"{difference:+.3f} ± {deviation:.3f}: {words}"


def _proxies_above(found: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    pairs = [(found["per_proxy"][p][0], rival["per_proxy"][p][0]) for p in found["per_proxy"]]
    above = sum(a is not None and b is not None and a > b for a, b in pairs)
    if above == len(pairs):
        return f"better on every proxy ({above} of {above})"
    return f"better on {above} of {len(pairs)} proxies"
