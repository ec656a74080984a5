"""``card.md``: the model card, in the layout of Hugging Face. What is not known is said to be not measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evonas import primitives
from evonas.export.layer_text import Source
from evonas.export.numerics import Numerics
from evonas.export.origin import Origin, more_of
from evonas.layers.layer import Layer
from evonas.run.units import Units

NOT_MEASURED = "Not measured."
#: Whether scores are of text -> task and metric as Hugging Face names them, and the metric in words.
_METRICS = {
    False: ("image-classification", "accuracy", "accuracy"),
    True: ("text-generation", "bits_per_byte", "bits per byte"),
}


@dataclass
class CardFacts:
    """What the card tells beside the origin. formats: name -> how it was checked. kernels: why there are none."""

    source: Source
    numerics: Numerics
    latency: dict[str, Any]
    version: str
    licence: str
    eps: float
    groups: int
    kernels: str | None
    formats: dict[str, str] = field(default_factory=dict)
    test_name: str = "test_layer.py"


def card(origin: Origin, facts: CardFacts) -> str:
    """The text of the card."""
    sections = [
        _head(origin, facts),
        f"# {origin.layer.name}",
        _formula(origin, facts),
        ("## Use", _use(facts)),
        *([("## State", state)] if (state := _state(origin, facts)) else []),
        ("## What it replaces, and where not to use it", _limits(origin, facts)),
        ("## How it was found", _found(origin)),
        ("## Scores", _scores(origin)),
        ("## Hyper-parameters and sensitivity", _sensitivity(origin, facts.version)),
        ("## Numerical behaviour", _numerics(facts)),
        ("## Latency", _latency(origin, facts)),
        ("## Reproduce", _reproduce(origin)),
        ("## Licence and citation", _licence(origin, facts)),
    ]
    return "\n\n".join(s if isinstance(s, str) else f"{s[0]}\n\n{s[1]}" for s in sections).rstrip("\n") + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def _head(origin: Origin, facts: CardFacts) -> str:
    run = origin.facts
    lines = ["---", f"license: {facts.licence.lower()}", "library_name: pytorch", "tags:"]
    tags = ["evonas", "normalization", "activation"]
    lines += [f"- {t}" for t in tags]
    if run.get("data"):
        lines += ["datasets:", f"- {run['data']}"]
    if origin.row:
        lines += _results(origin, origin.row)
    return "\n".join([*lines, "---"])


def _results(origin: Origin, row: dict[str, Any]) -> list[str]:
    """The scores of the final table in the head of the card, of the networks that have some."""
    data = origin.facts.get("data")
    units = Units(row["per_proxy"])
    known = {p: (mean, std) for p, (mean, std) in row["per_proxy"].items() if mean is not None}
    if not known:
        return []
    metrics = sorted({_METRICS[units.lower_is_better(p)][1] for p in known})
    lines = ["metrics:", *[f"- {m}" for m in metrics], "model-index:",
             f"- name: {json.dumps(origin.layer.name)}", "  results:"]  # fmt: skip
    of = " of the assembly" if origin.whole else ""
    for proxy, (mean, std) in known.items():
        task, metric, words = _METRICS[units.lower_is_better(proxy)]
        shown, spread = units.number(proxy, mean), units.width(proxy, std)
        lines += ["  - task:", f"      type: {task}", "    dataset:",
                  f"      name: {data or 'the default data of the run'}", f"      type: {data or 'evonas'}",
                  "    metrics:", f"    - type: {metric}", f"      value: {shown:.4f}",
                  f"      name: held-out {words}{of} on {proxy}, standard deviation {_number(spread)}"]  # fmt: skip
    return lines


def _formula(origin: Origin, facts: CardFacts) -> str:
    layer = origin.layer
    stateful = isinstance(layer, Layer) and layer.stateful
    return (
        ("What it does to one batch in its warm-up; the rest is under State.\n\n" if stateful else "")
        + f"    {origin.layer.formula}\n\n$$ {origin.layer.latex} $$\n\n![The graph of the layer](graph.svg)\n\n"
        f"{origin.words} A per-channel weight and bias follow the formula. Digest of the formula: "
        f"`{origin.layer.digest}`."
    )


def _use(facts: CardFacts) -> str:
    name = facts.source.name
    words = [f"- `{n}`: {_where(layout, facts)}" for n, layout in facts.source.classes.items()]
    kernels = (
        "Where triton and a GPU are there, contiguous tensors run on the generated kernels in `kernel.py`, everything "
        "else on the eager form."
        if facts.kernels is None
        else f"There are no kernels in this bundle: {facts.kernels}."
    )
    formats = "".join(f"\n- `{n}`: {how}" for n, how in facts.formats.items())
    return (
        f"```python\nfrom layer import {name}\n\nlayer = {name}(64)\n```\n\n" + "\n".join(words)
        + "\n- `norm_act`: the same for timm, `timm.create_model(..., norm_layer=norm_act)`\n\n"
        + f"`layer.py` needs torch alone. {kernels} `python {facts.test_name}` compares the layer with recorded "
        + "numbers."
        + (f"\n\nIn other formats, in evaluation:\n{formats}" if formats else "")
    )  # fmt: skip


def _state(origin: Origin, facts: CardFacts) -> str:
    layer = origin.layer
    assert isinstance(layer, Layer)
    contract = layer.contract
    if contract is None:
        return ""
    names = {s.key: s.name for s in facts.source.program.statistics}
    rows = []
    for heading, words in contract.lines():
        for key, name in names.items():
            words = re.sub(rf"{re.escape(key)}( \([^)]*\))?", name, words)
        rows.append((heading, words))
    text = table(("what", "how"), rows)
    if facts.source.folds:
        text += (
            "\n\nFor inference, `fold(layer, linear)` in `layer.py` gives a linear map or convolution that computes "
            'what map and layer compute one after the other; `position="before"` is for a layer in front of the map.'
        )
    return text


def _where(layout: str, facts: CardFacts) -> str:
    if facts.source.form.name == "last" and layout == "btc":
        return "tensors whose last axis are the channels, in place of `nn.LayerNorm(channels)`"
    return "(batch, channels, height, width)" if layout == "nchw" else "(batch, tokens, channels)"


def _limits(origin: Origin, facts: CardFacts) -> str:
    layer = origin.layer
    assert isinstance(layer, Layer)
    properties = layer.properties()
    axes = {a for index in layer.graph.index_sets for a in index}
    normalizes = bool(layer.graph.index_sets)
    lines = [
        "It stands in the place of a normalization and the activation behind it (norm, then activation)."
        if normalizes
        else "It stands in the place of a normalization and an activation, and normalizes nothing itself.",
        "It is not for places that have a normalization without an activation: keep what is there, or use "
        "`apply_act=False`, which is weight and bias alone.",
    ]
    if "b" in axes:
        lines += [
            "Statistics over the batch: results depend on the other samples in training, running averages are used in "
            "evaluation. Not for batches of one or two, nor for weights that are shared over time."
        ]
    ahead = {
        a for op, _, index in layer.graph.nodes if index and not primitives.get(op).causal for a in index
    }
    if "t" in ahead:
        lines += ["Statistics over tokens look ahead: not for causal language models."]
    if axes & {"w", "h"}:
        lines += ["It is defined for images; there is no form for tokens, whose statistics would look ahead."]
    if axes & {"w", "h"} and properties.varies_over_space:
        lines += ["On feature maps of 1 x 1 the statistics over space are those of a single value."]
    if not properties.finite:
        lines += ["Its value is not finite for large inputs (|x| up to 1e4)."]
    if not normalizes:
        lines += ["Without statistics, deep networks without other normalization may not train."]
    return "\n".join(f"- {line}" for line in lines)


def _found(origin: Origin) -> str:
    run = origin.facts
    if not run:
        return origin.words if origin.published else "Not by a search that is recorded here."
    verdict = {
        "scored": "scored on every network",
        "rejected": f"turned away by the stage {run['rejected_by']}: {run['reason']}",
    }.get(run["outcome"], f"not finished ({run['outcome']})")
    rows = [
        ("run", f"`{run['run']}` ({run['run_status']}), {run['created']}"),
        ("candidate", f"{run['candidate']} of the arm {run['arm']}, by {run['born_by']}"),
        ("verdict", verdict),
        ("on the front of its arm", "yes" if run["on_front"] else "no"),
        ("space", f"{run['space']}, identity `{run['space_identity']}`"),
        ("strategy, seed", f"{run['strategy']}, {run['seed']}"),
        ("candidates", f"{run['proposed']:,} proposed in this arm, {run['trained']:,} of them trained"),
        ("networks", f"{', '.join(run['proxies'])} at scale {run['scale']}"),
        ("data", run["data"] or "the default data of the networks"),
        ("budget of the search", _budget(run["budget"])),
        ("budget of the final trainings", f"{run['budget']['final_times_steps']:g} times the steps of the search, "
         f"{run['budget']['final_seeds']} fresh seeds"),
    ]  # fmt: skip
    text = table(("what", "value"), rows)
    if origin.ancestors:
        chain: list[tuple[Any, ...]] = []
        for a in origin.ancestors:
            same = bool(chain) and chain[-1][3] == f"`{a['formula']}`"
            if same:  # a mutation of what is not in use: the oldest one of the same formula was trained
                chain.pop()
            chain.append((a["candidate"], a["origin"], _number(a["mean"]), f"`{a['formula']}`"))
        text += "\n\nAncestors, nearest first, each formula once:\n\n" + table(
            ("candidate", "by", "mean", "formula"), chain[:8]
        )
    return text


def _budget(budget: dict[str, Any]) -> str:
    words = f"{budget['candidates']:,} evaluated candidates in each arm"
    return f"{words}, {budget['max_time_s']:g} s" if budget["max_time_s"] else words


def _scores(origin: Origin) -> str:
    run = origin.facts
    if not run:
        return NOT_MEASURED
    scores = {p: s for p, s in run["scores"].items() if s is not None}
    units = Units(run["proxies"])
    parts = []
    if origin.whole:
        parts.append(f"Scores of the assembly, of which this layer is a part: `{origin.whole}`")
    if scores:
        parts.append(
            f"In the search, one seed, validation {'scores' if units.note else 'accuracy'}: "
            + ", ".join(f"{units.column(p)} {units.value(p, s)}" for p, s in scores.items())
            + f"; mean {_number(run['mean'])}. {units.note}".rstrip()
        )
    else:
        parts.append("This candidate has no score: it was not trained to the end.")
    if origin.ranking:
        rows = []
        for row in origin.ranking:
            mine = row["candidate"] == run["candidate"]
            versus = row["versus"]
            rows.append(
                (f"**{row['name']}**" if mine else row["name"], row["arm"], _spread(row["mean"], row["std"]),
                 *[units.spread(p, *row["per_proxy"].get(p, (None, None))) for p in run["proxies"]], row["n"],
                 "" if versus is None else f"{_spread(versus['mean'], versus['std'], sign=True)} to {versus['name']}")
            )  # fmt: skip
        words = (
            f"Final table of the run: held-out {'scores' if units.note else 'accuracy'} over fresh seeds, mean ± "
            "standard deviation; baselines and the control arm had the same weights, data order and budget. The last "
            f"column is on the same seeds. {units.note}".rstrip()
        )
        if origin.row is None:
            words += " This layer was not among the finalists."
        parts += [
            words,
            table(("layer", "arm", "mean", *map(units.column, run["proxies"]), "n", "difference"), rows),
        ]
    else:
        parts.append("Over fresh seeds, against baselines and the control arm: not measured.")
    return "\n\n".join(parts)


def _sensitivity(origin: Origin, version: str) -> str:
    run = origin.facts
    if not run:
        return NOT_MEASURED
    row = origin.row
    more = more_of(row) if row else {}
    chosen = more.get("lr") or {}
    parts = []
    if run["recipes"]:
        parts.append(_recipes(run["recipes"], chosen))
        wrote = run["versions"].get("evonas")
        if wrote != version:
            parts.append(
                f"The table is that of evonas {version}, which wrote this card. The run was made by evonas "
                f"{wrote or 'of an unknown version'}, whose values may have been others."
            )
    lines = [f"- scale of the networks and budgets: {run['scale']}"]
    lines.append(f"- groups of index sets with c/g in its trainings: at most {run['groups']}")
    for key, words in (("changes", "changes to the budget"), ("layer_options", "options of the layer")):
        if run[key]:
            lines.append(f"- {words}: {', '.join(f'{k} = {v}' for k, v in run[key].items())}")
    if "lr" in more:
        found = more.get("sensitivity", {})
        lines.append("- learning rate, as a factor on that of the budget, chosen by a sweep that every finalist had: "
                     + ", ".join(f"{p} {f:.3g}" for p, f in more["lr"].items()))  # fmt: skip
        lines.append("- sensitivity, best minus worst validation score of that sweep: "
                     + (", ".join(f"{p} {_number(s)}" for p, s in found.items()) or "not measured"))  # fmt: skip
    else:
        lines.append("- sensitivity to the learning rate: not measured, the budget's own was used")
    if more.get("data_shares"):
        lines += [f"- on {float(share):.3g} of the data: {_spread(v.get('mean'), v.get('std'))}"
                  for share, v in more["data_shares"].items()]  # fmt: skip
    else:
        lines.append("- scores by share of the data: not measured")
    return "\n\n".join([*parts, "\n".join(lines)])


def _recipes(recipes: dict[str, dict[str, Any]], chosen: dict[str, float]) -> str:
    """What every layer was trained with, network by network, and what the sweep made of the learning rate."""
    rows = []
    for proxy, recipe in recipes.items():
        rate = f"{recipe['lr']:g}"
        if proxy in chosen:
            rate += f", {recipe['lr'] * chosen[proxy]:.3g} in its final trainings"
        inner = (
            f"momentum {recipe['momentum']:g}"
            if "sgd" in recipe["optimiser"]
            else f"betas {', '.join(f'{b:g}' for b in recipe['betas'])}"
        )
        clip = "no" if recipe["clip"] is None else f"{recipe['clip']:g}"
        rows.append((proxy, f"{recipe['optimiser']}, {inner}", rate, recipe["schedule"], f"{recipe['warmup']:g}",
                     recipe["batch"], recipe["steps"], f"{recipe['weight_decay']:g}", clip))  # fmt: skip
    columns = (
        "network",
        "optimiser",
        "learning rate",
        "schedule",
        "warm-up",
        "batch",
        "steps",
        "weight decay",
        "clip",
    )
    return "The same for every layer of the run, but for the chosen learning rates:\n\n" + table(
        columns, rows
    )


def _numerics(facts: CardFacts) -> str:
    n = facts.numerics
    rows = [(dtype, f"{error:.1e}") for dtype, error in n.errors.items()]
    scales = [f"{'finite' if fine else 'not finite'} at {scale} times" for scale, fine in n.scales.items()]
    check = NOT_MEASURED if n.gradcheck is None else f"{n.gradcheck:.1e}"
    if not n.derivative:
        check = "none, the gradient rule of the layer is not the derivative (see State)"
    return (
        "Measured when this was written, on a CPU and normal random input. Half-precision input is computed in float32 "
        "and rounded once.\n\n"
        + table(("dtype", "largest error of the output, relative to 1 + the largest value in float64"), rows)
        + f"\n\n- against the module of evonas in float32, outputs and all gradients: {n.evonas:.1e}"
        + f"\n- gradient against a central difference in float64, relative: {check}"
        + f"\n- largest output for normal input: {n.largest:.3g}"
        + f"\n- output and gradients for larger and smaller input: {', '.join(scales)}"
        + f"\n- eps: {facts.eps:g}"
    )


def _latency(origin: Origin, facts: CardFacts) -> str:
    rows = [(r["what"], r["shape"], r["dtype"], f"{r['us']:.0f} µs") for r in facts.latency["rows"]]
    value = origin.facts.get("latency_us")
    if value is not None:
        rows.append(("objective of the run", "see the run", "", f"{value:.1f} µs"))
    versions = ", ".join(f"{k} {v}" for k, v in facts.latency["versions"].items() if v)
    return (
        "Forward and backward together. A model is a model of the generated kernels and no measurement; on a GPU "
        f"nothing was measured for this card.\n\n{table(('what', 'shape', 'dtype', 'time'), rows)}\n\n"
        f"Versions: {versions}. The machine may have been busy with other work."
    )


def _reproduce(origin: Origin) -> str:
    lines = [f"This bundle: `{origin.command}`"]
    if origin.facts:
        command = origin.facts["command"]
        lines.append(f"The run: `{command}`" if command else "The command of the run was not kept.")
        lines.append("A replay of its decisions from the log: `evonas replay RUN --verify`")
        versions = origin.facts["versions"]
        lines.append("It ran with " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + ".")
    return "\n\n".join(lines)


def _licence(origin: Origin, facts: CardFacts) -> str:
    name = origin.layer.name
    known = f" The layer itself is published: {origin.published}." if origin.published else ""
    key = "".join(c if c.isalnum() else "_" for c in name)
    return (
        f"{facts.licence}, see `LICENSE`.{known}\n\n```bibtex\n@misc{{{key},\n  title = {{{name}: "
        f"{origin.layer.formula}}},\n  howpublished = {{evonas {facts.version}}},\n"
        f"  note = {{digest {origin.layer.digest}}}\n}}\n```\n\n"
        "The method of the search is that of Liu, Brock, Simonyan and Le, Evolving Normalization-Activation Layers, "
        "NeurIPS 2020, arXiv 2004.02967."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread(mean: float | None, std: float | None, *, sign: bool = False) -> str:
    if mean is None:
        return "-"
    text = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    return text if std is None else f"{text} ± {std:.3f}"
