"""A graph as a picture: layered, left to right, as SVG text that needs nothing but a browser.

Layers are longest paths from the inputs; within a layer, nodes are ordered by the mean place of their neighbours
(the barycentre rule of Sugiyama et al. 1981), sweeping forth and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise

from evonas import primitives
from evonas.graph.graph import Graph, literal

_ROW, _GAP, _HEIGHT, _MARGIN, _LETTER = 50, 46, 30, 10, 7.6
_SWEEPS = 6
_SYMBOLS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−( )", "square": "( )²"}
_STYLE = """
.evonas-graph{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:#1f2430}
.evonas-graph .edge{fill:none;stroke:#8a93a3;stroke-width:1.4}
.evonas-graph .tip{fill:#8a93a3}
.evonas-graph rect{stroke-width:1.4;fill:#f4f6f9;stroke:#aab2bf}
.evonas-graph .leaf rect{fill:#e3effd;stroke:#5b8fd6}
.evonas-graph .moment rect{fill:#fdf0da;stroke:#d29a35}
.evonas-graph .output rect{stroke-width:2.6}
.evonas-graph text{fill:#1f2430;text-anchor:middle}
.evonas-graph .place{font-size:10px;fill:#8a93a3}
@media (prefers-color-scheme:dark){
.evonas-graph text{fill:#e8eaf0}
.evonas-graph rect{fill:#2a2f3a;stroke:#5c6675}
.evonas-graph .leaf rect{fill:#1d3350;stroke:#5b8fd6}
.evonas-graph .moment rect{fill:#43341a;stroke:#d29a35}}
""".strip()


@dataclass(slots=True)
class _Box:
    """A node or leaf of the picture; ``x`` is its left edge, ``y`` its middle, in pixels."""

    label: str
    kind: str
    width: float
    layer: int
    x: float = 0.0
    y: float = 0.0


def draw_svg(graph: Graph, *, title: str | None = None, style: bool = True) -> str:
    """The active graph as an ``<svg>`` element.

    Args:
        title: what a screen reader reads; the formula by default.
        style: put the style sheet into the picture, colours for light and dark included. A page with many pictures
            takes it once, from ``svg_style``.
    """
    graph = graph.active()
    boxes = _boxes(graph)
    routes = _routes(graph, boxes)
    width, height = _place(boxes, [pair for route in routes for pair in pairwise(route)])
    parts = [
        f'<svg class="evonas-graph" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{escape(title or str(graph))}</title>",
    ]
    if style:
        parts.append(f"<style>{_STYLE}</style>")
    ends = [(node, position) for node in graph.nodes for position in range(len(node.args))]
    for route, (node, position) in zip(routes, ends, strict=True):
        named = len(node.args) > 1 and not primitives.get(node.op).commutative
        parts += _edge([boxes[i] for i in route], position, len(node.args), named=named)
    for i, box in enumerate(boxes[: len(graph.leaves) + len(graph.nodes)]):
        output = " output" if i == graph.output else ""
        parts.append(
            f'<g class="{box.kind}{output}"><rect x="{box.x:.1f}" y="{box.y - _HEIGHT / 2:.1f}" '
            f'width="{box.width:.1f}" height="{_HEIGHT}" rx="7"/>'
            f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + 4.5:.1f}">{escape(box.label)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def svg_style() -> str:
    """The style sheet of the pictures, for pages that hold several."""
    return _STYLE


def _boxes(graph: Graph) -> list[_Box]:
    first = len(graph.leaves)
    layers = [0] * first
    for node in graph.nodes:
        layers.append(1 + max(layers[a] for a in node.args))
    # an input stands right before the first node that takes it
    users = {
        a: min(layers[i] for i, n in enumerate(graph.nodes, first) if a in n.args)
        for a in range(first)
        if any(a in n.args for n in graph.nodes)
    }
    boxes = []
    for i in range(first + len(graph.nodes)):
        if i < first:
            leaf = graph.leaves[i]
            kind, label = "leaf" if literal(leaf) is None else "constant", leaf
            layer = 0 if leaf == "x" else users.get(i, 1) - 1
        else:
            op, _, index = graph.nodes[i - first]
            kind = "moment" if index else "node"
            label = f"{op}[{','.join(index)}]" if index else _SYMBOLS.get(op, op)
            layer = layers[i]
        boxes.append(_Box(label, kind, max(34.0, 18 + _LETTER * len(label)), layer))
    return boxes


def _place(boxes: list[_Box], edges: list[tuple[int, int]]) -> tuple[float, float]:
    """Give every box its place; returns width and height of the picture."""
    layers: dict[int, list[int]] = {}
    for i, box in enumerate(boxes):
        layers.setdefault(box.layer, []).append(i)
    neighbours: dict[int, list[int]] = {i: [] for i in range(len(boxes))}
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    tallest = max(len(members) for members in layers.values())
    for members in layers.values():
        _spread(boxes, members, tallest)
    for sweep in range(_SWEEPS):
        for layer in sorted(layers, reverse=sweep % 2 == 1):
            members = layers[layer]
            middle = {i: _middle(boxes, i, neighbours[i]) for i in members}
            members.sort(key=lambda i: (middle[i], i))
            _spread(boxes, members, tallest)
    x = float(_MARGIN)
    for layer in sorted(layers):
        wide = max(boxes[i].width for i in layers[layer])
        for i in layers[layer]:
            boxes[i].x = x + (wide - boxes[i].width) / 2
        x += wide + _GAP
    return x - _GAP + _MARGIN, tallest * _ROW + 2 * _MARGIN


def _middle(boxes: list[_Box], i: int, others: list[int]) -> float:
    return sum(boxes[o].y for o in others) / len(others) if others else boxes[i].y


def _spread(boxes: list[_Box], members: list[int], tallest: int) -> None:
    top = _MARGIN + (tallest - len(members)) * _ROW / 2
    for place, i in enumerate(members):
        boxes[i].y = top + (place + 0.5) * _ROW


def _routes(graph: Graph, boxes: list[_Box]) -> list[list[int]]:
    """Per edge the boxes that it passes: where it crosses a layer, it gets an empty one of its own there, shared
    by edges with the same beginning."""
    routes = []
    bends: dict[tuple[int, int], int] = {}
    for here, node in enumerate(graph.nodes, len(graph.leaves)):
        for a in node.args:
            route = [a]
            for layer in range(boxes[a].layer + 1, boxes[here].layer):
                if (a, layer) not in bends:
                    bends[a, layer] = len(boxes)
                    boxes.append(_Box("", "bend", 0.0, layer))
                route.append(bends[a, layer])
            routes.append([*route, here])
    return routes


def _edge(route: list[_Box], position: int, count: int, *, named: bool) -> list[str]:
    start, end = route[0], route[-1]
    x, y = start.x + start.width, start.y
    path = f"M{x:.1f} {y:.1f}"
    for box in route[1:]:
        last = box is end
        x2, y2 = (box.x - 5, box.y + (position - (count - 1) / 2) * 12) if last else (box.x, box.y)
        bend = (x2 - x) / 2
        path += f" C{x + bend:.1f} {y:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
        x, y = x2, y2
    drawn = [
        f'<path class="edge" d="{path}"/>',
        f'<path class="tip" d="M{end.x:.1f} {y:.1f} l-6 -3.5 v7 z"/>',
    ]
    if named:  # which argument it is matters: 1 over 2, 1 minus 2
        above = -4 if position == 0 else 11
        drawn.append(f'<text class="place" x="{x - 8:.1f}" y="{y + above:.1f}">{position + 1}</text>')
    return drawn
