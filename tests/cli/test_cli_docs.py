"""docs/cli.md names every verb, option, setting section, exit code and JSON document that there is."""

import json
import re
from pathlib import Path

import pytest
from cli_support import HASHED
from typer.main import get_command

from evonas.cli import main as codes
from evonas.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_every_verb_and_option_is_on_the_page():
    for verb, command in get_command(app).commands.items():
        assert f"`{verb}" in PAGE
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in PAGE, f"{verb} {option}"


def test_every_option_on_the_page_exists():
    known = {o for c in get_command(app).commands.values() for p in c.params for o in p.opts} | {"--help"}
    known |= {o for p in get_command(app).params for o in p.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known


def test_every_exit_code_is_on_the_page():
    rows = {int(n) for n in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    names = ("OK", "INTERNAL", "USAGE", "MISMATCH", "UNUSABLE", "EMPTY", "INTERRUPTED", "STOPPED")
    assert rows == {getattr(codes, name) for name in names}


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("search", ["search", *HASHED, "--backend", "inline", "--candidates", "2", "--seed", "1", "--quiet"]),
        ("plan", ["search", "--dry-run", *HASHED]),
        ("status", ["status", "RUN"]),
        ("runs", ["status"]),
        ("top", ["top", "RUN"]),
        ("show", ["show", "relu"]),
        ("export", ["export", "relu", "-o", "bundle"]),
        ("kernel", ["kernel", "relu"]),
        ("bench", ["bench", "relu", "--shapes", "1,4,2,2", "--rounds", "1", "--backends", "eager"]),
        (
            "compare",
            ["compare", "relu", "gelu", *HASHED, "--set", "workers.backend=inline", "--proxies", "resnet"],
        ),
        ("replay", ["replay", "RUN"]),
        ("list", ["list", "spaces"]),
        ("doctor", ["doctor"]),
    ],
)
def test_the_keys_of_every_document_are_on_the_page(call, finished, verb, arguments):
    out = call(*[str(finished[0]) if a == "RUN" else a for a in arguments], "--json")[1]
    content = json.loads(out)
    row = re.search(rf"^\| `{re.escape(content.pop('schema'))}` \| (.*) \|$", PAGE, re.M)
    named = set(re.findall(r"`(\w+)`", row[1]))
    assert set(content) <= named
    optional = {"recovered", "status", "history", "difference", "name", "level", "found", "fix", "kernels"}
    assert named - set(content) <= optional, verb
