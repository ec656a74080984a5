"""Scale and shift of a layer that is affine per channel at evaluation: computed in float64, confirmed by running it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evonas import primitives
from evonas.errors import EvonasError, UsageError
from evonas.graph.execute import ArrayOps
from evonas.graph.graph import literal
from evonas.layers.affine_form import eval_forms, not_affine
from evonas.layers.module import GraphLayer
from evonas.layers.stateful.base import StatefulLayer
from evonas.layers.statistics import BatchStatistic
from evonas.rng import derive_seed

_TOLERANCE = 1e-9


class Affine(NamedTuple):
    """Evaluation as ``scale * rest(x) + shift``, float64 of shape (C,); rest is None where it is x itself."""

    scale: Tensor
    shift: Tensor
    rest: nn.Module | None = None


def eval_affine(layer: nn.Module) -> Affine:
    """The affine form of a layer's evaluation, with its running statistics as they are.

    For a graph it is proved node by node (``evonas.layers.affine_form``), for a layer with state it is what its class
    declares; both are then confirmed on random tensors in float64.

    Raises:
        UsageError: the layer is not affine per channel at evaluation, the message says which part is not; or scale and
            shift are not finite.
    """
    if isinstance(layer, GraphLayer):
        reason = not_affine(layer.graph)
        if reason:
            raise UsageError(f"{layer.formula} is not affine per channel at evaluation: {reason}")
        if any(s.source_weight != 1.0 for s in layer.statistics if isinstance(s, BatchStatistic)):
            raise UsageError(
                f"{layer.formula} evaluates with statistics of the batch: source_weight is not 1"
            )
        with torch.no_grad():
            scale, shift = _of_graph(layer)
        found = Affine(scale, shift)
    elif isinstance(layer, StatefulLayer):
        with torch.no_grad():
            pair = copy.deepcopy(layer).double().eval_affine()
        if pair is None:
            raise UsageError(
                f"{type(layer).__name__} is not affine per channel at evaluation: {layer.contract.not_affine}"
            )
        found = Affine(pair[0].detach(), pair[1].detach(), layer.eval_rest())
    else:
        raise UsageError(f"{type(layer).__name__} is no layer of evonas, only these are folded")
    if not bool(torch.isfinite(found.scale).all() and torch.isfinite(found.shift).all()):
        raise UsageError("its scale or its shift at evaluation is not finite")
    _confirm(layer, found)
    return found


def _of_graph(layer: GraphLayer) -> tuple[Tensor, Tensor]:
    graph = layer.graph
    forms = eval_forms(graph)
    ops = ArrayOps(primitives.torch_namespace(), layer.layout, eps=layer.eps)
    vector = layer._vector_shape
    one = torch.ones((1,) * len(vector), dtype=torch.float64, device=_device(layer))
    # per id: the factor of x (None for a constant) and what is added to it, in the split view
    values: list[tuple[Tensor | None, Tensor]] = []
    for leaf in graph.leaves:
        constant = literal(leaf)
        if leaf == "x":
            values.append((one, torch.zeros_like(one)))
        elif constant is None:
            values.append((None, getattr(layer, leaf).double().expand(layer.channels).reshape(vector)))
        else:
            values.append((None, one * constant))
    batch = 0
    for here, (op, args, index) in graph.operations():
        given = [values[a] for a in args]
        if index is not None and "b" in index:
            statistic = layer.statistics[batch]
            assert isinstance(statistic, BatchStatistic)
            values.append((None, statistic.average(torch.float64)))
            batch += 1
        elif forms[here].kind == "constant":
            values.append((None, ops.function(op, index)(*[b for _, b in given])))
        elif forms[here].kind == "affine":
            values.append(_through(op, given, ops))
        else:
            values.append((None, one))  # no part of the output, or ``not_affine`` would have said so
    factor, added = values[graph.output]
    scale = (torch.zeros_like(one) if factor is None else factor).expand(vector).reshape(-1)
    shift = added.expand(vector).reshape(-1)
    if layer.weight is not None and layer.bias is not None:
        weight = layer.weight.double()
        return scale * weight, shift * weight + layer.bias.double()
    return scale.clone(), shift.clone()


def _through(op: str, given: list[tuple[Tensor | None, Tensor]], ops: ArrayOps) -> tuple[Tensor, Tensor]:
    """An operation of ``affine_form.KEEPS`` on affine forms."""
    call = ops.function(op, None)
    if op in ("neg", "add", "sub"):  # linear in all arguments together
        factors = [torch.zeros_like(b) if a is None else a for a, b in given]
        return call(*factors), call(*[b for _, b in given])
    (a, b), (c, d) = given
    if op == "mul":
        factor, constant = (a, d) if a is not None else (c, b)
        assert factor is not None
        return call(factor, constant), call(b, d)
    assert op == "div"
    assert a is not None
    return call(a, d), call(b, d)


def _confirm(layer: GraphLayer | StatefulLayer, found: Affine) -> None:
    """Run the layer in float64 and compare."""
    generator = torch.Generator().manual_seed(derive_seed("folding", layer.channels))
    channels = layer.channels
    shape = (2, channels, 3, 2) if layer.layout.name == "nchw" else (2, 5, channels)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(_device(layer)) * 3.0 + 0.5
    column = (1, channels, 1, 1) if layer.layout.name == "nchw" else (1, 1, channels)
    with torch.no_grad():
        twin = copy.deepcopy(layer).double().eval()
        y = twin._eager(x) if isinstance(twin, GraphLayer) else twin(x)
        inner = x if found.rest is None else found.rest(x)
        wanted = inner * found.scale.view(column) + found.shift.view(column)
    error = float(((y - wanted).abs() / (1.0 + y.abs())).max())
    if not error <= _TOLERANCE:
        raise EvonasError(
            f"{layer} was taken for affine at evaluation, but differs by {error:.1e} from its scale and shift",
            hint="a layer of your own: compare its eval_form with its eval_affine",
        )


def _device(layer: nn.Module) -> torch.device:
    for tensor in (*layer.parameters(), *layer.buffers()):
        return tensor.device
    return torch.device("cpu")
