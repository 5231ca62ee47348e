"""An experiment of function matching from its config to its row and its printed table."""

import json
from dataclasses import replace

import pytest

from experiments.distillation_runs import run_experiment
from fmce.config.distillation import StepsConfig, distillation_preset


@pytest.mark.slow
def test_an_experiment_is_recorded_and_printed_beside_the_slides(tmp_path, capsys):
    config = distillation_preset("scenes")
    few = {"labelled": 4, "unlabelled": 4, "held_out": 2, "validation": 2}
    steps = StepsConfig(steps=2, batch_size=2, interval=2)
    config = replace(
        config,
        data=replace(config.data, height=16, width=32, **few),
        teacher_steps=steps,
        student_steps=steps,
        seeds=(1, 2),
    )
    results, what = tmp_path / "rows.jsonl", "function matching on built-in scenes"
    run_experiment(results, "distillation_segmentation", what, config, tmp_path / "run")
    (row,) = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    assert row["what"] == what
    assert row["seed"] == [1, 2]
    assert [arm["arm"] for arm in row["result"]["arms"]] == list(config.arms)
    assert (tmp_path / "run" / "report.html").exists()
    text = " ".join(capsys.readouterr().out.split())
    assert "compact, function matching 64.74" in text
