"""The text of ``layer.py``: the layer as a PyTorch module that needs torch alone."""

from __future__ import annotations

import builtins
import keyword
import re
import textwrap
from dataclasses import dataclass

from evonas.export.folding_text import EVAL_AFFINE, FOLD
from evonas.export.forms import INITIAL, Form, forms_of
from evonas.export.statements import Program, program
from evonas.graph import Graph
from evonas.layers.affine_form import not_affine

_SHAPES = {
    "nchw": "(batch, channels, height, width)",
    "btc": "(batch, tokens, channels)",
    "last": "(..., channels): any shape whose last axis are the channels",
}
#: Names that layer.py imports.
_TAKEN = ("Any", "Path", "Tensor")
_SIZES = {"channels": "num_features", "groups": "self.groups", "1": "1"}


@dataclass(frozen=True)
class Source:
    """layer.py and what else has to be known of it.

    name: of the class in the layout of the layer; forms: class -> layout it takes. The first one holds the
    computation. program: the statements. kernel_layout: what kernel.py is generated for. identity: what kernel.py has
    to say that it is for. folds: whether there is ``fold``.
    """

    text: str
    name: str
    classes: dict[str, str]
    program: Program
    form: Form
    kernel_layout: str
    identity: str
    folds: bool


def escaped(text: str) -> str:
    """A text as it has to stand in a docstring in triple quotes."""
    return text.replace("\\", "\\\\").replace('"""', "'''")


def class_name(name: str) -> str:
    """A class name from a layer's: evonorm_s0 -> EvonormS0, run/13809 -> Layer13809, none -> LayerNone."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    words = [w for w in re.split(r"[^A-Za-z0-9]+", last) if w]
    made = "".join(w[:1].upper() + w[1:] for w in words)
    if not made or not made[0].isalpha():
        made = "Layer" + made
    if keyword.iskeyword(made) or hasattr(builtins, made) or made in _TAKEN:
        made = "Layer" + made
    return "NormAct" if made == "Layer" else made


def layer_source(
    graph: Graph,
    name: str,
    layout: str,
    *,
    eps: float,
    groups: int,
    about: str,
    licence: str,
    digest: str,
    version: str,
    affine: bool = True,
) -> Source:
    """The module of a layer.

    Args:
        layout: which of two possible classes is called ``Layer``.
        eps, groups, affine: defaults of the constructor.
        about: where the layer is from, a sentence or two.

    Raises:
        PluginError: a primitive whose source cannot be copied.
    """
    graph = graph.active()
    form, second = forms_of(graph, layout)
    made = program(graph, form)
    first = class_name(name)
    classes = {first: "nchw" if form.name == "nchw" else "btc"}
    main = first
    if second is not None:
        if layout == "nchw":
            first, other = f"{main}Tokens", main
        else:
            other = f"{main}2d"
        classes = {first: "btc", other: "nchw"}
    kernel_layout = "nchw" if form.name == "nchw" else "btc"
    identity = f"{digest} {kernel_layout}"
    written = _Text(graph, form, made, classes, first, main, eps, groups, affine)
    text = written.write(about, licence, digest, version, identity)
    return Source(text, main, classes, made, form, kernel_layout, identity, written.folds)


class _Text:
    def __init__(
        self, graph: Graph, form: Form, made: Program, classes: dict[str, str], first: str, main: str,
        eps: float, groups: int, affine: bool,
    ) -> None:  # fmt: skip
        self.graph, self.form, self.made = graph, form, made
        self.classes, self.first, self.main = classes, first, main
        self.eps, self.groups, self.affine = eps, groups, affine
        self.folds = not_affine(graph) is None

    def write(self, about: str, licence: str, digest: str, version: str, identity: str) -> str:
        formula = str(self.graph)
        shown = "\n".join(textwrap.wrap(formula, 96, break_long_words=False, break_on_hyphens=False))
        head = f'''"""A normalization-activation layer, in PyTorch alone.

{textwrap.indent(shown, "    ")}

{self._glossary()}

{textwrap.fill(escaped(about), 108, break_long_words=False)}
Written by evonas {version}; digest of the formula {digest}. Licence: {licence}, see LICENSE beside this file.
"""
'''
        math_import = "import math\n" if any("math." in f for f in self.made.functions.values()) else ""
        copy_import = "import copy\n" if self.folds else ""
        names = sorted([*self.classes, "Layer", "norm_act", *(["fold"] if self.folds else [])])
        imports = f"""
from __future__ import annotations

{copy_import}import importlib.util
{math_import}import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [{", ".join(f'"{n}"' for n in names)}]

_HALF = (torch.float16, torch.bfloat16)
#: Digest and layout of the formula. kernel.py has the same, or is of another layer.
_IDENTITY = "{identity}"
"""
        functions = "\n\n".join(text.strip("\n") + "\n" for text in self.made.functions.values())
        blocks = [
            imports,
            functions,
            _LOAD_KERNEL,
            self._class(),
            self._second(),
            FOLD if self.folds else "",
            self._factory(),
        ]
        return head + "\n" + "\n\n".join(b.strip("\n") + "\n" for b in blocks if b)

    def _glossary(self) -> str:
        words = []
        if self.graph.index_sets:
            groups = "; c/g is the channels of one group" if self.form.grouped else ""
            words.append(f"Index sets name the axes that a statistic is taken over{groups}.")
        starts = [f"{p} starts at {INITIAL[p]:.0f}" for p in sorted(self.made.parameters)]
        if starts:
            words.append(f"{' and '.join(starts)}.")
        return textwrap.fill(" ".join(["followed by a weight and a bias per channel.", *words]), 108)

    def _class(self) -> str:
        made, form = self.made, self.form
        stats = made.statistics
        lines = [f"\nclass {self.first}(nn.Module):", f'    """{self._summary()}', ""]
        lines += textwrap.indent(self._arguments(), "    ").splitlines()
        lines += ['    """', ""]
        if self.folds:
            lines += [f'    layout = "{self.classes[self.first]}"', ""]
        lines += textwrap.indent(self._constructor(), "    ").splitlines()
        lines += ["", "    def forward(self, x: Tensor) -> Tensor:"]
        if len(self.classes) == 1:
            lines += textwrap.indent(f"{self._forward()}\n{_DROP}", "        ").splitlines()
        else:
            lines += textwrap.indent(f"y = self._layer(x)\n{_DROP}", "        ").splitlines()
            lines += ["", "    def _layer(self, x: Tensor) -> Tensor:"]
            lines += ['        """The layer without what drop_layer made."""']
            lines += textwrap.indent(f"{self._forward()}\nreturn y", "        ").splitlines()
        lines += [
            "",
            "    def _formula(self, x: Tensor) -> Tensor:",
            '        """The formula, in float32 or wider."""',
        ]
        lines += textwrap.indent("\n".join(made.lines), "        ").splitlines()
        lines += ["", "    def _affine(self, y: Tensor) -> Tensor:",
                  '        """Weight and bias per channel."""',
                  "        if self.weight is None or self.bias is None:", "            return y"]  # fmt: skip
        view = ".view(1, -1, 1, 1)" if form.name == "nchw" else ""
        lines += [f"        return y * self.weight.to(y.dtype){view} + self.bias.to(y.dtype){view}"]
        if self.folds:
            shape = {"nchw": "(1, self.num_features, 1, 1)", "btc": "(1, 1, self.num_features)"}
            text = EVAL_AFFINE.replace("SHAPE", shape.get(form.name, "(1, self.num_features)"))
            lines += ["", *textwrap.indent(text.strip("\n"), "    ").splitlines()]
        if stats:
            lines += ["", *textwrap.indent(_AVERAGE, "    ").splitlines()]
            names = ", ".join(f'"{s.name}"' for s in stats) + ("," if len(stats) == 1 else "")
            lines += ["", *textwrap.indent(_APPLY.replace("NAMES", names), "    ").splitlines()]
        lines += ["", "    def extra_repr(self) -> str:",
                  '        return f"{self.num_features}, ' + ("groups={self.groups}, " if form.grouped else "")
                  + 'eps={self.eps}, apply_act={self.apply_act}"']  # fmt: skip
        return "\n".join(lines)

    def _summary(self) -> str:
        text = f"The layer on tensors {_SHAPES[self.form.name]}."
        if self.made.statistics:
            text += " Keeps running averages for evaluation."
        return text

    def _arguments(self) -> str:
        lines = [
            "Statistics are computed in float32 for half-precision input; the result has the input's dtype.",
            "",
            "Args:",
            "    num_features: channels; (channels,) will do too, as in nn.LayerNorm.",
            "    eps: of second moments and guarded quotients, from 0 to 1.",
        ]
        if self.form.grouped:
            lines += [
                "    groups: the largest count up to it that divides the channels is taken.",
                "    group_size: channels per group instead; must divide the channels.",
            ]
        if self.made.statistics:
            lines += ["    momentum: weight of a new batch in the running averages."]
        lines += [
            "    affine: whether there are weight and bias.",
            "    apply_act: without it the layer is weight and bias alone, for places with no activation.",
            "    drop_layer: makes a module that is applied to the result.",
            "    ignored: what other layers of its kind take, such as act_layer.",
        ]
        return "\n".join(lines)

    def _constructor(self) -> str:
        form, stats = self.form, self.made.statistics
        options = [f"eps: float = {self.eps!r}", "*"]
        if form.grouped:
            options += [f"groups: int = {self.groups}", "group_size: int | None = None"]
        if stats:
            options += ["momentum: float = 0.1"]
        options += [
            f"affine: bool = {self.affine}", "apply_act: bool = True", "drop_layer: Any = None",
            "device: Any = None", "dtype: torch.dtype | None = None", "**ignored: Any",
        ]  # fmt: skip
        lines = ["def __init__(", "    self,", "    num_features: int | tuple[int],"]
        lines += [f"    {option}," for option in options]
        lines += [
            ") -> None:", "    super().__init__()",
            "    if not isinstance(num_features, int):", "        (num_features,) = num_features",
            "    if num_features < 1 or not 0 <= eps <= 1:",
            '        raise ValueError(f"num_features={num_features}, eps={eps}: need at least 1, and 0 to 1")',
            "    self.num_features, self.eps, self.apply_act = num_features, eps, apply_act",
        ]  # fmt: skip
        if form.grouped:
            lines += [
                "    if group_size is not None:",
                "        if group_size < 1 or num_features % group_size:",
                '            raise ValueError(f"group_size={group_size} does not divide {num_features} channels")',
                "        groups = num_features // group_size",
                "    groups = max(1, min(groups, num_features))",
                "    self.groups = next(n for n in range(groups, 0, -1) if num_features % n == 0)",
            ]
        if stats:
            lines += ["    self.momentum = momentum"]
        lines += ['    made: dict[str, Any] = {"device": device, "dtype": dtype}']
        for p in sorted(self.made.parameters):
            size = "1" if p.startswith("s") else "num_features"
            init = "ones" if INITIAL[p] else "zeros"
            lines += [f"    self.{p} = nn.Parameter(torch.{init}({size}, **made)) if apply_act else None"]
        lines += [
            "    self.weight = nn.Parameter(torch.ones(num_features, **made)) if affine else None",
            "    self.bias = nn.Parameter(torch.zeros(num_features, **made)) if affine else None",
        ]
        if stats:
            lines += ["    if apply_act:"]
        for s in stats:
            init = "ones" if s.initial else "zeros"
            size = _SIZES[s.size]
            lines += [f'        self.register_buffer("{s.name}", torch.{init}({size}, device=device))']
        lines += ["    self.drop = drop_layer() if drop_layer is not None else None"]
        return "\n".join(lines)

    def _forward(self) -> str:
        form = self.form
        if form.name == "last":
            check = "x.dim() < 2 or x.shape[-1] != self.num_features"
        else:
            at = 1 if form.name == "nchw" else 2
            check = f"x.dim() != {form.rank} or x.shape[{at}] != self.num_features"
        shape = _SHAPES[form.name].split(":")[0]
        return f"""if {check}:
    raise ValueError(
        f"input of shape {{tuple(x.shape)}}, the layer of {{self.num_features}} channels needs "
        "{shape}"
    )
if _kernel is not None and _kernel.takes(self, x):
    y = _kernel.run(self, x)
else:
    # autocast must not send single steps to half precision
    with torch.autocast(device_type=x.device.type, enabled=False):
        wide = x.float() if x.dtype in _HALF else x
        y = self._affine(self._formula(wide) if self.apply_act else wide).to(x.dtype)"""

    def _second(self) -> str:
        if len(self.classes) == 1:
            return f"\nLayer = {self.main}"
        other = next(n for n in self.classes if n != self.first)
        layout = '    layout = "nchw"\n\n' if self.folds else ""
        return f'''

class {other}({self.first}):
    """The same layer on tensors (batch, channels, height, width)."""

{layout}    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"input of shape {{tuple(x.shape)}}, need (batch, channels, height, width)")
        y = self._layer(x.movedim(1, -1)).movedim(-1, 1)
        {_DROP}


Layer = {self.main}'''

    def _factory(self) -> str:
        return factory(next((n for n, layout in self.classes.items() if layout == "nchw"), self.main))


def factory(made: str) -> str:
    """The function that timm takes, for the class of that name."""
    return f'''

def norm_act(num_features: int, *args: Any, **kwargs: Any) -> {made}:
    """A layer in the place of a norm and an activation; a function, because timm takes no other classes than its own.

    timm.create_model("resnetv2_50", norm_layer=norm_act)
    """
    return {made}(num_features, *args, **kwargs)'''


_DROP = "return y if self.drop is None else self.drop(y)"

_LOAD_KERNEL = '''

def _load_kernel() -> Any:
    """kernel.py beside this file, where triton and a device for it are there."""
    path = Path(__file__).with_name("kernel.py")
    device = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    if not device or not path.exists() or importlib.util.find_spec("triton") is None:
        return None
    spec = importlib.util.spec_from_file_location(f"{__name__}_kernel", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if getattr(module, "IDENTITY", None) != _IDENTITY:
        warnings.warn(f"{path} is of another layer and is not used: delete it, or export again", stacklevel=2)
        return None
    return module


_kernel = _load_kernel()
'''

_AVERAGE = '''@torch.no_grad()
def _average(self, running: Tensor, seen: Tensor, shape: tuple[int, ...]) -> None:
    """Take the value of one batch into a running average."""
    sizes = running.view(shape).shape
    running.lerp_(seen.expand(sizes).reshape(running.shape).to(running.dtype), self.momentum)'''

_APPLY = '''def _apply(self, fn: Any, recurse: bool = True) -> Any:
    """Moves and casts as usual, but running averages stay in float32: squares overflow in half precision."""
    kept = {name: getattr(self, name) for name in (NAMES) if hasattr(self, name)}
    super()._apply(fn, recurse)
    for name, buffer in kept.items():
        if getattr(self, name).dtype in _HALF:
            setattr(self, name, buffer.to(getattr(self, name).device))
    return self'''
