"""The text of ``layer.py`` for a layer with state: the class as it was written, on a base that needs torch alone."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping
from typing import Any

from evonas.errors import PluginError
from evonas.export.copying import Copier, import_of, imports, literal
from evonas.export.folding_text import FOLD
from evonas.export.forms import form_named
from evonas.export.layer_text import Source, class_name, escaped, factory
from evonas.export.statements import Program
from evonas.layers.layer import Layer
from evonas.layers.stateful.contract import StateContract
from evonas.layers.stateful.registry import stateful_entry

_SHAPES = {"btc": "(batch, tokens, channels)", "nchw": "(batch, channels, height, width)"}
_SUFFIX = {"btc": "Tokens", "nchw": "2d"}
#: Methods of the base class that are copied as they are, in order.
_METHODS = ("train_form", "eval_form", "eval_affine", "eval_rest", "with_affine", "folded", "_rows", "_apply")


def stateful_source(
    layer: Layer, *, eps: float, about: str, licence: str, version: str, digest: str
) -> Source:
    """The module of a layer with state.

    The class and what it uses are copied; classes for tokens and images stand behind it, for the layouts that it has.

    Raises:
        PluginError: a class of a plug-in that uses more than torch, the standard library and its own module.
    """
    import torch

    from evonas.layers.stateful.base import _HALF, StatefulLayer

    entry = stateful_entry(layer.stateful)
    cls, contract = entry.load(), entry.contract
    # a candidate of a run or a part of an assembly has a number or a place for a name
    main = class_name(layer.stateful if "/" in layer.name else layer.name)
    classes = {f"{main}{_SUFFIX[layout]}": layout for layout in entry.formulas}
    first = next(name for name, layout in classes.items() if layout == layer.layout)
    folds = contract.affine_at_eval or cls.eval_affine is not StatefulLayer.eval_affine
    own = {*classes, "Layer", "norm_act", *(["fold"] if folds else [])}
    taken = {name: object() for name in (*own, "_SHAPES", *(["_pads_with_zeros"] if folds else []))}
    imported: dict[str, Any] = {
        "Any": Any,
        "Mapping": Mapping,
        "torch": torch,
        "Tensor": torch.Tensor,
        "nn": torch.nn,
    }
    imported |= {"copy": copy} if folds else {}
    taken |= {"StatefulLayer": StatefulLayer, "_HALF": _HALF, **imported}
    copier = Copier(f"layer {layer.stateful}", cls, taken, ("contract", _buffers(contract)))
    methods = [copier.method(StatefulLayer, name) for name in _METHODS]
    copier.add(cls)
    if contract.buffers and not copier.replaced:
        raise PluginError(
            f"layer {layer.stateful} cannot be exported: no class of it is written with contract = ...",
            hint="assign the contract in the body of the class",
        )
    names = sorted({*own, cls.__name__})
    exported = textwrap.fill(", ".join(f'"{n}"' for n in names), 100, break_long_words=False)
    needed = copier.imports | {line for one in imported.items() if (line := import_of(*one))}
    base = _BASE.replace("METHODS", textwrap.indent("\n".join(methods), "    ").rstrip("\n"))
    texts = [
        f"from __future__ import annotations\n\n{imports(needed)}\n\n__all__ = [{exported}]\n\n{_CONSTANTS}",
        base,
        *copier.texts,
        *(_layout_class(name, cls.__name__, layout, eps, layer.affine) for name, layout in classes.items()),
        f"Layer = {first}\n",
        FOLD if folds else "",
        factory(next((n for n, layout in classes.items() if layout == "nchw"), first)),
    ]
    body = "\n\n".join(_spaced(text) for text in texts if text)
    text = _head(layer, contract, about, licence, version, digest) + "\n" + body
    form = form_named(layer.layout)
    ordered = {first: layer.layout, **classes}
    return Source(text, first, ordered, Program(), form, layer.layout, f"{digest} {layer.layout}", folds)


def _spaced(text: str) -> str:
    return text.strip("\n") + "\n"


def _head(layer: Layer, contract: StateContract, about: str, licence: str, version: str, digest: str) -> str:
    parts = []
    for heading, text in contract.lines():
        if heading == "folding" and contract.affine_at_eval:
            text += ", see fold"
        parts.append(_item(f"{'buffer' if heading in ('buffers', '') else heading}: {text}"))
    return f'''"""{layer.stateful}, a layer that keeps state, in PyTorch alone.

What it does to one batch in its warm-up, followed by a weight and a bias per channel:

    {layer.formula}

{chr(10).join(parts)}

{textwrap.fill(escaped(about), 108, break_long_words=False)}
Written by evonas {version}. Licence: {licence}, see LICENSE beside this file.
Digest: {digest}.
"""
'''


def _item(text: str) -> str:
    return textwrap.fill(
        escaped(text), 108, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _buffers(contract: StateContract) -> str:
    """The declaration that stands in the class in place of its contract."""
    rows = [
        f"        {b.name!r}: ({b.shape!r}, {literal(b.initial)}, torch.{'int64' if b.counter else 'float32'}),"
        for b in contract.buffers
    ]
    return "\n".join(["buffers_of = {  # name: shape, initial value, dtype", *rows, "    }"]).replace(
        "'", '"'
    )


def _layout_class(name: str, base: str, layout: str, eps: float, affine: bool) -> str:
    fixed = f'layout="{layout}", **options'
    if not affine:
        fixed = f'**{{"layout": "{layout}", "affine": False, **options}}'
    return f'''
class {name}({base}):
    """The layer on tensors {_SHAPES[layout]}."""

    def __init__(self, num_features: int | tuple[int], eps: float = {eps!r}, **options: Any) -> None:
        if not isinstance(num_features, int):
            (num_features,) = num_features
        super().__init__(num_features, eps=eps, {fixed})
'''


_CONSTANTS = """_HALF = (torch.float16, torch.bfloat16)
_SHAPES = {"btc": "(batch, tokens, channels)", "nchw": "(batch, channels, height, width)"}
"""

_BASE = '''
class StatefulLayer(nn.Module):
    """Shapes, precision, buffers and affine of a layer that keeps state; a subclass writes what it computes.

    The forms see ``x`` as (B, N, C), N tokens or positions, in float32 or float64. Half precision is computed in
    float32, outside of autocast; buffers are float32 or wider, also in a module that is cast.

    Args:
        channels: C. layout: "btc" (batch, tokens, channels) or "nchw" (batch, channels, height, width).
        eps: of the roots. affine: whether there are weight and bias.
        apply_act: without it the layer is weight and bias alone. drop_layer: makes a module for the result.
        sizes: values of names in the shapes of buffers, except C.
        ignored: what other layers of its kind take, such as act_layer.
    """

    buffers_of: dict[str, tuple[tuple[Any, ...], float, torch.dtype]] = {}

    def __init__(
        self,
        channels: int,
        *,
        layout: str = "btc",
        eps: float = 1e-5,
        affine: bool = True,
        apply_act: bool = True,
        drop_layer: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        sizes: Mapping[str, int] | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        if channels < 1 or not 0 <= eps <= 1 or layout not in _SHAPES:
            raise ValueError(
                f"{channels} channels, eps={eps}, layout {layout}: need 1 or more, 0 to 1, btc or nchw"
            )
        self.channels = self.num_features = channels
        self.layout, self.eps, self.apply_act = layout, eps, apply_act
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(channels, **made)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels, **made)) if affine else None
        known = {"C": channels, **(sizes or {})}
        for name, (shape, initial, kind) in self.buffers_of.items() if apply_act else ():
            size = [known[s] if isinstance(s, str) else s for s in shape]
            self.register_buffer(name, torch.full(size, initial, dtype=kind, device=device))
        self.drop = drop_layer() if drop_layer is not None else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The layer on x. mask: bool, True where there is padding, (B, T) or (B, H, W): no part of statistics."""
        at = 1 if self.layout == "nchw" else -1
        if x.dim() != len(_SHAPES[self.layout].split(",")) or x.shape[at] != self.channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}, the layer of {self.channels} channels needs {_SHAPES[self.layout]}"
            )
        needed = x.shape[:2] if self.layout == "btc" else (x.shape[0], *x.shape[2:])
        if mask is not None and (mask.dtype != torch.bool or mask.shape != needed):
            raise ValueError(
                f"a mask {tuple(mask.shape)} in {mask.dtype}: it has to be {tuple(needed)} and bool, True where there "
                "is padding"
            )
        with torch.autocast(device_type=x.device.type, enabled=False):
            rows = self._rows(x.float() if x.dtype in _HALF else x)
            if not self.apply_act:
                y = self.with_affine(rows)
            elif self.training:
                kept = None if mask is None else (~mask).reshape(rows.shape[0], -1, 1).to(rows.dtype)
                y = self._step(rows, kept)
            else:
                y = self.eval_form(rows)
            y = y.to(x.dtype)
        y = y if self.layout == "btc" else y.transpose(1, 2).reshape(x.shape)
        return y if self.drop is None else self.drop(y)

    @torch.compiler.disable
    def _step(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """``train_form``. A compiled graph would lose what a backward pass writes to buffers, and would compute
        gradients from buffers as they are after the step."""
        return self.train_form(x, kept)

METHODS
'''
