"""Layers as notebooks show them: formula typeset, graph drawn, a line on what is known without training."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from evonas.graph.drawing import draw_svg
from evonas.graph.mathml import format_mathml

if TYPE_CHECKING:
    from evonas.layers.layer import Layer


def layers_html(name: str, layers: Mapping[str, Layer]) -> str:
    """HTML of one layer (under an empty name) or of several by the places that they fill."""
    parts = [f"<strong>{escape(name)}</strong>"]
    for place, layer in layers.items():
        where = f"<div>{escape(place)}</div>" if place else ""
        parts.append(
            f"{where}{format_mathml(layer.graph)}{draw_svg(layer.graph)}"
            f"<div><code>{escape(layer.formula)}</code></div><div>{escape(', '.join(_facts(layer)))}</div>"
        )
    return f"<div>{''.join(parts)}</div>"


def _facts(layer: Layer) -> list[str]:
    properties = layer.properties()
    found = [layer.layout, f"{properties.operations} operations"]
    found += ["independent of the batch"] if properties.batch_independent else ["uses batch statistics"]
    found += [f"keeps state, shown is one batch of {layer.stateful}"] if layer.stateful else []
    found += ["bounded"] if properties.bounded else []
    found += ["scale invariant"] if properties.scale_invariant else []
    found += [f"trains {', '.join(properties.vectors)}"] if properties.vectors else []
    return found
