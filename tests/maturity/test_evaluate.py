"""`fmce evaluate`: classifier by marker, FMCE-Net on test images and on other runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from fmce.digests import read_record
from fmce.maturity.evaluate import evaluate, runs_trained_on
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.phases import run_phases
from fmce.runs.run import open_run


def test_the_classifier_has_a_row_a_marker_and_the_last_epochs_equals_done(own_run):
    result = evaluate(own_run)
    assert [row["epoch"] for row in result["classifier"]] == list(own_run.phases.markers)
    assert [row["phase"] for row in result["classifier"]] == [1, 2, 3]
    if own_run.phases.convergence_epoch == 8:
        assert result["classifier"][-1]["test_accuracy"] == own_run.done["test_accuracy"]
    assert read_record(own_run.path / "evaluation.json") == result


def test_the_nets_metrics_are_those_of_its_training(own_run):
    trained = read_record(own_run.fmce_net_folder("map") / "metrics.json")
    result = evaluate(own_run)
    assert result["fmce_net"]["held_out"] == trained["held_out"]
    assert result["fmce_net"]["test_images"] == trained["test_images"]


def test_asked_about_its_own_run_it_says_the_same_as_about_test_images(own_run, other_run):
    result = evaluate(own_run, others=[own_run, other_run])
    assert result["other_runs"][str(own_run.path)] == result["fmce_net"]["test_images"]
    assert result["other_runs"][str(other_run.path)] != result["fmce_net"]["test_images"]


def test_another_number_of_phases_is_refused(own_run, finished_run):
    run_phases(own_run.path, {"num_phases": 2})
    with pytest.raises(
        ValueError, match=f"{own_run.path} does not fit this FMCE-Net: expected logits of 2"
    ):
        evaluate(finished_run, others=[open_run(own_run.path)])


def test_without_a_net_it_says_how_to_train_one(own_run):
    with pytest.raises(FileNotFoundError, match=r"fmce train-net .* --split image"):
        evaluate(own_run, "image")


def test_the_width_says_which_net(own_run):
    train_fmce_net(own_run, config=replace(own_run.config.fmce_net, epochs=1, width=0.25))
    trained = read_record(own_run.fmce_net_folder("map", 0.25) / "metrics.json")
    result = evaluate(own_run, settings=["width=0.25"])
    assert result["fmce_net"]["test_images"] == trained["test_images"]
    assert result["fmce_net"] != evaluate(own_run)["fmce_net"]


def test_settings_of_training_are_refused(own_run):
    with pytest.raises(ValueError, match="'epochs=3' is for training an FMCE-Net"):
        evaluate(own_run, settings=["epochs=3"])


def test_the_runs_it_was_trained_on_leave_out_those_held_out(own_run, other_run):
    assert runs_trained_on(own_run, "map", 1) == {own_run.path.resolve()}
    metrics = train_fmce_net(own_run, "run", others=[other_run])
    trained = {own_run.path, other_run.path} - {Path(p) for p in metrics["held_out_runs"]}
    assert runs_trained_on(own_run, "run", 1) == {p.resolve() for p in trained}
