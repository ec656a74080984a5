"""The Python file of a plan: a docstring, imports, helpers and kernels. It runs with triton alone."""

from __future__ import annotations

from collections.abc import Sequence

from evonas.kernels.plan import Launch
from evonas.kernels.text import helper_texts


def module_text(title: str, launches: Sequence[Launch], maths: str) -> str:
    """Source of a module with the kernels of those launches; ``maths`` is explained in ``evonas.kernels.text``.

    Kernels that merge are the same for many layers. They come first: Triton finds a kernel again, compiled for another
    layer, if it stands in the same line.
    """
    helpers: set[str] = set()
    for launch in launches:
        helpers |= launch.kernel.helpers
    texts = dict.fromkeys(launch.kernel.text for launch in launches)
    merges = list(dict.fromkeys(launch.kernel.text for launch in launches if launch.tiling is None))
    functions = helper_texts(helpers, maths)
    imports = ["import triton", "import triton.language as tl"]
    if any("libdevice." in text for text in functions):
        imports.append("from triton.language.extra import libdevice")
    parts = [f'"""{title}"""\n\n' + "\n".join(imports), *merges, *functions]
    parts += [text for text in texts if text not in merges]
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)
