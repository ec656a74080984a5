"""`export`: what it prints, and errors without a traceback."""

import json

from cli_support import document


def test_a_bundle_of_a_run_and_of_a_layer(call, finished, tmp_path):
    code, out, err = call("export", finished[0], "-o", tmp_path / "best")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(str(p) for p in (tmp_path / "best").iterdir())
    assert "off by" in next(line for line in lines if "/layer.py" in line)
    assert json.loads((tmp_path / "best" / "layer.json").read_text())["formula"] in err
    content = document(call("export", "dyt", "-o", "b", "--name", "my layer", "--json")[1], "export")
    assert content["name"] == "my layer"
    assert content["formula"] == "tanh(0.5 * v1 * x)"
    assert "class MyLayer(" in (tmp_path / "b" / "layer.py").read_text()


def test_errors(call, finished, tmp_path):
    cases = [
        (["export", "dyt"], "no folder to export to"),
        (["export", "dytt", "-o", "b"], "did you mean 'dyt'?"),
        (["export", finished[0], "77777", "-o", "b"], "has no candidate 77777"),
        (["export", "dyt", "-o", "b", "--to", "pickle"], "unknown format 'pickle'"),
        (["export", "dyt", "-o", "b", "--to", ","], "--to names no format"),
        (["export", "dyt", "-o", tmp_path], "is there and not empty"),
    ]
    (tmp_path / "something").touch()
    for arguments, words in cases:
        code, out, err = call(*arguments)
        assert code == 2
        assert out == ""
        assert words in err
        assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["something"]


def test_a_folder_that_cannot_be_made(call, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = call("export", "dyt", "-o", tmp_path / "file" / "b")
    assert code == 4
    assert "exporting to" in err
