"""The Python file of a plan: a docstring, imports, helpers and kernels. It runs with triton alone."""

from __future__ import annotations

from collections.abc import Sequence

from evonas.kernels.plan import Launch
from evonas.kernels.text import helper_text


def module_text(title: str, launches: Sequence[Launch], maths: str) -> str:
    """Source of a module with the kernels of those launches; ``maths`` is explained in ``evonas.kernels.text``."""
    helpers: set[str] = set()
    for launch in launches:
        helpers |= launch.kernel.helpers
    parts = [f'"""{title}"""\n\nimport triton\nimport triton.language as tl\n{helper_text(helpers, maths)}']
    parts += [launch.kernel.text for launch in launches]
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)
