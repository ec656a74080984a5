"""`show`: one layer, by name, formula, file or as a candidate of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evonas.cli.drawing import draw, nodes
from evonas.cli.history import History, print_history
from evonas.cli.output import document, emit
from evonas.cli.values import shape as read_shape
from evonas.graph import fingerprint
from evonas.graph.fingerprint import TOLERANCE
from evonas.graph.layout import get_layout
from evonas.graph.slots import expand
from evonas.layers.assembled import AssembledLayer, resolve_candidate
from evonas.layers.layer import Layer, named_layer
from evonas.layers.stateful.registry import stateful_entry
from evonas.layers.zoo import ZOO
from evonas.run.run import Run
from evonas.run.wording import size
from evonas.search_spaces.causality import over_tokens

_WORDS = {
    "batch_independent": ("independent of the batch", "depends on the other samples of the batch"),
    "scale_invariant": ("invariant to the scale of x", None),
    "shift_invariant": ("invariant to a shift of x", None),
    "bounded": ("bounded", None),
    "finite": ("finite up to |x| = 1e4", "not finite for large x"),
    "zero_preserving": ("maps 0 to 0", None),
    "varies_over_space": (None, "constant over space"),
    "depends_on_x": (None, "does not depend on x"),
}


def show(
    target: str,
    candidate: str | None,
    *,
    shape: str | None,
    plugins: Sequence[str],
    runs: str,
    json: bool,
) -> int:
    """Print everything that is known of a layer without training it.

    Raises:
        UsageError, FormulaError, PluginError: see ``resolve_layer``, ``Run`` and ``load_plugins``.
    """
    from evonas.plugins import describe_plugins, load_all_plugins

    load_all_plugins(describe_plugins(plugins))
    history: History | None = None
    if candidate is not None or _is_run(target):
        history = History(Run(target, runs), candidate or "best")
        layer = history.layer()
    else:
        layer = named_layer(target.strip()) if target.strip() in ZOO else resolve_candidate(target)
    sizes = read_shape(shape or ("1,64,56,56" if layer.layout == "nchw" else "1,128,64"), layer.layout)
    content = describe(layer, sizes) if isinstance(layer, Layer) else describe_assembly(layer, sizes)
    if history is not None:
        content["history"] = history.content()
    if json:
        document("show", content)
        return 0
    if isinstance(layer, Layer):
        _print(layer, content)
    else:
        _print_assembly(layer, content)
    if history is not None:
        print_history(history)
    return 0


def _is_run(target: str) -> bool:
    try:
        return (Path(target) / "run.json").is_file()
    except OSError:  # a text that no file system takes for a name, such as a long formula
        return False


def describe(layer: Layer, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Plain values of the JSON document."""
    return {
        "name": layer.name,
        "formula": layer.formula,
        "canonical": str(layer.canonical),
        "latex": layer.latex,
        "digest": layer.digest,
        "layout": layer.layout,
        "source": layer.source or None,
        "same_as": same_as(layer),
        "state": None if layer.contract is None else asdict(layer.contract),
        "properties": asdict(layer.properties()),
        "cost": asdict(layer.cost(sizes)),
        "over_tokens": over_tokens(layer.graph) if layer.layout == "btc" else [],
        "nodes": nodes(layer.graph),
    }


def describe_assembly(made: AssembledLayer, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Plain values of the JSON document; ``parts`` has the layer of every group of slots."""
    return {
        "name": made.name,
        "formula": made.formula,
        **({"text": made.text} if made.assembly.stateful else {}),
        "canonical": str(made.canonical),
        "latex": made.latex,
        "digest": made.digest,
        "layout": made.layout,
        "source": made.source or None,
        "parts": {
            group: {"affine": part.affine, **describe(part, sizes)} for group, part in made.parts.items()
        },
    }


def same_as(layer: Layer) -> list[str]:
    """Names of the layers of the zoo that are the same function as far as the probes can tell."""
    axes = set(get_layout(layer.layout).axes)
    mine = fingerprint(layer.graph, layer.layout)
    known = {n: named_layer(n).graph for n in ZOO}
    return [
        name
        for name, graph in known.items()
        if all(axes.issuperset(index) for index in graph.index_sets)
        and fingerprint(graph, layer.layout).distance(mine) <= TOLERANCE
    ]


def _trainable(layer: Layer, properties: dict[str, Any]) -> str:
    channels = [*properties["vectors"], *(["affine"] if layer.affine else [])]
    words = [f"{', '.join(names)} per {what}"
             for names, what in ((channels, "channel"), (properties["scalars"], "layer")) if names]  # fmt: skip
    return "; ".join(words) or "nothing"


def _print_assembly(made: AssembledLayer, content: dict[str, Any]) -> None:
    lines = [
        ("assembly", made.name if made.name != "layer" else None),
        ("source", content["source"]),
        ("text", content.get("text")),
        ("formula", content["formula"]),
        ("LaTeX", content["latex"]),
        ("digest", content["digest"]),
    ]
    for name, value in lines:
        if value is not None:
            print(f"{name:<11} {value}")
    for group, part in made.parts.items():
        slots = expand(group)
        print(f"\n{group}" + (f": {', '.join(slots)}" if (group,) != slots else ""))
        _print(replace(part, name="layer"), content["parts"][group])


def _print(layer: Layer, content: dict[str, Any]) -> None:
    properties, cost = content["properties"], content["cost"]
    words = [pair[0 if properties[key] else 1] for key, pair in _WORDS.items()]
    indices = ["[" + ",".join(i) + "]" for i in properties["index_sets"]]
    lines = [
        ("layer", layer.name if layer.name != "layer" else None),
        ("source", content["source"]),
        ("formula", content["formula"]),
        ("with state", f"class {stateful_entry(layer.stateful).class_name}; the formula is one batch in its warm-up"
         if layer.stateful else None),
        ("canonical", content["canonical"] if content["canonical"] != content["formula"] else None),
        ("LaTeX", content["latex"]),
        ("digest", content["digest"]),
        ("same as", ", ".join(n for n in content["same_as"] if n != layer.name) or None),
        ("properties", "; ".join(w for w in words if w)),
        ("statistics", ", ".join(indices) or "none"),
        ("tokens", f"in training {', '.join(content['over_tokens'])} shows a token the other ones, later ones too"
         if content["over_tokens"] else None),
        ("trainable", _trainable(layer, properties)),
        ("structure", f"{properties['operations']} operations, depth {properties['depth']}"),
        ("cost", f"{cost['flops']:,} operations on {'x'.join(map(str, cost['shape']))} float32, "
                 f"{size(cost['bytes_fused'])} moved if fused, {size(cost['bytes_eager'])} if not, "
                 f"{cost['parameters']:,} parameters"),
    ]  # fmt: skip
    if layer.contract is not None:
        lines += layer.contract.lines()
    for name, value in lines:
        if value is not None:
            print(f"{name:<11} {value}")
    emit("", draw(layer.graph))
