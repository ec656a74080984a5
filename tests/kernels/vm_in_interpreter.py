"""Runs the batch machine in Triton's interpreter and prints what it found as JSON.

A program of its own, because TRITON_INTERPRET has to be set before triton is imported.
``vm_in_interpreter.py CASE:COUNT ...`` prints {case: one [error, error of the eager path, what] per graph}.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from evonas.kernels.vm import CandidateBatch, evaluate_batch
from evonas.kernels.vm_program import REGISTER_FILES

from evonas import primitives, search_spaces
from evonas.graph import Graph, GraphBuilder, differentiate, get_layout
from evonas.graph.execute import ArrayOps, forward
from evonas.graph.layout import canonical_index
from evonas.layers.zoo import ZOO
from evonas.rng import Draws

EXTRA = ("sub", "min", "erf", "rsqrt")
SHAPES = {"nchw": (3, 4, 2, 3), "btc": (3, 5, 6)}
GROUPS = 2


def reference(graph, arrays, layout, xp=primitives.numpy_namespace):
    """The eager value in the layout's shape, from arrays x, v0, v1, g of one kind and dtype."""
    x = arrays["x"]
    channels = arrays["v0"].shape[0]
    pair, at = (GROUPS, channels // GROUPS), 1 if layout == "nchw" else 2
    split = (*x.shape[:at], *pair, *x.shape[at + 1 :])
    vector = tuple(n if at <= p <= at + 1 else 1 for p, n in enumerate(split))
    leaves = {name: a.reshape(split if a.ndim > 1 else vector) for name, a in arrays.items()}
    with np.errstate(all="ignore"):
        value = forward(graph, leaves, ArrayOps(xp, get_layout(layout)))[graph.output]
    whole = np.broadcast_to(value, split) if isinstance(value, np.ndarray) else value.expand(split)
    return whole.reshape(x.shape)


def probe(layout, dtype, seed=0):
    rng = np.random.default_rng(seed)
    shape = SHAPES[layout]
    channels = shape[1] if layout == "nchw" else shape[2]
    made = {
        "x": rng.normal(0.3, 1.2, shape),
        "v0": rng.normal(0.0, 0.7, channels),
        "v1": rng.normal(1.0, 0.5, channels),
        "g": rng.normal(size=shape),
    }
    return {name: torch.from_numpy(a).to(dtype) for name, a in made.items()}


def apart(got, want):
    """Largest difference in units of the largest value; infinite if NaN or Inf lie elsewhere."""
    with np.errstate(over="ignore"):
        kept = want.astype(got.dtype)
    regular = np.isfinite(kept)
    same = np.array_equal(kept[~regular], got[~regular], equal_nan=True) and np.isfinite(got[regular]).all()
    if not same:
        return float("inf")
    size = float(np.abs(want[regular]).max(initial=0.0))
    return float(np.abs(got[regular] - want[regular]).max(initial=0.0)) / (size or 1.0)


def compare(graphs, layout="nchw", dtype=torch.float32, seed=0):
    """Per graph: its error against float64, that of the eager path in the same dtype, the formula."""
    arrays = probe(layout, dtype, seed)
    values, unexpressible = evaluate_batch(graphs, **arrays, groups=GROUPS, layout=layout)
    exact = {name: a.double().numpy() for name, a in arrays.items()}
    found = []
    for i, graph in enumerate(graphs):
        want = reference(graph, exact, layout)
        eager = reference(graph, arrays, layout, primitives.torch_namespace()).numpy()
        said = unexpressible.get(i)
        found.append(
            [apart(values[i].numpy(), want), apart(eager, want), f"{graph}: {said}" if said else str(graph)]
        )
    return found


def drawn(count, seed, **options):
    space, graphs = search_spaces.get("norm_act", **options), []
    for k in range(100 * count):
        genotype = space.random(Draws("vm", seed, k))
        if space.digest(genotype) is not None:
            graphs.append(space.decode(genotype).active())
        if len(graphs) == count:
            break
    return graphs


def case_random(count, seed):
    return compare(drawn(count, seed), seed=seed)


def case_more_primitives(count, seed):
    return compare(drawn(count, seed, extra_primitives=EXTRA, index_sets=("c", "c/g", "b", "b,c", "b,w,h,c")))


def case_float64(count, seed):
    return compare(drawn(count, seed, extra_primitives=EXTRA), dtype=torch.float64)


def case_tokens(count, seed):
    """Graphs of images with positions in the place of height and width."""

    def tokens(index):
        kept = [axis for axis in index if axis not in "wh"]
        return canonical_index([*kept, "t"] if len(kept) < len(index) else kept)

    graphs = drawn(count, seed, extra_primitives=EXTRA, index_sets=("b,w,h", "w,h", "w,h,c", "c", "c/g"))
    moved = [[node._replace(index=node.index and tokens(node.index)) for node in g.nodes] for g in graphs]
    return compare(
        [Graph(g.leaves, tuple(nodes), g.output) for g, nodes in zip(graphs, moved, strict=True)],
        layout="btc",
    )


def case_zoo(count, seed):
    graphs = [Graph.parse(entry.formula) for name, entry in ZOO.items() if not name.endswith("_scalar")]
    return compare(
        [*graphs, *(Graph.parse(text) for text in ("x", "v0", "2.5", "std[w,h](v1)", "mean[b](0.1)"))]
    )


def case_gradients(count, seed):
    graphs = [
        Graph.parse(ZOO[name].formula) for name in ("bn_relu", "gn_silu", "evonorm_s0", "evonorm_b0", "frn")
    ]
    graphs += drawn(count, seed)
    return compare([d for graph in graphs for d in differentiate(graph).values()], dtype=torch.float64)


def case_registers(count, seed):
    """A chain whose values are all needed at the end, one as long as each register file; a batch for each."""
    found = []
    for size in REGISTER_FILES:
        builder = GraphBuilder()
        chain = [builder.node("add", (builder.leaf("x"), builder.leaf("v1")))]
        for i in range(size - 1):
            chain.append(builder.node(("sigmoid", "square", "tanh", "sqrt", "abs")[i % 5], (chain[-1],)))
        total = chain[-1]
        for value in chain[:-1]:
            total = builder.node("tanh", (builder.node("sub", (total, value)),))
        graph = builder.build(total)
        assert CandidateBatch([graph]).registers == size
        found += compare([graph])
    return found


class Accurate(type(primitives.numpy_namespace)):
    """numpy with a sigmoid that does not round tiny values to zero."""

    @staticmethod
    def sigmoid(a):
        return 1.0 / (1.0 + np.exp(-a))


def case_points(count, seed):
    """Every element-wise primitive at singular, huge and non-finite points, each point on its own."""
    points = np.array([0.0, -0.0, 1e-7, -1e-7, 1e-5, -2e-5, 0.02, 0.2, -0.62, 0.63, 1.0, -3.0, 9.5, -30.0, 85.0,
                       -85.0, 1e18, -1e18, 1e38, np.inf, -np.inf, np.nan], np.float32)  # fmt: skip
    x, g = (torch.from_numpy(m).reshape(1, 1, len(points), -1) for m in np.meshgrid(points, points))
    one = torch.ones(1)
    found = []
    for name in ("sign", "step", *primitives.EVONORM_ELEMENTWISE, *EXTRA):
        builder = GraphBuilder()
        args = [builder.leaf(leaf) for leaf in ("x", "g")[: primitives.get(name).arity]]
        graph = builder.build(builder.node(name, args))
        values, _ = evaluate_batch([graph], x, one, one, groups=1, g=g)
        leaves = {"x": x.numpy(), "g": g.numpy()}
        with np.errstate(all="ignore"):
            doubles = {leaf: a.astype(np.float64) for leaf, a in leaves.items()}
            want = forward(graph, doubles, ArrayOps(Accurate(), get_layout("nchw")))[graph.output]
            eager = forward(graph, leaves, ArrayOps(Accurate(), get_layout("nchw")))[graph.output]
        found.append([pointwise(values[0].numpy(), want), pointwise(eager, want), name])
    return found


def pointwise(got, want):
    """Largest relative difference of one value; infinite if NaN or Inf lie elsewhere. Denormals count as zero."""
    with np.errstate(all="ignore"):
        short = want.astype(np.float32)
        normal = np.isfinite(short) & (np.abs(short) > 1e-37)
        near = np.isclose(got, short, rtol=0, atol=1e-37, equal_nan=True)
        relative = np.where(normal, np.abs(got - want) / np.abs(want), np.where(near, 0.0, np.inf))
    return float(np.where(np.isnan(relative), np.inf, relative).max())


def case_own_inputs(count, seed):
    """A leading axis of candidates: every candidate gets its own x and g."""
    graphs = [Graph.parse(entry.formula) for name, entry in ZOO.items() if not name.endswith("_scalar")][
        :count
    ]
    graphs += [differentiate(graphs[0])["x"]]
    arrays = [probe("nchw", torch.float64, seed=i) for i in range(len(graphs))]
    vectors = {name: arrays[0][name] for name in ("v0", "v1")}
    batch = CandidateBatch(graphs)
    x, g = (torch.stack([a[name] for a in arrays]) for name in ("x", "g"))
    got = batch.run(x, **vectors, groups=GROUPS, g=g)
    again = batch.run(x, **vectors, groups=GROUPS, g=g)
    found = []
    assert torch.equal(got, again)
    for i, graph in enumerate(graphs):
        want = reference(graph, {k: v.numpy() for k, v in (arrays[i] | vectors).items()}, "nchw")
        found.append([apart(got[i].numpy(), want), 0.0, str(graph)])
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = (argument.split(":") for argument in sys.argv[1:])
    print(json.dumps({name: globals()[f"case_{name}"](int(count), 0) for name, count in cases}))
