"""The contract of a layer that is given as a graph with moments over the batch. Imports no torch."""

from __future__ import annotations

from evonas.graph.graph import Graph
from evonas.graph.layout import Layout, get_layout
from evonas.layers.affine_form import not_affine, text_of
from evonas.layers.stateful.contract import Buffer, StateContract

#: What is averaged of each moment, and the node's value in evaluation. Others keep their own value.
AVERAGED = {
    "mean": ("the mean", "{running}"),
    "rms": ("the mean of squares", "sqrt({running} + eps)"),
    "std": ("the biased variance", "sqrt({running} + eps)"),
}


def statistic_shape(index: tuple[str, ...], layout: Layout) -> tuple[str | int, ...]:
    """Sizes of a running average in the split view, channels as g groups of k."""
    reduced = layout.covered(index)
    return tuple(d if d in ("g", "k") and d not in reduced else 1 for d in layout.dims)


def graph_contract(graph: Graph, layout: str = "nchw") -> StateContract | None:
    """Running statistics as a contract (Liu et al. 2020 and their released EvoNorm-B0); None for a graph without a
    moment over the batch.

    Every node with ``b`` in its index set has one buffer, ``statistics.<n>.running``, n counting such nodes.
    """
    graph, where = graph.active(), get_layout(layout)
    buffers: list[Buffer] = []
    values: list[str] = []
    for here, (op, _, index) in graph.operations():
        if index is None or "b" not in index:
            continue
        name = f"statistics.{len(buffers)}.running"
        what, value = AVERAGED.get(op, ("the value", "{running}"))
        text = text_of(graph, here)
        meaning = (
            f"average of {what} behind {text}, (1 - momentum) * old + momentum * new in every training step"
        )
        buffers.append(Buffer(name, statistic_shape(index, where), 0.0 if op == "mean" else 1.0, meaning))
        values.append(f"{text} = {value.format(running=name)}")
    if not buffers:
        return None
    reason = not_affine(graph)
    return StateContract(
        buffers=tuple(buffers),
        warm_up="none",
        train_formula=str(graph),
        eval_formula=f"{graph}, where {' and '.join(values)}",
        gradient_rule="through the moments of the batch, by the chain rule",
        derivative=True,
        affine_at_eval=reason is None,
        not_affine=reason or "",
    )
