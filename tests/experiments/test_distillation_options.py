"""The function-matching scripts refuse what they would otherwise ignore, before any work."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("distillation_segmentation", "--real --imagenet", "--imagenet is for --full"),
        ("distillation_detection", "--small --imagenet", "--imagenet and --folders are for --full"),
        ("distillation_detection", "--real --folders a", "--imagenet and --folders are for --full"),
        ("distillation_segmentation", "--real", "expected a folder of data sets in FMCE_DATA"),
        ("distillation_detection", "--real", "expected a folder of data sets in FMCE_DATA"),
    ],
)
def test_options_that_do_not_go_together_end_the_program(
    script, options, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("FMCE_DATA", str(tmp_path / "missing"))
    monkeypatch.setattr(sys, "argv", [script, *options.split(), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"experiments.{script}").main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
