"""The page and the schema say the same, and nothing heavy is imported to know it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from evonas.run.candidates import candidate_table
from evonas.run.log import EventLog, read_table
from evonas.run.schema import COLUMNS, KINDS, SCHEMA_VERSION, Event, event_schema

PAGE = (Path(__file__).parents[2] / "docs" / "log.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_page_lists_every_column_with_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", section("Columns"), re.M)
    assert rows == [tuple(column) for column in COLUMNS]
    assert "Schema version {}.{}.".format(*SCHEMA_VERSION) in PAGE


def test_the_page_lists_every_kind() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| [^`]", section("Columns"), re.M)) == KINDS


def test_the_columns_are_the_schema_and_the_record() -> None:
    schema = event_schema()
    assert [(f.name, str(f.type).replace("item: ", "")) for f in schema] == [
        (c.name, c.type.replace("timestamp[us, UTC]", "timestamp[us, tz=UTC]")) for c in COLUMNS
    ]
    assert set(Event._fields) == set(schema.names)


def test_the_page_names_the_columns_of_the_view(tmp_path: Path) -> None:
    with EventLog.create(tmp_path, "run-a", {"proxies": []}) as log:
        log.append(Event("run_started"))
    text = " ".join(section("Columns").split("`candidates.parquet` has")[1].split())
    named = [name for name in re.findall(r"`(\w+)`", text) if name != "score_"]
    assert named == candidate_table(tmp_path).schema.names


def test_the_evonas_lines_of_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    own = [b for b in blocks if not re.search(r"import (pandas|polars|duckdb)", b)]
    names: dict[str, object] = {}
    for block in own:
        exec(compile(block, "docs/log.md", "exec"), names)
    assert names["table"].drop_columns("ts").equals(read_table(names["run"]).drop_columns("ts"))  # type: ignore[attr-defined, arg-type]
    assert [e.candidate for e in names["scored"]] == [0]  # type: ignore[attr-defined]


def test_the_rooms_start_without_heavy_imports() -> None:
    modules = "schema log segments lock directory candidates environment"
    code = "import sys\n" + "\n".join(f"import evonas.run.{name}" for name in modules.split())
    code += (
        "\nprint([m for m in ('torch', 'ray', 'triton', 'pyarrow', 'numpy', 'psutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
