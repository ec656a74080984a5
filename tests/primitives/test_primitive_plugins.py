"""Plugging in an operation: what is accepted, and what each broken definition is told."""

from __future__ import annotations

import numpy as np
import pytest
from evonas.primitives import primitive, registry
from evonas.search_spaces import get

from evonas import primitives
from evonas.errors import PluginError
from evonas.graph import Graph, differentiate, fingerprint
from evonas.testing import check_primitive, primitive_violations


@pytest.fixture(autouse=True)
def _clean():
    before = set(primitives.names())
    yield
    for name in set(primitives.names()) - before:
        primitives.unregister(name)


def good(name="acme_softsign", **changes):
    fields = {
        "gradient": lambda ops, g, y, a: (ops.div(g, ops.square(ops.add(ops.const(1.0), ops.abs(a)))),),
        "triton": "{0} / (1 + tl.abs({0}))",
        "latex": r"\mathrm{{softsign}}\left({0}\right)",
        "source": "Acme",
        **changes,
    }

    @primitive(name, **fields)
    def softsign(xp, a):
        """a / (1 + |a|)."""
        return a / (xp.abs(a) + 1.0)

    return softsign


def test_a_good_one_is_usable_everywhere():
    made = good()
    graph = Graph.parse("x * acme_softsign(v1 * x)")
    assert str(graph) == "x * acme_softsign(v1 * x)"
    assert set(differentiate(graph)) == {"x", "v1"}
    assert fingerprint(graph).distance(fingerprint(Graph.parse("x * (v1 * x / (1 + abs(v1 * x)))"))) < 1e-9
    space = get("norm_act", extra_primitives=("acme_softsign",))
    assert "acme_softsign" in space.describe()["primitives"]
    assert made.summary == "a / (1 + |a|)."
    check_primitive(made)


def test_registering_the_same_again_changes_nothing():
    good()
    names = primitives.names()
    good()
    assert primitives.names() == names


def test_a_moment_plugs_in():
    def adjoint(ops, g, y, a, index):
        return ops.mul(ops.mul(ops.const(2.0), a), ops.mean(g, index))

    @primitive("acme_power", kind="moment", source="Acme", flops=2, gradient=adjoint)
    def power(xp, a, axes, eps):
        """Mean square."""
        return xp.mean(a * a, axes)

    assert str(Graph.parse("x / acme_power[h,w](x)")) == "x / acme_power[w,h](x)"


def refuse(message, name="acme_bad", eager=lambda xp, a: a / (xp.abs(a) + 1.0), **changes):
    fields = {
        "gradient": lambda ops, g, y, a: (ops.div(g, ops.square(ops.add(ops.const(1.0), ops.abs(a)))),),
        "source": "Acme",
        **changes,
    }
    before = list(primitives.all_primitives())
    with pytest.raises(PluginError, match=message) as caught:
        primitive(name, **{k: v for k, v in fields.items() if v is not None})(eager)
    assert list(primitives.all_primitives()) == before  # nothing half registered
    return str(caught.value)


def raising(xp, a):
    raise KeyError("secret sauce")


def shrinking(xp, a):
    return xp.mean(a, (0,))


def adding(xp, a, b):
    return a + b


def writing(xp, a):
    a[...] = a / (xp.abs(a) + 1.0)
    return a


def widening(xp, a):
    return (a / (xp.abs(a) + 1.0)) * (np.float64(1.0) if isinstance(a, np.ndarray) else 1.0)


BROKEN = {
    "raises": ("KeyError.*secret sauce", {"eager": raising}),
    "lies about its shape": (r"gives shape \(1, 2, 2, 2, 3\), needed is \(3, 2, 2, 2, 3\)", {"eager": shrinking}),
    "moment keeps its axes": (
        r"gives shape .*, needed is \(1, 2, 2, 1, 1\)",
        {"kind": "moment", "eager": lambda xp, a, axes, eps: a, "gradient": lambda ops, g, y, a, i: (g,)},
    ),
    "wrong gradient": ("differs by .* from central differences", {"gradient": lambda ops, g, y, a: (g,)}),
    "gradient not made from g": ("not made from g", {"gradient": lambda ops, g, y, a: (ops.const(0.5),)}),
    "gradient in python": (r"ops\.<primitive>", {"gradient": lambda ops, g, y, a: (g / (1 + abs(a)) ** 2,)}),
    "one adjoint for two": (
        r"gives 1 adjoint\(s\), needed are 2",
        {"arity": 2, "eager": adding, "gradient": lambda ops, g, y, a, b: (g,)},
    ),
    "numpy alone": ("torch", {"eager": lambda xp, a: np.divide(a, np.abs(a) + 1.0)}),
    "torch alone": (r"xp\.<function> alone", {"eager": lambda xp, a: a / (a.detach().abs() + 1.0)}),
    "wide": ("turns float32 into float64", {"eager": widening}),
    "writes to its input": ("writes to its arguments|in-place", {"eager": writing}),
    "not commutative": (
        "drop commutative=True",
        {"arity": 2, "commutative": True, "eager": lambda xp, a, b: a - b,
         "gradient": lambda ops, g, y, a, b: (g, ops.neg(g))},
    ),
    "undefined for negatives": (
        "gives nan at",
        {"eager": lambda xp, a: xp.log(a), "gradient": lambda ops, g, y, a: (ops.div(g, a),)},
    ),
    "unguarded at zero": (
        "must be finite wherever the value is",
        {"eager": lambda xp, a: xp.sqrt(xp.abs(a)),
         "gradient": lambda ops, g, y, a: (ops.mul(ops.const(0.5), ops.mul(g, ops.div(ops.sign(a), y))),)},
    ),
    "missing source": ("has no source=", {"source": None}),
    "empty source": ("source is ' '", {"source": " "}),
    "missing gradient": ("has no gradient=", {"gradient": None}),
    "unknown field": ("unexpected keyword argument 'colour'", {"colour": "red"}),
    "three arguments": ("arity 3", {"arity": 3}),
    "name of an input": ("cannot be used in a formula", {"name": "v1"}),
    "capital name": ("cannot be used in a formula", {"name": "Swish"}),
    "built-in name": ("defined twice", {"name": "tanh"}),
    "triton statement": ("is not an expression", {"triton": "y = {0}"}),
    "triton function": (r"write functions as tl\.", {"triton": "libdevice({0})"}),
    "triton operand": ("operands are", {"triton": "{0} + {1}"}),
    "latex with single braces": ("double each brace|braces do not match", {"latex": r"\mathrm{softsign}{0}"}),
    "formula that does not parse": ("does not parse|which parses as", {"formula": "soft sign {0}"}),
    "constant": ("use the number itself", {"kind": "constant", "arity": 0, "eager": lambda xp: 2.0,
                                            "gradient": lambda ops, g, y: ()}),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_told_why(case):
    message, changes = BROKEN[case]
    text = refuse(f"(?s){message}", **changes)
    assert "Traceback" not in text


def test_two_origins_may_not_share_a_name():
    good()
    with pytest.raises(PluginError, match="defined twice"):
        good(origin="elsewhere")
    assert primitives.get("acme_softsign").origin == __name__


def test_a_repaired_definition_keeps_the_registered_one_until_it_passes():
    made = good()
    with pytest.raises(PluginError, match="central differences"):
        good(gradient=lambda ops, g, y, a: (g,))
    assert primitives.get("acme_softsign") is made


def test_every_violation_is_listed():
    with pytest.raises(PluginError) as caught:
        good(triton="{0} +", latex="{0", gradient=lambda ops, g, y, a: (g,))
    text = str(caught.value)
    assert "triton syntax:" in text
    assert "latex:" in text
    assert "gradient against finite differences:" in text
    assert "gradient against autograd:" in text


def test_checking_does_not_register():
    made = good()
    primitives.unregister("acme_softsign")
    generation = registry.generation
    assert primitive_violations(made) == []
    assert "acme_softsign" not in primitives.names()
    assert registry.generation > generation  # caches of formulas were told
