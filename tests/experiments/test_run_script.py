"""Scripts end as the command line does where their user made a mistake."""

import importlib

import pytest


@pytest.fixture
def run_script():
    return importlib.import_module("experiments.run_script").run_script


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error", [ValueError("expected a,\n  got b"), FileNotFoundError("expected a, got b")]
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run_script, error, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/fmce_table1.py"])
    monkeypatch.delenv("FMCE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match="2"):
        run_script(failing(error))
    assert capsys.readouterr().err == "fmce_table1.py: expected a, got b\n"


def test_a_mistake_of_ours_keeps_its_traceback_and_the_users_on_request(run_script, monkeypatch):
    with pytest.raises(KeyError):
        run_script(failing(KeyError("x")))
    monkeypatch.setenv("FMCE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="expected"):
        run_script(failing(ValueError("expected")))
