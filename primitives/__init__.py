"""What one node of a layer can do.

One definition per operation gives the eager function (numpy and torch from the same line), the gradient as a
composition of primitives, the Triton expression, the formula and the LaTeX. ``primitive`` plugs in your own.
"""

from evonas.primitives import auxiliary, causal, elementwise, moments  # noqa: F401  (they register themselves)
from evonas.primitives.definition import EPS, Ops, Primitive
from evonas.primitives.namespace import Namespace, numpy_namespace, torch_namespace
from evonas.primitives.registry import all_primitives, get, names, primitive, register, unregister

#: The twelve element-wise rows and three moments of Liu et al. (2020), Table 1.
EVONORM_ELEMENTWISE = (
    "add", "mul", "div", "max", "neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt",
)  # fmt: skip
EVONORM_MOMENTS = ("mean", "rms", "std")
#: Moments over the tokens up to the present one.
CAUSAL_MOMENTS = ("cmean", "crms", "cstd")

__all__ = [
    "CAUSAL_MOMENTS",
    "EPS",
    "EVONORM_ELEMENTWISE",
    "EVONORM_MOMENTS",
    "Namespace",
    "Ops",
    "Primitive",
    "all_primitives",
    "get",
    "names",
    "numpy_namespace",
    "primitive",
    "register",
    "torch_namespace",
    "unregister",
]
