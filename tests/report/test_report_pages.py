"""What a report says, in both formats, of whole, partly written and empty runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from evonas.cli.main import main
from evonas.errors import UsageError
from evonas.report import write_report
from evonas.report.agreement import spearman
from evonas.report.content import report_content
from evonas.run.run import Run

GOLDEN = sorted(p.parent for p in (Path(__file__).parents[2] / "runs" / "golden").glob("*/run.json"))[0]


@pytest.fixture(scope="module")
def content() -> dict:
    return report_content(Run(GOLDEN))


def test_points_are_the_scored_candidates(content: dict) -> None:
    run = Run(GOLDEN)
    assert {p["candidate"] for p in content["points"]} == {r["candidate"] for r in run.scored(None)}
    assert {p["candidate"] for p in content["points"] if p["front"] and p["arm"] == "search"} == {
        r["candidate"] for r in run.front()
    }


def test_lineages_add_up(content: dict) -> None:
    assert content["lineages"]
    for candidate, steps in content["lineages"].items():
        assert steps[-1]["candidate"] == int(candidate)
        known = [s["mean"] for s in steps]
        gains = [s["gain"] for s in steps if s["gain"] is not None]
        if None not in known and len(known) > 1:
            assert sum(gains) == pytest.approx(known[-1] - known[0])
    longest = max(content["lineages"].values(), key=len)
    assert len(longest) > 1
    assert {s["origin"] for s in longest[1:]} <= {"mutation", "replace", "insert", "remove", "rewire"}


def test_the_best_score_never_falls_and_ends_with_the_best(content: dict) -> None:
    for arm, steps in content["best"].items():
        means = [s[2] for s in steps]
        assert means == sorted(means)
        assert means[-1] == max(p["mean"] for p in content["points"] if p["arm"] == arm)


def test_rank_agreement_is_spearmans() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    # d^2 = 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(0.8660254037844387)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2], [1, 2]) is None


def test_what_is_not_measured_is_said(content: dict) -> None:
    words = " ".join(content["unmeasured"])
    for expected in ("tiny", "Learning rates were not tuned", "Speed was no objective", "evonorm_b0 (2)"):
        assert expected in words


def test_the_html_needs_nothing_else_and_holds_its_data(tmp_path: Path) -> None:
    page = write_report(Run(GOLDEN), tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest", page)
    embedded = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.S)
    assert embedded
    assert len(json.loads(embedded[1])["points"]) == len(Run(GOLDEN).scored(None))


def test_text_of_a_run_cannot_become_markup(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(GOLDEN, tmp_path / GOLDEN.name))
    (copy / "command.txt").write_text("evonas search </script><script>alert(1)</script> & more\n")
    page = write_report(Run(copy), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_partly_written_run_has_a_report(tmp_path: Path, share: float) -> None:
    copy = Path(shutil.copytree(GOLDEN, tmp_path / GOLDEN.name))
    segment = copy / "events" / "000001.arrows"
    segment.write_bytes(segment.read_bytes()[: int(share * segment.stat().st_size)])
    for style in ("html", "md"):
        page = write_report(Run(copy), style=style)
        assert page.parent == copy / "report"
        assert page.stat().st_size > 2000


def test_the_command_line_prints_the_path_and_refuses_what_does_not_fit(tmp_path: Path, capsys) -> None:
    assert main(["report", str(GOLDEN), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert main(["report", str(GOLDEN), "-o", str(tmp_path), "--format", "md", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "report.md")
    assert main(["report", str(GOLDEN), "--format", "pdf"]) == 2
    assert "html" in capsys.readouterr().err
    assert main(["report", "no-such-run"]) == 2
    assert main(["report", str(GOLDEN), "-o", str(tmp_path / "page")]) == 2
    assert "page.html" in capsys.readouterr().err
    with pytest.raises(UsageError):
        write_report(Run(GOLDEN), tmp_path / "x.html", style="docx")


def test_the_ending_of_the_file_says_the_format(tmp_path: Path, capsys) -> None:
    for name, start in (("notes.md", "# "), ("notes.html", "<!doctype html>")):
        assert main(["report", str(GOLDEN), "-o", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["format"] == name.rpartition(".")[2]
        assert (tmp_path / name).read_text(encoding="utf-8").lower().startswith(start)
    for name, style in (("other.md", "html"), ("other.html", "md")):
        assert main(["report", str(GOLDEN), "-o", str(tmp_path / name), "--format", style]) == 2
        assert f"and the format is to be {style}" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


def test_scalars_cannot_go_into_a_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["report", str(GOLDEN), "--format", "tensorboard", "-o", str(path)]) == 4
        assert "writing TensorBoard files to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_constants_are_typeset_with_four_digits() -> None:
    from evonas.graph import Graph
    from evonas.graph.mathml import format_mathml

    text = format_mathml(Graph.parse("x * 0.7071067811865476 + 0.0013098582948312004 + 0.25"))
    assert "0.7071<" in text
    assert "0.00131<" in text
    assert "0.25<" in text
