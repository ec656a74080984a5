"""Numbers of the language models: the committed run, and the known layers that thresholds were set by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _page_numbers import block, committed_run, funnel_of, results, spread, table

#: A slope up to which a change of activations counts as one that does not depend on the width.
FLAT = 0.15


def _spread(mean: float | None, std: float | None, sign: str = "") -> str:
    if mean is None:
        return "none"
    return f"{mean:{sign}.3f}" + ("" if std is None else f" ± {std:.3f}")


def _bits(mean: float | None, std: float | None) -> str:
    """A score as bits per byte."""
    return _spread(None if mean is None else 8 * (1 - mean), None if std is None else 8 * std)


def _score(run: Any, proxy: str, mean: float | None, std: float | None) -> str:
    """A score in the unit that is usual for the proxy: accuracy in %, or bits per byte."""
    from evonas import proxies

    return _bits(mean, std) if proxies.get(proxy).kind == "text" else spread((mean, std))


def _ranking(run: Any, mean: str, of: Callable[[Any], tuple[str, str]]) -> str:
    """The final ranking of a run. mean: what the column of means is called; of: a row's mean and its difference from
    the best baseline, as text."""
    rows = run.ranking()
    best = next((r["versus"]["name"] for r in rows if r["versus"]), "the best baseline")
    cells = []
    for row in rows:
        whole, difference = of(row)
        name = f"`{row['name']}`" if "[" in row["name"] else row["name"]  # a formula may look like a link
        scores = [_score(run, p, *row["per_proxy"][p]) for p in run.proxies]
        cells.append([name, row["arm"], f"`{row['formula']}`", whole, *scores, str(row["n"]), difference])
    return table(["layer", "arm", "formula", mean, *run.proxies, "n", f"against {best}"], cells)


@block
def language_ranking(root: Path) -> str | None:
    """The final ranking of the committed run: bits per byte of held-out text over fresh seeds."""
    run = committed_run(root, "language")
    if run is None or not run.ranking():
        return None

    def of(row: Any) -> tuple[str, str]:
        mean, versus = _bits(row["mean"], row["std"]), row["versus"]
        if versus is None:
            return mean, ""
        return mean, _spread(-8 * versus["mean"], None if versus["std"] is None else 8 * versus["std"], "+")

    sessions = _sessions(run)
    several = "s" if len(sessions) > 1 else ""
    return (
        _ranking(run, "mean", of)
        + "\nBits per byte, lower is better; mean ± standard deviation over n fresh seeds. The run took "
        f"{sum(sessions) / 60:.1f} minutes in {len(sessions)} session{several} with two slots.\n"
    )


def _sessions(run: Any) -> list[float]:
    """Seconds from the first to the last event of each session."""
    times: list[list[int]] = []
    for event in run.events():
        if event.kind in ("run_started", "resumed"):
            times.append([])
        times[-1].append(event.ts)
    return [(one[-1] - one[0]) / 1e6 for one in times]


@block
def language_front(root: Path) -> str | None:
    """The layers of the committed run that no other beats on both models, and the random ones', on validation text."""
    run = committed_run(root, "language")
    if run is None:
        return None
    rows = [(arm, row) for arm in ("search", "control") for row in run.front(arm)]
    cells = [
        [
            str(row["candidate"]),
            arm,
            f"`{row['formula']}`",
            *(_bits(row["scores"][p], None) for p in run.proxies),
        ]
        for arm, row in rows
    ]
    return table(["layer", "arm", "formula", *run.proxies], cells)


@block
def language_sweep(root: Path) -> str | None:
    """Chosen factors on the learning rate, what the worst factor loses, and scores by size of the data."""
    run = committed_run(root, "language")
    if run is None or not (rows := run.ranking()):
        return None
    shares = list(dict.fromkeys(share for row in rows for share in row.get("data_shares", {})))
    cells = []
    for row in rows:
        swept = [_swept(row, p) for p in run.proxies]
        parts = [row.get("data_shares", {}).get(share, {}) for share in shares]
        small = [_bits(part.get("mean"), part.get("std")) for part in parts]
        cells.append([row["name"], *swept, *small, _bits(row["mean"], row["std"])])
    head = [
        "layer",
        *(f"rate, {p}" for p in run.proxies),
        *(f"at {float(s):g} of the data" for s in shares),
        "at all",
    ]
    return (
        table(head, cells)
        + "\nIn brackets: bits per byte between the best and the worst factor of the sweep, on validation text.\n"
    )


def _swept(row: Mapping[str, Any], proxy: str) -> str:
    factor = (row.get("lr") or {}).get(proxy)
    lost = (row.get("sensitivity") or {}).get(proxy)
    if factor is None:
        return "not swept"
    return f"x {factor:g}" + (" (all diverged)" if lost is None else f" ({8 * lost:.3f})")


@block
def language_funnel(root: Path) -> str | None:
    """What became of the candidates of the committed run."""
    return funnel_of(committed_run(root, "language"))


@block
def worlds_front(root: Path) -> str | None:
    """The layers of the committed run over both worlds that no other beats on all networks, on validation data."""
    run = committed_run(root, "worlds")
    if run is None:
        return None
    cells = [
        [
            str(row["candidate"]),
            f"`{row['formula']}`",
            *(_score(run, p, row["scores"][p], None) for p in run.proxies),
        ]
        for row in run.front()
    ]
    return table(["layer", "formula", *run.proxies], cells)


@block
def worlds_ranking(root: Path) -> str | None:
    """The final ranking of the committed run over both worlds."""
    run = committed_run(root, "worlds")
    if run is None or not run.ranking():
        return None

    def of(row: Any) -> tuple[str, str]:
        versus = row["versus"]
        difference = "" if versus is None else _spread(versus["mean"], versus["std"], "+")
        return _spread(row["mean"], row["std"]), difference

    minutes = sum(_sessions(run)) / 60
    return (
        _ranking(run, "mean score", of)
        + "\nImages: accuracy in %. Text: bits per byte, fewer are better. Means are of scores, accuracies and "
        "1 - bits / 8, over n fresh seeds, ± standard deviation. "
        f"The run took {minutes:.1f} minutes with two slots.\n"
    )


@block
def worlds_funnel(root: Path) -> str | None:
    """What became of the candidates of the committed run over both worlds."""
    return funnel_of(committed_run(root, "worlds"))


@block
def language_layers(root: Path) -> str | None:
    """benchmarks/language_proxies.py: what the stages say of known layers and of none, in the norm slots."""
    report = results(root, "language_proxies")
    if report is None:
        return None
    cells = []
    for row in report["rows"]:
        stages = row["stages"]
        bits = row.get("bits_per_byte")
        cells.append(
            [row["layer"], row["proxy"], _loss(stages.get("hurdle")), _loss(stages.get("quality")),
             "diverged" if bits is None else f"{bits:.3f}", row["status"]]
        )  # fmt: skip
    needs = next(iter(report["proxies"].values()))
    note = (
        f"\nUnigram entropy: {needs['unigram_entropy']:.2f} nats. Losses in nats per byte; the hurdle needs less "
        f"than {needs['hurdle_needs']:.2f}, the quality test less than {needs['quality_needs']:.2f}. "
        "The norms alone were replaced: between them stands the network's own activation, SiLU in the transformer, "
        "none in the transnormer. One seed, at `tiny`.\n"
    )
    return (
        table(["norm", "proxy", "hurdle", "quality test", "bits per byte after training", "verdict"], cells)
        + note
    )


def _loss(stage: Mapping[str, Any] | None) -> str:
    if stage is None or stage.get("loss") is None:
        return "-"
    loss = f"{stage['loss']:.2f}" if stage["loss"] < 100 else "above 100"
    return loss + ("" if stage["passed"] else " (no)")


@block
def soft_layers(root: Path) -> str | None:
    """benchmarks/language_proxies.py --proxies soft: known layers and none in the norm slots of SOFT."""
    report = results(root, "language_proxies_soft")
    if report is None:
        return None
    cells = []
    for row in report["rows"]:
        stages, score = row["stages"], row.get("score")
        quality = stages.get("quality", {}).get("accuracy")
        ended = "diverged" if score is None or row["diverged_at"] is not None else f"{score:.3f}"
        why = "" if row["reason"] is None else f": {row['reason']}"
        cells.append(
            [row["layer"], _loss(stages.get("hurdle")), "-" if quality is None else f"{quality:.3f}", ended,
             row["status"] + why]
        )  # fmt: skip
    needs = report["proxies"]["soft"]
    note = (
        f"\nThe hurdle needs a loss below {needs['hurdle_needs']:.2f} nats, the quality test an accuracy of "
        f"{needs['quality_needs']:.2f}.\n"
    )
    return table(["norm", "hurdle", "quality test", "accuracy after training", "verdict"], cells) + note


@block
def coordinate_slopes(root: Path) -> str | None:
    """benchmarks/coordinate_check.py: slopes of changes of activations against the width."""
    report = results(root, "coordinate_check")
    if report is None:
        return None
    cells = []
    for row in report:
        slopes = sorted(s for s in row["slopes"].values() if s == s)
        widths = ", ".join(f"{w:g}" for w in row["widths"])
        steep = sum(abs(slope) > FLAT for slope in slopes)
        cells.append(
            [f"`{row['proxy']}`", row["parametrization"], widths, f"{slopes[0]:+.2f}", f"{row['median']:+.2f}",
             f"{row['output']:+.2f}", f"{slopes[-1]:+.2f}", f"{steep} of {len(slopes)}"]
        )  # fmt: skip
    head = ["proxy", "parametrization", "widths", "smallest", "median", "of the output", "largest"]
    first = report[0]
    return (
        table([*head, f"modules beyond {FLAT}"], cells)
        + f"\n{first['steps']} steps, {first['seeds']} seeds; modules are those with an output of their own.\n"
    )
