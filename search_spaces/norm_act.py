"""The space of the EvoNorm paper, in its batch ("B") and batch-independent ("S") form."""

from evonas.primitives import EVONORM_ELEMENTWISE, EVONORM_MOMENTS
from evonas.search_spaces.options import SpaceOptions
from evonas.search_spaces.registry import space

space(
    "norm_act",
    layout="nchw",
    rows=EVONORM_ELEMENTWISE + EVONORM_MOMENTS,
    summary="normalization-activation layers, batch statistics allowed (EvoNorm-B)",
)
space(
    "norm_act_s",
    layout="nchw",
    rows=EVONORM_ELEMENTWISE + EVONORM_MOMENTS,
    options=SpaceOptions(batch_independent=True),
    summary="normalization-activation layers without batch statistics (EvoNorm-S)",
)
