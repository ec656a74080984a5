"""What a causal space allows: no moment over the tokens of a whole sequence, and no layer with state."""

from __future__ import annotations

from collections.abc import Sequence

from evonas.search_spaces.options import SpaceOptions

from evonas import primitives
from evonas.errors import FormulaError, UsageError
from evonas.graph.assembly import Assembly
from evonas.graph.graph import Graph
from evonas.graph.layout import IndexSet, Layout

#: Index sets of causal moments.
CAUSAL_INDEX_SETS: tuple[IndexSet, ...] = (("t",), ("t", "c"))
OVER_BATCH: IndexSet = ("b", "t")


def usable(name: str, layout: Layout, options: SpaceOptions, index_sets: Sequence[IndexSet]) -> None:
    """``UsageError`` or ``FormulaError`` for options that contradict each other or the layout."""
    tokens = [n for n in ("causal", "causal_moments", "batch_statistics") if getattr(options, n)]
    if tokens and "t" not in layout.axes:
        raise UsageError(
            f"space {name!r} has layout {layout.name!r}, which has no tokens, and {tokens[0]} = true is about tokens",
            hint="use a space of layout btc, such as norm_act_lm",
        )
    if options.causal:
        for index in index_sets:
            _check(index, options, "the moments of the space")


def causal_violation(graph: Graph, options: SpaceOptions) -> None:
    """``FormulaError`` for a moment of the active graph that sees later tokens."""
    for _, (op, _, index) in graph.active().operations():
        primitive = primitives.get(op)
        if index is None or "t" not in index or (primitive.causal and primitive.step is not None):
            continue
        _check(index, options, f"{op}[{','.join(index)}] of {graph}")


def over_tokens(graph: Graph) -> list[str]:
    """Moments of the active graph that show a token the other ones: those over t that are not causal."""
    found = dict.fromkeys(
        f"{op}[{','.join(index)}]"
        for _, (op, _, index) in graph.active().operations()
        if index is not None
        and "t" in index
        and not (primitives.get(op).causal and primitives.get(op).step is not None)
    )
    return list(found)


def refuse_state(assembly: Assembly, causal: bool) -> None:
    """``FormulaError`` for a layer with state: a genotype holds graphs, and nothing else of a layer."""
    for part in assembly.parts:
        if not part.stateful:
            continue
        leaks = over_tokens(part.graph) if causal else []
        raise FormulaError(
            f"{part.stateful} keeps state, a candidate is made of formulas alone"
            + (f"; and {', '.join(leaks)} shows a token the later ones in training" if leaks else ""),
            hint=f"take it as a baseline: --set 'search.baselines=[\"{part.stateful}\"]'",
        )


def _check(index: IndexSet, options: SpaceOptions, what: str) -> None:
    if "t" not in index or (index == OVER_BATCH and options.batch_statistics):
        return
    if index == OVER_BATCH:
        hint = (
            "--set space.batch_statistics=true allows it, if you accept that it sees later tokens in training"
        )
    else:
        hint = "use cmean, crms or cstd over t or t,c (--set space.causal_moments=true), or --set space.causal=false"
    raise FormulaError(f"index set [{','.join(index)}] in {what} shows a token the later ones", hint=hint)
