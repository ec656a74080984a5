"""``test_layer.py`` and ``expected.json``: the bundle's own test against what evonas computed when it was written.

In a part of an assembly the test has the name of the part.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evonas.export.layer_text import Source
from evonas.export.state import from_evonas_state
from evonas.rng import Draws

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evonas.layers.layer import Layer

CHANNELS, GROUPS = 8, 2
SHAPES = {"nchw": (3, CHANNELS, 3, 4), "btc": (3, 5, CHANNELS)}


def record(layer: Layer, source: Source, eps: float) -> dict[str, Any]:
    """Inputs, and what a module of evonas makes of them: outputs, gradients and running averages, in float64.

    A step in training and one in evaluation, of a layer with state several in training, with a warm-up of two if it
    has one; numbers as texts that read back as the same float.
    """
    import torch

    from evonas.layers.stateful.making import options_of

    options: dict[str, Any] = {"eps": eps}
    if layer.stateful and "warm_up" in options_of(layer.stateful):
        options["warm_up"] = 2
    module = layer.module(CHANNELS, backend="eager", groups=GROUPS, **options).double()
    formula = layer.stateful or layer.graph
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.3 * _numbers(parameter.shape, name))
    made: dict[str, Any] = {
        "schema": "evonas.expected/1",
        "formula": layer.formula,
        "class": source.name,
        "arguments": {"num_features": CHANNELS, **options},
        "state": _plain(from_evonas_state(module.state_dict(), formula, layer.layout)),
        "cases": [],
    }
    if source.form.grouped:
        made["arguments"]["groups"] = GROUPS
    shape = SHAPES[layer.layout]
    for number, training in enumerate([*[True] * (7 if layer.stateful else 1), False]):
        module.train(training)
        which = f"{training}{number if training and number else ''}"
        x = _numbers(shape, f"x{which}").requires_grad_()
        dy = _numbers(shape, f"dy{which}")
        y = module(x)
        names = [name for name, _ in module.named_parameters()]
        found = torch.autograd.grad(y, [x, *module.parameters()], dy, allow_unused=True)
        gradients = {n: g for n, g in zip(["x", *names], found, strict=True) if g is not None}
        made["cases"].append(
            {
                "training": training,
                **_plain({"x": x, "dy": dy, "y": y}),
                "gradients": _plain(gradients),
                "state_after": _plain(from_evonas_state(module.state_dict(), formula, layer.layout)),
            }
        )
    return made


def expected_text(recorded: dict[str, Any]) -> str:
    """JSON with one tensor a line."""
    return json.dumps(recorded, indent=1).replace("\n    ", " ").replace("[ ", "[") + "\n"


def _numbers(shape: tuple[int, ...] | torch.Size, what: str) -> Tensor:
    import torch

    draws = Draws("export", what)
    count = 1
    for n in shape:
        count *= n
    values = [sum(draws.uniform() for _ in range(12)) - 6.0 for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(tuple(shape))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        n: {"shape": list(t.shape), "values": t.detach().double().flatten().tolist()}
        for n, t in tensors.items()
    }


TEST = '''"""Tests the layer in this folder against what evonas computed when it was written.

As a script, or with pytest. It needs torch alone.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
from pathlib import Path

import torch


def load(path):
    """layer.py beside this file, under a name that no other folder's has."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{hash(str(path)) & 0xFFFFFFFF:x}_layer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Layer = load(Path(__file__).resolve().with_name("layer.py")).Layer
EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))
TOLERANCE = {torch.float64: 1e-9, torch.float32: EXPECTED["float32_tolerance"]}


def tensor(entry, dtype):
    return torch.tensor(entry["values"], dtype=torch.float64).reshape(entry["shape"]).to(dtype)


def made(dtype=torch.float32):
    layer = Layer(**EXPECTED["arguments"]).to(dtype)
    layer.load_state_dict({name: tensor(entry, dtype) for name, entry in EXPECTED["state"].items()})
    return layer


def close(found, entry, dtype, what):
    wanted = tensor(entry, torch.float64)
    error = (found.detach().double() - wanted).abs().max() / (1 + wanted.abs().max())
    assert error <= TOLERANCE[dtype], f"{what} in {dtype}: off by {error:.2g}, allowed are {TOLERANCE[dtype]:.2g}"


def test_outputs_and_gradients():
    for dtype in (torch.float64, torch.float32):
        layer = made(dtype)
        for case in EXPECTED["cases"]:
            layer.train(case["training"])
            x = tensor(case["x"], dtype).requires_grad_()
            y = layer(x)
            close(y, case["y"], dtype, "y")
            named = {"x": x, **dict(layer.named_parameters())}
            names = list(case["gradients"])
            found = torch.autograd.grad(y, [named[n] for n in names], tensor(case["dy"], dtype))
            for name, gradient in zip(names, found):
                close(gradient, case["gradients"][name], dtype, f"the gradient of {name}")
            for name, value in layer.state_dict().items():
                close(value, case["state_after"][name], dtype, name)


def test_state():
    layer = made()
    assert list(layer.state_dict()) == EXPECTED["state_keys"]
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = Layer(**EXPECTED["arguments"])
    other.load_state_dict(torch.load(file, weights_only=True))
    x = tensor(EXPECTED["cases"][0]["x"], torch.float32)
    for one in (other, copy.deepcopy(layer)):
        assert torch.equal(one.eval()(x), layer.eval()(x))


def test_half_precision():
    layer = made().eval()
    x = tensor(EXPECTED["cases"][-1]["x"], torch.bfloat16)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x.float()).to(torch.bfloat16))  # computed in float32, rounded once


if __name__ == "__main__":
    for test in (test_outputs_and_gradients, test_state, test_half_precision):
        test()
        print(f"{test.__name__}: ok")
'''
