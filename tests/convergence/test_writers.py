"""Logs of other programs, in the shape in which they are written: which program, which rows, and the right curve."""

import json
from pathlib import Path

import pytest

from fmce import PhaseConfig, find_phases
from fmce.convergence.files.curves import CurveOptions, read_curve
from fmce.convergence.files.writers import WRITERS, is_other_measure, never_loss

LOGS = Path(__file__).parent / "logs"
PAGE = Path(__file__).parents[2] / "docs" / "reading-your-files.md"


def convergence_epoch(curve, threshold=2e-3):
    config = PhaseConfig(threshold=threshold)
    return find_phases(curve.losses, config, learning_rates=curve.learning_rates).convergence_epoch


@pytest.mark.parametrize(
    ("name", "read_as"),
    [
        ("capital_epoch_steps.csv", "a table: 60 epochs from 240 rows, the mean of 4 each"),
        ("comment_first.csv", "a table: 60 epochs from 60 rows"),
        ("fairseq.jsonl", "fairseq log: 60 epochs from 60 rows"),
        ("fairseq_train.log", "fairseq log: 60 epochs from 60 rows"),
        (
            "huggingface_console.log",
            "Hugging Face log_history: 60 epochs from 120 rows, the mean of 2 each",
        ),
        (
            "huggingface_log_history.json",
            "Hugging Face log_history: 60 epochs from 240 rows, the mean of 4 each",
        ),
        (
            "huggingface_trainer_state.json",
            "Hugging Face trainer_state.json: 60 epochs from 240 rows, the mean of 4 each",
        ),
        ("keras_append.csv", "Keras CSVLogger: 60 epochs from 60 rows"),
        ("keras_csvlogger.csv", "Keras CSVLogger: 60 epochs from 60 rows"),
        ("keras_history_validation_freq.json", "Keras History: 60 epochs from 60 rows"),
        (
            "mmdetection.log.json",
            "mmdetection log.json: 60 epochs from 120 rows, the mean of 2 each",
        ),
        (
            "mmengine_scalars.json",
            "mmengine scalars.json: 60 epochs from 120 rows, the mean of 2 each",
        ),
        ("nnunet_training_log.txt", "nnU-Net training_log.txt: 60 epochs from 60 rows"),
        ("nul_tail.csv", "a table: 60 epochs from 60 rows"),
        ("reference.csv", "a table: 60 epochs from 60 rows"),
        ("tensorboard_download.csv", "TensorBoard download: 60 epochs from 60 rows"),
        ("tensorboard_download.json", "TensorBoard download: 60 epochs from 60 rows"),
        ("timm_summary.csv", "timm summary.csv: 60 epochs from 60 rows"),
        ("trackio_metric.json", "trackio metric: 60 epochs from 60 rows"),
        ("trackio_table.csv", "trackio table: 60 epochs from 60 rows"),
        ("ultralytics_results.csv", "Ultralytics results.csv: 60 epochs from 60 rows"),
        ("wandb_export.csv", "W&B chart export: 60 epochs from 60 rows"),
        ("wandb_export_by_epoch.csv", "W&B chart export: 60 epochs from 60 rows"),
        (
            "wandb_history.csv",
            "W&B run history: 60 epochs from 120 rows, the mean of 2 each",
        ),
        ("yolov5_results.csv", "Ultralytics results.csv: 60 epochs from 60 rows"),
    ],
)
def test_a_log_is_recognised_and_gives_the_reference_curve(name, read_as):
    curve = read_curve(LOGS / name)
    assert curve.read_as == read_as
    assert convergence_epoch(curve) == 50
    reference = read_curve(LOGS / "reference.csv").losses
    assert curve.losses == pytest.approx(reference, rel=0.06)


def test_the_sum_of_ultralytics_training_losses_is_the_loss():
    curve = read_curve(LOGS / "ultralytics_results.csv")
    assert curve.column == "train/box_loss + train/cls_loss + train/dfl_loss"
    assert curve.losses == pytest.approx(read_curve(LOGS / "reference.csv").losses, abs=1e-9)


def test_a_hugging_face_log_without_evaluation_rows_is_read_alike(tmp_path):
    state = json.loads((LOGS / "huggingface_trainer_state.json").read_text())
    state["log_history"] = [row for row in state["log_history"] if "loss" in row]
    (tmp_path / "state.json").write_text(json.dumps(state))
    curve = read_curve(tmp_path / "state.json")
    assert curve.losses == read_curve(LOGS / "huggingface_trainer_state.json").losses
    assert curve.notes == ("epochs are fractions: rows with 0 < e ≤ 1 are the first epoch",)


def test_the_evaluation_loss_of_an_epoch_stands_at_that_epoch():
    options = CurveOptions(validation_column="eval_loss", lr_column="learning_rate")
    curve = read_curve(LOGS / "huggingface_trainer_state.json", options)
    assert len(curve.validation_losses) == 60
    assert curve.validation_losses[0] == 2.37
    assert curve.validation_losses[-1] == 0.120492
    assert curve.learning_rates[0] == 4.9167e-05  # the last of the epoch


def test_detectron2_has_no_epochs_until_the_steps_of_one_are_named():
    curve = read_curve(LOGS / "detectron2_metrics.json")
    assert curve.read_as == "detectron2 metrics.json: 300 epochs from 300 rows"
    assert "6 rows without total_loss left out" in curve.notes
    assert "about every 20 of iteration; --steps-per-epoch averages" in curve.notes[-1]
    curve = read_curve(LOGS / "detectron2_metrics.json", CurveOptions(steps_per_epoch=100))
    assert curve.read_as.endswith("60 epochs from 300 rows, the mean of 5 each")
    assert convergence_epoch(curve) == 50


@pytest.mark.parametrize("name", ["lightning_metrics.csv", "lightning_metrics_step.csv"])
@pytest.mark.parametrize("epoch_column", [None, "epoch"])
def test_the_step_tells_the_epoch_of_lightning_s_learning_rates(name, epoch_column):
    options = CurveOptions(lr_column="lr-Adam", epoch_column=epoch_column)
    curve = read_curve(LOGS / name, options)
    assert curve.read_as == "Lightning metrics.csv: 40 epochs from 40 rows"
    assert curve.column == "train_loss_epoch"
    phases = find_phases(
        curve.losses, PhaseConfig(threshold=1e-2), learning_rates=curve.learning_rates
    )
    assert phases.lr_fraction == pytest.approx(0.206, abs=5e-4)


def test_of_a_training_that_was_resumed_the_later_rows_hold():
    curve = read_curve(LOGS / "resumed.csv")
    rows = [line.split(",") for line in (LOGS / "resumed.csv").read_text().splitlines()[1:]]
    assert curve.losses == tuple({int(epoch): float(loss) for epoch, loss in rows}.values())
    assert curve.read_as == "a table: 60 epochs from 60 rows"
    assert "go back at line 52, where it was resumed" in curve.notes[0]
    assert "10 earlier rows left out" in curve.notes[0]


@pytest.mark.parametrize(
    ("name", "epochs", "place"),
    [("ultralytics_trained_twice.csv", 60, 62), ("keras_append_no_header.csv", 30, 32)],
)
def test_of_two_trainings_in_one_file_the_later_holds_and_that_is_said(name, epochs, place):
    curve = read_curve(LOGS / name)
    assert len(curve.losses) == epochs
    assert f"begin anew at line {place}, which is another training" in curve.notes[0]
    assert f"{epochs} earlier rows left out" in curve.notes[0]


def test_a_header_in_the_middle_is_said():
    notes = read_curve(LOGS / "keras_append.csv").notes
    assert notes == ("the header is repeated in line 32 and passed over",)


def test_a_file_that_was_cut_off_is_said():
    notes = read_curve(LOGS / "nul_tail.csv").notes
    assert notes == ("NUL bytes at the end: the file was cut off by a crash or a full disk",)


def test_two_runs_in_an_export_are_asked_for():
    with pytest.raises(ValueError, match=r"one of: sunny-frog-7 - train/loss, calm-lake-8 - train"):
        read_curve(LOGS / "wandb_two_runs.csv")
    options = CurveOptions(column="calm-lake-8 - train/loss")
    curve = read_curve(LOGS / "wandb_two_runs.csv", options)
    assert convergence_epoch(curve) == 50
    assert curve.notes[0] == "60 rows without calm-lake-8 - train/loss left out"


def test_nnunet_s_lists_and_their_negative_losses_are_read():
    curve = read_curve(LOGS / "nnunet.json")
    assert curve.read_as == "nnU-Net log: 100 epochs from 100 rows"
    assert curve.losses[:2] == (0.2, 0.1291)
    assert min(curve.losses) < 0


def test_every_writer_has_a_log_here_and_a_row_in_the_guide():
    read = {read_curve(p, _options(p)).read_as.partition(":")[0] for p in LOGS.iterdir()}
    page = PAGE.read_text(encoding="utf-8")
    for writer in WRITERS:
        assert writer.title in read
        assert f"`{writer.name}`" in page


def _options(path):
    two_runs = path.name == "wandb_two_runs.csv"
    return CurveOptions(column="calm-lake-8 - train/loss" if two_runs else None)


def test_no_writer_takes_a_rate_a_time_or_a_count_for_the_loss():
    for path in LOGS.iterdir():
        for part in read_curve(path, _options(path)).column.split(" + "):
            assert not never_loss(part)
            assert not is_other_measure(part)
