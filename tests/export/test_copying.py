"""What of a class comes along into an exported file, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest
import torch
from export_support import load
from torch import Tensor

import evonas
from evonas import errors
from evonas.errors import PluginError, UsageError
from evonas.export.copying import Copier, imports
from evonas.layers import STATEFUL, Buffer, StateContract, StatefulLayer, stateful_layer

LIMITS = (-math.inf, math.inf, float("nan"))
NAMED = numpy.clip


class Contracted:
    """Its contract has an annotation."""

    contract: ClassVar[StateContract] = None  # type: ignore[assignment]


def scale(x: Tensor) -> Tensor:
    """A function that a method and a local name of the class are called like."""
    return x * 2


class Same:
    """Names of methods, locals and arguments are not those of the module."""

    def scale(self, x: Tensor) -> Tensor:
        return scale(x)

    def other(self, x: Tensor) -> Tensor:
        scale = x + 1
        return scale


class Catching:
    """x"""

    def call(self, items: list[Any]) -> Any:
        try:
            return [item + 1 for item in items]
        except ValueError as error:
            raise RuntimeError(str(error)) from error


class Raising:
    """x"""

    layout: Any

    def check(self, x: Tensor) -> None:
        if x.dim() != 3:
            raise UsageError(
                f"{tuple(x.shape)} for {self.layout.name}" + " and so on: (",
                hint=f"use {self.layout.name} or " + str(x.dim()),
            )
        raise errors.UsageError(message="é " + self.layout.name)


class Limited:
    """x"""

    def call(self, x: Tensor) -> Tensor:
        return x.clamp(LIMITS[0], LIMITS[1]) + LIMITS[2]


class Foreign:
    """x"""

    def call(self, x: Any) -> Any:
        return NAMED(x)


class Reading:
    """x"""

    layout: Any

    def call(self) -> Any:
        return self.layout.dims


def fold(x: Tensor) -> Tensor:
    """A function of the name of one that the file has."""
    return x.flatten()


class Folding:
    """x"""

    def call(self, x: Tensor) -> Tensor:
        return copy.copy(fold(x))


def run(thing: type, taken: Mapping[str, Any] | None = None) -> tuple[Copier, dict[str, Any]]:
    """Copy a class and execute what was copied, by itself."""
    copier = Copier("layer test", thing, taken or {}, ("contract", "buffers_of = {1: 2}"))
    copier.add(thing)
    written: dict[str, Any] = {}
    exec(
        f"from __future__ import annotations\n{imports(copier.imports)}\n" + "\n".join(copier.texts), written
    )
    return copier, written


def test_a_contract_with_an_annotation_is_replaced() -> None:
    copier, written = run(Contracted)
    assert copier.replaced
    assert written["Contracted"].buffers_of == {1: 2}
    assert "contract" not in copier.texts[0].partition("buffers_of")[2]
    assert not run(Same)[0].replaced


def test_names_of_methods_and_locals_hide_nothing() -> None:
    _, written = run(Same)
    made = written["Same"]()
    x = torch.ones(2)
    assert torch.equal(made.scale(x), x * 2)
    assert torch.equal(made.other(x), x + 1)
    assert written["scale"] is not scale
    assert run(Catching)[1]["Catching"]().call([1]) == [2]


def test_errors_keep_their_message_alone() -> None:
    _, written = run(Raising)
    made = written["Raising"]()
    made.layout = "btc"
    with pytest.raises(ValueError, match=r"^\(2,\) for btc and so on: \($"):
        made.check(torch.ones(2))
    with pytest.raises(ValueError, match=r"^é btc$"):
        made.check(torch.ones(2, 1, 1))


def test_infinities_are_written_as_python_reads_them() -> None:
    copier, written = run(Limited)
    assert 'LIMITS = (float("-inf"), float("inf"), float("nan"))\n' in copier.texts
    assert written["Limited"]().call(torch.zeros(1)).isnan().all()


@pytest.mark.parametrize(
    ("thing", "taken", "words"),
    [
        (Foreign, {}, "it uses NAMED, a"),
        (Reading, {}, "it uses layout.dims"),
        (Folding, {"fold": object()}, "two different things are called fold"),
    ],
)
def test_what_is_refused(thing: type, taken: dict[str, Any], words: str) -> None:
    with pytest.raises(PluginError, match=words):
        run(thing, taken)


def test_functions_of_other_libraries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied, they would come without what they rest on, and under another licence."""
    import packaging.utils

    monkeypatch.setitem(globals(), "NAMED", packaging.utils.canonicalize_name)
    monkeypatch.setitem(globals(), "canonicalize_name", packaging.utils.canonicalize_name)
    with pytest.raises(PluginError, match=r"it uses NAMED, a function of packaging\.utils"):
        run(Foreign)


def registered(name: str, body: Callable[[], type]) -> None:
    stateful_layer(name, formulas={"btc": "x"}, source=r"a test \xi with \"\"\" in it" + '"""')(body())


def declared(initial: float) -> StateContract:
    return StateContract(
        buffers=(Buffer("least", ("C",), initial, "smallest so far"),), warm_up="none", train_formula="x",
        eval_formula="x", gradient_rule="the derivative", derivative=True, affine_at_eval=True,
    )  # fmt: skip


def test_a_file_with_an_infinite_buffer_and_a_backslash(tmp_path: Path) -> None:
    class Least(StatefulLayer):
        """x"""

        contract: ClassVar[StateContract] = declared(math.inf)

        def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
            self.least.copy_(torch.minimum(self.least, x.detach().amin((0, 1))))
            return self.with_affine(x)

        def eval_affine(self) -> tuple[Tensor, Tensor]:
            return self.folded(torch.ones_like(self.least))

    registered("test_least", lambda: Least)
    try:
        made = load(evonas.export("test_least", out=tmp_path / "b").path)
    finally:
        del STATEFUL["test_least"]
    assert made.Layer(3).least.tolist() == [math.inf] * 3
    assert r"\xi" in made.__doc__


def test_a_module_that_does_not_import_torch_itself(tmp_path: Path) -> None:
    """The declaration of buffers, which stands in place of the contract, names it."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from evonas.layers import Buffer, StateContract, StatefulLayer, stateful_layer\n"
        '@stateful_layer("test_bare", formulas={"btc": "x"}, source="a test")\n'
        "class Bare(StatefulLayer):\n"
        '    """x"""\n'
        '    contract = StateContract(buffers=(Buffer("one", ("C",), 1.0, "ones"),), warm_up="none",\n'
        '        train_formula="x", eval_formula="x", gradient_rule="the derivative", derivative=True,\n'
        "        affine_at_eval=True)\n"
        "    def train_form(self, x, kept):\n"
        "        return self.with_affine(x)\n"
        "    def eval_affine(self):\n"
        "        return self.folded(self.one)\n"
    )
    try:
        made = evonas.export("test_bare", out=tmp_path / "b", plugins=[str(plugin)])
        assert load(made.path).Layer(3).one.tolist() == [1.0] * 3
    finally:
        STATEFUL.pop("test_bare", None)


def test_a_contract_from_elsewhere_is_refused(tmp_path: Path) -> None:
    class Late(StatefulLayer):
        """x"""

        def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
            return self.with_affine(x)

        def eval_affine(self) -> tuple[Tensor, Tensor]:
            return self.folded(torch.ones_like(self.least))

    Late.contract = declared(0.0)
    registered("test_late", lambda: Late)
    try:
        with pytest.raises(PluginError, match="no class of it is written with contract = "):
            evonas.export("test_late", out=tmp_path / "b")
    finally:
        del STATEFUL["test_late"]


def test_a_name_of_the_file_is_refused(tmp_path: Path) -> None:
    class Named(StatefulLayer):
        """x"""

        contract = declared(0.0)

        def train_form(self, x: Tensor, kept: Tensor | None) -> Tensor:
            return self.with_affine(x)

        def eval_affine(self) -> tuple[Tensor, Tensor]:
            return self.folded(fold(torch.ones_like(self.least)))

    registered("test_named", lambda: Named)
    try:
        with pytest.raises(PluginError, match="two different things are called fold"):
            evonas.export("test_named", out=tmp_path / "b")
    finally:
        del STATEFUL["test_named"]
