"""Contract suites that plug-in authors run on what they write; the built-ins pass the same ones.

``check_primitive`` and ``PrimitiveContract`` for operations. torch is imported when a suite runs.
"""

from evonas.testing.primitives import CHECKS, PrimitiveContract, check_primitive, primitive_violations
from evonas.testing.triton import triton_violations

__all__ = ["CHECKS", "PrimitiveContract", "check_primitive", "primitive_violations", "triton_violations"]
