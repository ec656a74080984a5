"""Tests that run kernels in Triton's interpreter, which has to be chosen before triton is imported.

``tests/kernels/test_interpreted.py`` runs this folder in a process of its own; elsewhere nothing is collected.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Generated files go to a folder of this run."""
    os.environ["EVONAS_KERNEL_DIR"] = str(tmp_path_factory.mktemp("kernels"))
    import torch

    torch.set_num_threads(1)
