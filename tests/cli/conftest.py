"""Command-line tests run in an empty folder and leave the process as it was."""

import shutil

import pytest
from cli_support import QUICK, evonas, only_run

from evonas.cli.main import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "EVONAS_RUNS", "EVONAS_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(capsys):
    """Calls the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run and what it said. Read only."""
    root = tmp_path_factory.mktemp("finished")
    done = evonas("search", *QUICK, cwd=root)
    assert done.returncode == 0, done.stderr
    return only_run(root), done


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished run that a test may damage."""
    return shutil.copytree(finished[0], tmp_path / "runs" / finished[0].name)
