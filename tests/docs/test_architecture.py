"""The compiler's modules are listed where its stages are described."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "quote"), [("docs/architecture.md", "`"), ("kernels/__init__.py", "``")])
def test_every_module_of_the_compiler_is_listed(page, quote):
    told = re.findall(rf"{quote}([a-z_]+\*?){quote}", (ROOT / page).read_text(encoding="utf-8"))
    families = tuple(name[:-1] for name in told if name.endswith("*"))
    modules = {path.stem for path in (ROOT / "kernels").glob("*.py")} - {"__init__"}
    assert {name for name in modules - set(told) if not (families and name.startswith(families))} == set()
