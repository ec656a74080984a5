"""A folder to read the documentation in: examples, a finished run, and ``evonas`` with a tiny budget."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from document_runner import TINY, TINY_ENVIRONMENT, TINY_FLAGS

ROOT = Path(__file__).parents[2]
Python = Callable[..., str]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the real evaluator."""
    import evonas

    out = tmp_path_factory.mktemp("runs")
    return evonas.search("norm_act", out=out, settings=TINY).path


@pytest.fixture
def reader(tmp_path: Path, finished_run: Path) -> Python:
    """``reader(*arguments)`` runs this interpreter as somebody who reads a page would, in a fresh folder."""
    for name in ("examples", "docs", "README.md", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(finished_run, tmp_path / "runs" / finished_run.name)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    shim = binaries / "evonas"
    shim.write_text(
        "#!/bin/sh\n"
        f'run() {{ exec {sys.executable} -c "import sys; from evonas.cli.main import main; sys.exit(main())" "$@"; }}\n'
        f'case "$1" in search) (run "$@" {TINY_FLAGS}); code=$?;; *) run "$@";; esac\n'
        # 5: finished with nothing valid, which a budget of one candidate may well end with
        "test $code = 5 && exit 0; exit $code\n"
    )
    shim.chmod(0o755)
    for name in ("python", "python3"):
        (binaries / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (binaries / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EVONAS_")}
    environment = {
        **kept,
        **TINY_ENVIRONMENT,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).with_name("torchvision_operators")),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "110",
    }

    def call(*arguments: str) -> str:
        # a session of its own, so that a page that hangs leaves nothing behind
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            out, error = process.communicate(timeout=240)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, out + error
        return out

    return call
