"""Element-wise activation functions: a space is a layout, rows and options."""

from evonas.primitives import EVONORM_ELEMENTWISE
from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.registry import space

space(
    "activation",
    layout="nchw",
    rows=(*EVONORM_ELEMENTWISE, "sub", "min", "erf"),
    options=SpaceOptions(nodes=6, index_sets=(), constant_one=True),
    summary="element-wise activation functions with trainable per-channel parameters",
)
