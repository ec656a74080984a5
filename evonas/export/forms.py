"""Which tensors an exported layer takes, and where its axes lie in them."""

from __future__ import annotations

from dataclasses import dataclass

from evonas.graph import Graph
from evonas.graph.graph import literal
from evonas.graph.layout import get_layout

#: Leaves that are parameters, with their initial values. v: one value per channel, s: one per layer.
INITIAL = {"v0": 0.0, "v1": 1.0, "s0": 0.0, "s1": 1.0}


@dataclass(frozen=True)
class Form:
    """How the computation sees its tensor.

    name: "nchw" (batch, channels, height, width), "btc" (batch, tokens, channels), or "last": any shape whose last
    axis are the channels. grouped: the channel axis is split into groups. dims: axis name -> positions.
    vector, group: shapes that values per channel and per group are viewed with; scalar: the same for one value.
    """

    name: str
    grouped: bool
    dims: dict[str, tuple[int, ...]]
    vector: str
    group: str
    scalar: str

    def over(self, index: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of an index set, ascending."""
        return tuple(sorted({d for axis in index for d in self.dims[axis]}))

    @property
    def rank(self) -> int:
        return {"nchw": 4, "btc": 3, "last": 0}[self.name]


_FORMS: dict[tuple[str, bool], Form] = {
    ("nchw", False): Form("nchw", False, {"b": (0,), "c": (1,), "h": (2,), "w": (3,)}, "1, -1, 1, 1", "", "1, 1, 1, 1"),
    ("nchw", True): Form("nchw", True, {"b": (0,), "c": (1, 2), "c/g": (2,), "h": (3,), "w": (4,)},
                         "1, self.groups, -1, 1, 1", "1, -1, 1, 1, 1", "1, 1, 1, 1, 1"),
    ("btc", False): Form("btc", False, {"b": (0,), "t": (1,), "c": (2,)}, "1, 1, -1", "", "1, 1, 1"),
    ("btc", True): Form("btc", True, {"b": (0,), "t": (1,), "c": (2, 3), "c/g": (3,)},
                        "1, 1, self.groups, -1", "1, 1, -1, 1", "1, 1, 1, 1"),
    ("last", False): Form("last", False, {"c": (-1,)}, "", "", ""),
    ("last", True): Form("last", True, {"c": (-2, -1), "c/g": (-1,)}, "self.groups, -1", "-1, 1", "1, 1"),
}  # fmt: skip


def depends_on_x(graph: Graph) -> list[bool]:
    """Per id, whether a value depends on the input."""
    found = [leaf == "x" for leaf in graph.leaves]
    for _, node in graph.operations():
        found.append(any(found[a] for a in node.args))
    return found


def forms_of(graph: Graph, layout: str) -> tuple[Form, str | None]:
    """The form to write the layer in, and the layout of a second class that only moves the channel axis.

    A layer without axes but the channels is written for tensors whose last axis they are; the other class is for
    (batch, channels, height, width) then.
    """
    axes = {axis for index in graph.index_sets for axis in index}
    grouped = "c/g" in axes
    live = depends_on_x(graph)
    plain = all(live[node.args[0]] for _, node in graph.operations() if node.index)
    if axes <= {"c", "c/g"} and plain:
        return _FORMS["last", grouped], "nchw"
    return _FORMS[get_layout(layout).name, grouped], None


def form_named(layout: str) -> Form:
    """The form of a layout whose channels are not split."""
    return _FORMS[layout, False]


def is_parameter(leaf: str) -> bool:
    """Whether a leaf is trainable."""
    return leaf != "x" and literal(leaf) is None
