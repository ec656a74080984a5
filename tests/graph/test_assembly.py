"""Assemblies: text and back, which graph fills which slot, canonical form and digest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs

from evonas.errors import EvonasError, FormulaError, UsageError
from evonas.graph import Assembly, Graph, canonical, digest
from evonas.graph.assembly import Part
from evonas.graph.slots import NORM_SLOTS, SLOTS

RMS, SILU = "x / rms[c](x)", "x * sigmoid(x)"


def test_slots_are_filled_or_keep_their_own():
    made = Assembly.parse(f"norm: {RMS}; act: {SILU}")
    assert all(str(made.graph(slot)) == RMS for slot in NORM_SLOTS)
    assert str(made.graph("ffn")) == SILU
    some = Assembly.parse(f"pre_ffn+final: {RMS}")
    assert some.graph("ffn") is None
    assert some.graph("pre_attention") is None
    assert str(some.graph("final")) == RMS
    with pytest.raises(UsageError, match="did you mean 'final'"):
        some.graph("finals")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (RMS, RMS),
        (f"all: {RMS}", RMS),
        (f"act:{SILU} ;norm :{RMS}", f"norm: {RMS}; act: {SILU}"),
        (f"norm (no affine): {RMS}", f"norm (no affine): {RMS}"),
        (f"all(no  affine): {RMS}", f"all (no affine): {RMS}"),
        (f"act (no affine): {SILU}", f"act: {SILU}"),
        (f"final+pre_ffn: {RMS};", f"pre_ffn+final: {RMS}"),
        ("act: (n := x / rms[c](x * v1)) * sigmoid(n)", "act: (t1 := x / rms[c](x * v1)) * sigmoid(t1)"),
        ("(n := x / rms[c](x * v1)) * sigmoid(n)", "(t1 := x / rms[c](x * v1)) * sigmoid(t1)"),
    ],
)
def test_printing(text, printed):
    made = Assembly.parse(text)
    assert str(made) == printed
    assert Assembly.parse(printed) == made
    assert hash(Assembly.parse(printed)) == hash(made)


@given(st.data())
def test_text_and_back(data):
    slots = data.draw(st.lists(st.sampled_from(SLOTS), unique=True, min_size=1))
    cut = data.draw(st.integers(0, len(slots)))
    parts = [
        Part(tuple(s for s in SLOTS if s in some), data.draw(graphs()).active(), data.draw(st.booleans()))
        for some in (slots[:cut], slots[cut:])
        if some
    ]
    made = Assembly(tuple(p._replace(affine=p.affine and p.slots != ("ffn",)) for p in parts))
    text = str(made)
    assert str(Assembly.parse(text)) == text
    assert Assembly.parse(text).digest() == made.digest() == made.canonical().digest()
    assert made.canonical().canonical() == made.canonical()


def test_affines():
    made = Assembly.parse(f"norm: {RMS}; act: {SILU}")
    assert [part.affine for part in made.parts] == [True, False]
    assert Assembly.parse(RMS).parts[0].affine
    assert not Assembly.parse(f"norm (no affine): {RMS}").part("final").affine


def test_digests():
    one = Assembly.parse(RMS)
    assert one.digest() == digest(Graph.parse(RMS))
    assert one.single == Graph.parse(RMS)
    plain, made = Assembly.parse(f"norm (no affine): {RMS}"), Assembly.parse(f"norm: {RMS}")
    assert made.single is None
    different = [one, made, plain, Assembly.parse(f"act: {RMS}"), Assembly.parse(f"norm: {RMS}; act: {RMS}"),
                 Assembly.parse(f"norm: {RMS}; act: {SILU}"), Assembly.parse(f"norm: {SILU}; act: {RMS}")]  # fmt: skip
    assert len({a.digest() for a in different}) == len(different)
    again = Assembly.parse(f"act: sigmoid(x) * x + 0; norm: {RMS}")
    assert again.digest() == Assembly.parse(f"norm: {RMS}; act: {SILU}").digest()
    slots = "; ".join(f"{slot}: {RMS}" for slot in NORM_SLOTS)
    assert Assembly.parse(slots).digest() == made.digest()
    assert str(Assembly.parse(slots).canonical()) == str(made.canonical())
    assert canonical(Graph.parse(RMS)) == made.canonical().graph("final")


def test_structure():
    made = Assembly.parse("norm: x / rms[b,t](x); act: x * sigmoid(x)")
    assert made.uses_batch
    assert made.index_sets == {("b", "t")}
    assert len(made) == 4
    assert not Assembly.parse(f"norm: {RMS}").uses_batch


def test_names_stand_for_formulas():
    names = {"rms_norm": RMS, "silu": SILU}
    assert str(Assembly.parse("norm: rms_norm; act: silu", names)) == f"norm: {RMS}; act: {SILU}"
    assert str(Assembly.parse("silu", names)) == SILU


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"norms: {RMS}", "did you mean 'norm'"),
        (f"norm: {RMS}; {SILU}", "names no slot"),
        (f"{RMS}; {SILU}", "names no slot"),
        (f"norm: {RMS}; final: {SILU}", "two parts fill slot 'final'"),
        ("norm:", "formula is empty"),
        (f": {RMS}", "unknown slot ''"),
        ("norm: x / rms(x)", "needs an index set"),
        ("", "formula is empty"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(EvonasError, match=message):
        Assembly.parse(text)


def test_no_parts():
    with pytest.raises(FormulaError, match="no part"):
        Assembly(())
