"""What a shell offers behind the cursor, asked for as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[2] / "runs" / "golden"


def offered(*words: str) -> list[str]:
    environment = os.environ | {
        "_EVONAS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("evonas", *words)),
        "COMP_CWORD": str(len(words)),
        "EVONAS_RUNS": str(GOLDEN),
    }
    code = "import sys; from evonas.cli.main import main; sys.argv[0] = 'evonas'; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("search", "--space", "norm_act_"), {"norm_act_s", "norm_act_lm", "norm_act_any"}),
        (("search", "--proxies", "resnet,mob"), {"resnet,mobilenet"}),
        (("search", "--strategy", "nsga"), {"nsga2"}),
        (("search", "--scale", "sm"), {"small"}),
        (("show", "evonorm_s"), {"evonorm_s0", "evonorm_s1", "evonorm_s2"}),
        (("top", "la"), {"latest"}),
        (("report", "2"), {p.parent.name for p in GOLDEN.glob("*/run.json")}),
        (("rep",), {"replay", "report"}),
        (("export", "power"), {"power_norm"}),
        (("export", "evonorm_b"), {"evonorm_b0", "evonorm_b1", "evonorm_b2"}),
        (("export", "latest", "b"), {"best"}),
        (("export", "relu", "--to", "onnx,t"), {"onnx,torch_export"}),
        (("report", "latest", "--format", "t"), {"tensorboard"}),
    ],
)
def test_names_that_exist_are_offered(words: tuple[str, ...], expected: set[str]) -> None:
    assert set(offered(*words)) == expected
