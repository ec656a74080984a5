"""Operations and layers of others in the slots: from installed packages, and from files that the user names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slot_support import collect

from evonas.evaluation.protocol import EvaluatorSpec
from evonas.plugins import describe_plugins
from evonas.run.backends.local import LocalBackend

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = ("own_primitive", "own_stateful_layer")
FORMULAS = ["norm: softsign(x); act: x * sigmoid(x)", "norm: streaming_rms; act: softsign(x)"]
TINY = {
    "steps": 3, "quality_steps": 2, "quality_threshold": 9.0, "hurdle": 9.0, "stability_steps": 1, "depth": 1,
    "width": 16, "heads": 2, "sequence": 16, "batch": 2, "eval_windows": 4,
}  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with the two examples, and a space that brings an operation, which this process never imports: slots
    have to find them themselves."""
    for name in FILES:
        (tmp_path / f"acme_{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    operation = (EXAMPLES / "own_primitive.py").read_text().replace("softsign", "gentle_sign")
    (tmp_path / "acme_own_space.py").write_text(operation)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    points = ("[evonas.primitives]\nsoftsign = acme_own_primitive:softsign\n"
              "[evonas.layers]\nstreaming_rms = acme_own_stateful_layer\n"
              "[evonas.spaces]\ngentle = acme_own_space\n")  # fmt: skip
    (info / "entry_points.txt").write_text(points)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    assert not any(name.startswith("acme_own") for name in sys.modules)


def statuses(formulas: list[str], plugins: tuple[dict[str, str], ...] = ()) -> list[tuple[str, str | None]]:
    options = {"proxies": ["transformer"], "changes": TINY, "kernels": "off"}
    backend = LocalBackend(EvaluatorSpec("proxies", options, plugins), 2)
    backend.start()
    try:
        return [(o.status, o.reason) for o in collect(backend, formulas)]
    finally:
        backend.close()


@pytest.mark.usefixtures("nothing_left", "installed")
def test_slots_load_what_is_installed() -> None:
    found = statuses([*FORMULAS, "norm: gentle_sign(x); act: x * sigmoid(x)"])
    assert found == [("scored", None)] * 3


@pytest.mark.usefixtures("nothing_left")
def test_slots_load_the_files_of_the_run() -> None:
    files = describe_plugins([EXAMPLES / f"{name}.py" for name in FILES])
    assert statuses(FORMULAS, files) == [("scored", None)] * 2
    assert "unknown" in str(statuses(FORMULAS)[0][1])
