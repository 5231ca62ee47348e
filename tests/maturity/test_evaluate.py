"""`fmce evaluate`: classifier by marker, FMCE-Net on test images and on other runs."""

import json
import shutil
from dataclasses import replace

import pytest

from fmce.maturity.evaluate import evaluate
from fmce.maturity.phases import run_phases
from fmce.maturity.train_fmce_net import train_net
from fmce.runs.run import open_run


def test_the_classifier_has_a_row_a_marker_and_the_last_epochs_equals_done(own_run):
    result = evaluate(own_run, quiet=True)
    assert [row["epoch"] for row in result["classifier"]] == list(own_run.phases.markers)
    assert [row["phase"] for row in result["classifier"]] == [1, 2, 3]
    if own_run.phases.convergence_epoch == 8:
        assert result["classifier"][-1]["test_accuracy"] == own_run.done["test_accuracy"]
    assert json.loads((own_run.path / "evaluation.json").read_text()) == result


def test_the_nets_metrics_are_those_of_its_training(own_run):
    trained = json.loads((own_run.fmce_net_folder("map") / "metrics.json").read_text())
    result = evaluate(own_run, quiet=True)
    assert result["fmce_net"]["held_out"] == trained["held_out"]
    assert result["fmce_net"]["test_images"] == trained["test_images"]


def test_asked_about_its_own_run_it_says_the_same_as_about_test_images(own_run, other_run):
    result = evaluate(own_run, others=[own_run, other_run], quiet=True)
    assert result["other_runs"][str(own_run.path)] == result["fmce_net"]["test_images"]
    assert result["other_runs"][str(other_run.path)] != result["fmce_net"]["test_images"]


def test_another_number_of_phases_is_refused(own_run, finished_run):
    run_phases(own_run.path, ["num_phases=2"])
    with pytest.raises(ValueError, match="expected logits of 2 phases, got 3"):
        evaluate(finished_run, others=[open_run(own_run.path)], quiet=True)


def test_it_prints_both_tables(own_run, capsys):
    evaluate(own_run)
    out = capsys.readouterr().out
    assert "Classifier of" in out
    assert "held-out maps" in out
    assert "spearman" in out


def test_without_a_net_it_says_how_to_train_one(own_run):
    with pytest.raises(FileNotFoundError, match=r"fmce train-net .* --split image"):
        evaluate(own_run, "image", quiet=True)


def test_the_width_says_which_net(own_run, capsys):
    train_net(own_run, config=replace(own_run.config.fmce_net, epochs=1, width=0.25), quiet=True)
    trained = json.loads((own_run.fmce_net_folder("map", 0.25) / "metrics.json").read_text())
    result = evaluate(own_run, settings=["width=0.25"])
    assert result["fmce_net"]["test_images"] == trained["test_images"]
    assert result["fmce_net"] != evaluate(own_run, quiet=True)["fmce_net"]
    assert "FMCE-Net, split map, width 0.25" in capsys.readouterr().out


def test_settings_of_training_are_refused(own_run):
    with pytest.raises(ValueError, match="'epochs=3' is for training an FMCE-Net"):
        evaluate(own_run, settings=["epochs=3"], quiet=True)


def test_a_run_it_was_trained_on_is_not_called_another(own_run, other_run, capsys, monkeypatch):
    monkeypatch.chdir(own_run.path.parent)  # short names stay on their line
    shutil.copytree(other_run.path, "other")
    evaluate(own_run, others=[open_run(own_run.path.name), open_run("other")])
    out = capsys.readouterr().out
    assert f"a run it was trained on: {own_run.path.name}" in out
    assert "other run: other" in out
