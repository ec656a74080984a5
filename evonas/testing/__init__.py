"""Contract suites that plug-in authors run on what they write; the built-ins pass the same ones.

``check_primitive`` and ``PrimitiveContract`` for operations, ``StatefulContract`` for layers with state.
torch is imported when a suite runs.
"""

from evonas.testing.primitives import CHECKS, PrimitiveContract, check_primitive, primitive_violations
from evonas.testing.stateful import StatefulContract, Step
from evonas.testing.triton import triton_violations

__all__ = [
    "CHECKS",
    "PrimitiveContract",
    "StatefulContract",
    "Step",
    "check_primitive",
    "primitive_violations",
    "triton_violations",
]
