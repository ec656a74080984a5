"""Every registered primitive keeps the contract and equals its closed form."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from evonas.primitives import EPS

from evonas import primitives
from evonas.graph import Graph
from evonas.graph.layout import NCHW
from evonas.testing import CHECKS, PrimitiveContract, primitive_violations
from evonas.testing._subject import Subject

BUILT_IN = [name for name in primitives.names() if primitives.get(name).origin.startswith("evonas")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_contract(name):
    assert primitive_violations(primitives.get(name)) == []


class TestSigmoidByClass(PrimitiveContract):
    primitive = primitives.get("sigmoid")


class TestStdByClass(PrimitiveContract):
    primitive = primitives.get("std")


def test_the_class_runs_every_check(monkeypatch):
    ran = []
    monkeypatch.setattr(PrimitiveContract, "_holds", lambda self, name: ran.append(name))
    for name in dir(PrimitiveContract):
        if name.startswith("test_"):
            getattr(PrimitiveContract(), name)()
    assert sorted(ran) == sorted(CHECKS)


def _signed(f):
    return lambda a: math.copysign(1.0, a) * f(abs(a)) if a else 0.0


#: Closed forms in Python floats, exact but for the guard's epsilon.
CLOSED = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b if abs(b) >= EPS else -EPS if b < 0 else EPS),
    "max": max,
    "min": min,
    "neg": lambda a: -a,
    "abs": abs,
    "square": lambda a: a**2,
    "exp": math.exp,
    "tanh": math.tanh,
    "erf": math.erf,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "log": _signed(lambda a: math.log(a + EPS)),
    "sqrt": _signed(lambda a: a / math.sqrt(a + EPS)),
    "rsqrt": lambda a: 1 / math.sqrt(abs(a) + EPS),
    "sign": lambda a: (a > 0) - (a < 0),
    "like": lambda a, b: a,
    "step": lambda a: 1.0 if a > 0 else 0.0 if a < 0 else 0.5,
}
POINTS = (-30.0, -2.5, -1.0, -0.3, -1e-7, -0.0, 0.0, 1e-7, EPS, 0.2, 1.0, 3.0, 30.0)


@pytest.mark.parametrize("name", [n for n in BUILT_IN if primitives.get(n).kind == "elementwise"])
def test_closed_form(name):
    subject = Subject(primitives.get(name))
    points = (
        [(a,) for a in POINTS] if subject.primitive.arity == 1 else [(a, b) for a in POINTS for b in POINTS]
    )
    got = subject.numpy(*(np.array(column) for column in zip(*points, strict=True)))
    np.testing.assert_allclose(got, [CLOSED[name](*p) for p in points], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "index", [("b", "w", "h"), ("w", "h"), ("w", "h", "c"), ("w", "h", "c/g"), ("b",), ("c",)]
)
@pytest.mark.parametrize("name", ["mean", "rms", "std"])
def test_moments_against_plain_loops(name, index):
    subject = Subject(primitives.get(name))
    x = subject.values((2, 2, 3, 2, 2))  # b g k h w
    got = np.broadcast_to(subject.numpy(x, index=index), x.shape)
    dims = {"b": "b", "w": "w", "h": "h", "c": "gk", "c/g": "k"}
    reduced = "".join(dims[axis] for axis in index)
    for at in np.ndindex(x.shape):
        values = [
            x[other]
            for other in np.ndindex(x.shape)
            if all(i == j for d, i, j in zip(NCHW.dims, at, other, strict=True) if d not in reduced)
        ]
        mean = math.fsum(values) / len(values)
        wanted = {
            "mean": mean,
            "rms": math.sqrt(math.fsum(v * v for v in values) / len(values) + EPS),
            "std": math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values) + EPS),
        }[name]
        assert got[at] == pytest.approx(wanted, rel=1e-12, abs=1e-14)


def test_the_paper_table_is_complete():
    assert len(primitives.EVONORM_ELEMENTWISE) == 12
    assert len(primitives.EVONORM_MOMENTS) == 3
    assert {"sub", "min", "erf", "rsqrt", "one"} <= set(primitives.names())
    for name in primitives.EVONORM_ELEMENTWISE + primitives.EVONORM_MOMENTS:
        assert "Liu et al. 2020" in primitives.get(name).source
        assert primitives.get(name).summary


def test_a_guarded_denominator_treats_zeros_of_both_signs_alike():
    subject = Subject(primitives.get("div"))
    assert subject.numpy(np.ones(2), np.array([0.0, -0.0])).tolist() == [1 / EPS, 1 / EPS]


def test_unknown_primitive_names_the_nearest():
    with pytest.raises(Exception, match="sigmoid"):
        primitives.get("sigmoyd")
    with pytest.raises(Exception, match=r"did you mean 'sigmoid'"):
        Graph.parse("sigmoit(x)")


TRITON = """
import json, sys, warnings
warnings.simplefilter("ignore")
from evonas import primitives
from evonas.testing import triton_violations
found = {p.name: triton_violations(p) for p in primitives.all_primitives()}
print(json.dumps(found))
"""


def test_triton_expressions_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRITON, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(BUILT_IN) <= set(found)
    assert {name: broken for name, broken in found.items() if broken} == {}
