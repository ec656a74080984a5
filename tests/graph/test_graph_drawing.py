"""Pictures of graphs: well formed, complete, and nothing on top of anything else."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from evonas.graph import Graph
from evonas.graph.drawing import draw_svg, svg_style
from evonas.layers import ZOO

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_node_and_every_argument_is_drawn_once(name: str) -> None:
    graph = Graph.parse(ZOO[name].formula)
    picture = ET.fromstring(draw_svg(graph))
    groups = picture.findall(f"{SVG}g")
    assert len(groups) == len(graph.leaves) + len(graph.nodes)
    assert sum("output" in g.attrib["class"].split() for g in groups) == 1
    edges = [p for p in picture.findall(f"{SVG}path") if p.attrib["class"] == "edge"]
    assert len(edges) == sum(len(node.args) for node in graph.nodes)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_boxes_are_inside_and_apart(name: str) -> None:
    picture = ET.fromstring(draw_svg(Graph.parse(ZOO[name].formula)))
    width, height = (float(v) for v in picture.attrib["viewBox"].split()[2:])
    rects = [
        tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height"))
        for r in picture.findall(f"{SVG}g/{SVG}rect")
    ]
    for i, (x, y, w, h) in enumerate(rects):
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-6
        assert y + h <= height + 1e-6
        for x2, y2, w2, h2 in rects[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_text_is_escaped_and_the_style_can_be_left_to_the_page() -> None:
    graph = Graph.parse("max(x, 0)")
    assert "<b>" not in draw_svg(graph, title="<b>")
    assert "<style>" not in draw_svg(graph, style=False)
    assert "prefers-color-scheme:dark" in svg_style()
