"""A graph as an SVG picture: layers from left to right, edges as curves, colours for light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from evonas.export.forms import is_parameter
from evonas.graph import Graph

_SIGNS = {
    "add": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "neg": "−( )",
    "square": "( )²",
    "abs": "| |",
    "sqrt": "√",
}
_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 30, 44, 16, 14
_STYLE = """
  svg { color-scheme: light dark; --ink: #1f2933; --line: #8a97a6; --edge: #9aa5b1; --input: #dbeafe;
        --trained: #fde7c2; --constant: #eceff3; --moment: #d6f0dc; --op: #ffffff; --out: #1f2933; --out-ink: #ffffff; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6eaf0; --line: #66758a; --edge: #66758a; --input: #1e3a5f; --trained: #5a4316; --constant: #323a46;
          --moment: #1d4a2c; --op: #222a35; --out: #e6eaf0; --out-ink: #1f2933; }
  }
  text { font: 14px ui-sans-serif, system-ui, "Helvetica Neue", Arial, sans-serif; fill: var(--ink);
         text-anchor: middle; dominant-baseline: central; }
  .sub { font-size: 11px; }
  rect { stroke: var(--line); stroke-width: 1; fill: var(--op); }
  .input { fill: var(--input); } .trained { fill: var(--trained); } .constant { fill: var(--constant); }
  .moment { fill: var(--moment); } .out { fill: var(--out); stroke: var(--out); }
  .out + text { fill: var(--out-ink); }
  path { fill: none; stroke: var(--edge); stroke-width: 1.4; }
  .side { font-size: 10px; fill: var(--edge); }
"""


@dataclass
class _Box:
    """A node, or a bend of a long edge (no label). x, y: of its middle."""

    label: str
    kind: str
    rank: int
    width: float = 0.0
    inputs: list[tuple[int, str]] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0

    @property
    def bend(self) -> bool:
        return self.kind == "bend"


def draw_svg(graph: Graph, *, affine: bool = True) -> str:
    """The active graph as a standalone SVG text; with ``affine`` weight and bias behind it."""
    boxes = _boxes(graph.active(), affine)
    _bend(boxes)
    ranks = _order(boxes)
    width, height = _place(boxes, ranks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{escape(str(graph))}</title>",
        f"<style>{_STYLE}</style>",
    ]
    for box in boxes:
        ends = len(box.inputs)
        for n, (source, side) in enumerate(box.inputs):
            start = boxes[source]
            x0, y0 = start.x + start.width / 2, start.y
            x1 = box.x - box.width / 2
            y1 = box.y + (0 if ends < 2 or box.bend else (n - (ends - 1) / 2) * 12)
            middle = (x0 + x1) / 2
            parts.append(
                f'<path d="M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"/>'
            )
            if box.bend:
                parts.append(f'<path d="M{x1:.1f} {y1:.1f}H{box.x + box.width / 2:.1f}"/>')
            elif side:
                parts.append(
                    f'<text class="side" x="{x1 - 7:.1f}" y="{y1 + (-7 if n == 0 else 8):.1f}">{side}</text>'
                )
    for box in boxes:
        if box.bend:
            continue
        name, _, index = box.label.partition("[")
        below = f'<tspan class="sub" dx="2">[{escape(index)}</tspan>' if index else ""
        parts.append(
            f'<rect class="{box.kind}" x="{box.x - box.width / 2:.1f}" y="{box.y - _HEIGHT / 2:.1f}" '
            f'width="{box.width:.1f}" height="{_HEIGHT}" rx="{_HEIGHT / 2 if box.kind != "op" else 7}"/>'
            f'<text x="{box.x:.1f}" y="{box.y:.1f}">{escape(name)}{below}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _boxes(graph: Graph, affine: bool) -> list[_Box]:
    first = len(graph.leaves)
    rank = [0] * first
    boxes: list[_Box] = []
    number: dict[int, int] = {}
    for i, leaf in enumerate(graph.leaves):
        kind = "input" if leaf == "x" else "trained" if is_parameter(leaf) else "constant"
        if kind != "constant":
            number[i] = len(boxes)
            boxes.append(_Box(leaf, kind, 0))
    for i, (op, args, index) in graph.operations():
        rank.append(1 + max(rank[a] for a in args))
        inputs = []
        sides = ("", "") if op not in ("sub", "div") else ("1", "2")
        for n, a in enumerate(args):
            if a not in number or (a < first and boxes[number[a]].kind == "constant"):
                number[a] = len(boxes)  # a constant is drawn at each of its uses
                boxes.append(_Box(graph.leaves[a], "constant", rank[i] - 1))
            inputs.append((number[a], sides[n] if len(args) == 2 else ""))
        label = f"{op}[{','.join(index)}]" if index else _SIGNS.get(op, op)
        number[i] = len(boxes)
        boxes.append(_Box(label, "moment" if index else "op", rank[i], inputs=inputs))
    if graph.output not in number:
        number[graph.output] = len(boxes)
        boxes.append(_Box(graph.leaves[graph.output], "constant", 0))
    last, at = number[graph.output], rank[graph.output]
    if affine:
        boxes.append(_Box("× weight + bias", "trained", at + 1, inputs=[(last, "")]))
        last, at = len(boxes) - 1, at + 1
    boxes.append(_Box("y", "out", at + 1, inputs=[(last, "")]))
    users: dict[int, list[int]] = {}
    for box in boxes:
        for source, _ in box.inputs:
            users.setdefault(source, []).append(box.rank)
    for n, box in enumerate(boxes):
        if box.kind == "trained" and not box.inputs and n in users:  # parameters stand next to what uses them
            box.rank = min(users[n]) - 1
        box.width = max(34.0, 8.3 * len(box.label) + 22)
    return boxes


def _bend(boxes: list[_Box]) -> None:
    """Cut edges over several ranks into pieces, so that they go around what stands between."""
    made: dict[tuple[int, int], int] = {}
    for box in list(boxes):
        for n, (source, side) in enumerate(box.inputs):
            last = source
            for rank in range(boxes[source].rank + 1, box.rank):
                if (source, rank) not in made:
                    made[source, rank] = len(boxes)
                    boxes.append(_Box("", "bend", rank, 12.0, [(last, "")]))
                last = made[source, rank]
            box.inputs[n] = (last, side)


def _order(boxes: list[_Box]) -> list[list[int]]:
    """Boxes per rank from top to bottom; neighbours pull each other to one height, a few times over."""
    ranks: list[list[int]] = [[] for _ in range(max(b.rank for b in boxes) + 1)]
    users: dict[int, list[int]] = {}
    for n, box in enumerate(boxes):
        ranks[box.rank].append(n)
        for source, _ in box.inputs:
            users.setdefault(source, []).append(n)
    at = {n: float(i) for rank in ranks for i, n in enumerate(rank)}

    def sort(rank: list[int], near: dict[int, list[int]]) -> None:
        wish = {n: sum(at[m] for m in near[n]) / len(near[n]) if near[n] else at[n] for n in rank}
        rank.sort(key=lambda n: (wish[n], n))
        for i, n in enumerate(rank):
            at[n] = i - len(rank) / 2

    sources = {n: [s for s, _ in box.inputs] for n, box in enumerate(boxes)}
    above = {n: users.get(n, []) for n in range(len(boxes))}
    for _ in range(8):
        for rank in ranks:
            sort(rank, sources)
        for rank in reversed(ranks):
            sort(rank, above)
    for rank in ranks:
        sort(rank, sources)
    return ranks


def _place(boxes: list[_Box], ranks: list[list[int]]) -> tuple[float, float]:
    step = _HEIGHT + _GAP_Y
    x = float(_MARGIN)
    heights = [sum(14 if boxes[n].bend else step for n in rank) for rank in ranks]
    middle = max(heights) / 2
    for rank, height in zip(ranks, heights, strict=True):
        width = max((boxes[n].width for n in rank), default=0.0)
        y = middle - height / 2
        for n in rank:
            own = 14 if boxes[n].bend else step
            boxes[n].x, boxes[n].y = x + width / 2, _MARGIN + y + own / 2
            if boxes[n].bend:
                boxes[n].width = width
            y += own
        x += width + _GAP_X
    return x - _GAP_X + _MARGIN, 2 * middle + 2 * _MARGIN
