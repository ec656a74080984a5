"""Spaces for language models, and for searches over networks of images and of tokens at once."""

from evonas.primitives import EVONORM_ELEMENTWISE, EVONORM_MOMENTS
from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.registry import space

#: The paper's rows, and what the activations of language models are written with (Derf, GELU).
_ROWS = (*EVONORM_ELEMENTWISE, "sub", "min", "erf", *EVONORM_MOMENTS)

space(
    "norm_act_lm",
    layout="btc",
    rows=_ROWS,
    options=SpaceOptions(
        index_sets=("c", "c/g"), slots=("norm", "act"), causal=True, scalar_inputs=True, constant_one=True
    ),
    summary="a norm and an activation for causal language models, moments per token",
)
space(
    "norm_act_any",
    layout="btc",
    rows=_ROWS,
    options=SpaceOptions(index_sets=("c", "c/g"), causal=True, scalar_inputs=True, constant_one=True),
    summary="one layer for networks of images and of tokens: moments over the channels of a position",
)
