"""Scripts end as the command line does where their user made a mistake."""

import json

import pytest

from experiments.script import options_parser, record, run_script


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error", [ValueError("expected a,\n  got b"), FileNotFoundError("expected a, got b")]
)
def test_a_users_mistake_is_one_line_and_exit_code_2(error, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/fmce_table1.py"])
    monkeypatch.delenv("FMCE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match="2"):
        run_script(failing(error))
    assert capsys.readouterr().err == "fmce_table1: expected a, got b\n"


def test_a_mistake_of_ours_keeps_its_traceback_and_the_users_on_request(monkeypatch):
    with pytest.raises(KeyError):
        run_script(failing(KeyError("x")))
    monkeypatch.setenv("FMCE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="expected"):
        run_script(failing(ValueError("expected")))


def test_the_help_is_the_docstring_and_shows_the_default_folder(capsys):
    with pytest.raises(SystemExit):
        options_parser(
            "One line.\n\n    python -m experiments.x\n", "x.jsonl", "runs/x"
        ).parse_args(["-h"])
    text = capsys.readouterr().out
    assert "One line." in text
    assert "\n    python -m experiments.x\n" in text
    assert "folder of runs (runs/x)" in text


def test_a_row_takes_the_place_of_the_one_of_the_same_description(tmp_path):
    path = tmp_path / "rows.jsonl"
    for seeds, result in (([1, 2], 5), ([1, 2, 3], 6)):
        record(path, "x", "grid", {"a": 1}, result, data="mnist", seed=seeds)
    record(path, "x", "one", {"a": 1}, 7, seed=0)
    record(path, "x", "one", {"a": 1}, 8, seed=1)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["what"], row["seed"], row["result"]) for row in rows] == [
        ("grid", [1, 2, 3], 6),
        ("one", 0, 7),
        ("one", 1, 8),
    ]
