"""`fmce phases`: of a run, or of any loss curve alone."""

import json
import shutil

import pytest

from fmce.convergence.files.curves import CurveOptions
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.maturity.phases import phases, phases_of_each, run_phases

LOSSES = [2.0 * 0.8**i + 0.1 for i in range(60)]


@pytest.fixture
def curve(tmp_path):
    path = tmp_path / "losses.csv"
    rows = [f"{i + 1},{loss!r},{0.1 - i * 0.001!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,train_loss,rate", *rows]))
    return path


def test_a_file_gives_what_the_library_gives(curve, capsys):
    found = phases(
        curve, {"threshold": 1e-2, "num_phases": 5}, options=CurveOptions(column="train_loss")
    )
    assert found.phases == find_phases(LOSSES, PhaseConfig(num_phases=5, threshold=1e-2))
    assert (found.losses, found.curve.column) == (LOSSES, "train_loss")
    assert found.figure is None
    assert capsys.readouterr() == ("", "")


def test_learning_rates_of_the_file_say_how_far_the_schedule_had_fallen(curve):
    found = phases(curve, {"threshold": 1e-2}, options=CurveOptions(lr_column="rate")).phases
    expected = (0.1 - (found.convergence_epoch - 1) * 0.001) / 0.1
    assert found.lr_fraction == pytest.approx(expected)


def test_steps_are_averaged_by_epoch(tmp_path):
    path = tmp_path / "steps.jsonl"
    rows = [{"epoch": e, "loss": loss + d} for e, loss in enumerate(LOSSES) for d in (-0.05, 0.05)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = phases(path, {"threshold": 1e-2}, options=CurveOptions(column="loss"))
    assert found.phases.markers == find_phases(LOSSES, PhaseConfig(threshold=1e-2)).markers


def test_markers_are_given_in_the_files_own_epochs_too(tmp_path):
    path = tmp_path / "every_fifth.csv"
    rows = [f"{5 * i},{loss!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,loss", *rows]))
    found = phases(path, {"threshold": 1e-2, "num_phases": 3})
    assert found.own_epochs == [5 * (marker - 1) for marker in found.phases.markers]


def test_a_file_that_counts_from_1_has_no_epochs_of_its_own(curve):
    assert phases(curve, {"threshold": 1e-2}).own_epochs is None


@pytest.mark.parametrize("name", ["phases.png", "new/phases.svg"])
def test_the_figure_is_drawn_where_asked(curve, tmp_path, name):
    found = phases(curve, {"threshold": 1e-2}, figure=tmp_path / name)
    assert (tmp_path / name).stat().st_size > 10_000
    assert found.figure == tmp_path / name


def test_a_curve_without_phases_is_drawn_too(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("loss\n" + "\n".join(repr(loss - 3) for loss in LOSSES))
    found = phases(path, figure=tmp_path / "losses.png")
    assert (found.phases, found.figure) == (None, tmp_path / "losses.png")
    assert found.figure.stat().st_size > 5_000


def test_a_validation_loss_that_rises_for_good_is_overfitting(tmp_path):
    path = tmp_path / "curve.csv"
    rows = [f"{i},{loss!r},{0.5 + abs(i - 15) * 0.05!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,train_loss,val_loss", *rows]))
    options = CurveOptions(validation_column="val_loss")
    assert phases(path, options=options).verdict.state == "overfitting"
    assert phases(path).verdict.state != "overfitting"


def test_a_file_that_cannot_be_read_does_not_end_the_others(curve, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("epoch,loss\n1,2\n2,nan\n")
    found, unread = phases_of_each([bad, curve, tmp_path / "gone.csv"])
    assert [one.source for one in found] == [curve]
    assert list(unread) == [bad, tmp_path / "gone.csv"]
    assert "line 3: 'loss' must be a finite number, got 'nan'" in unread[bad]


def test_the_result_reports_how_the_file_was_read_and_no_threshold_that_was_not_used(curve):
    plain = phases(curve).to_dict()
    assert plain["notes"] == ["read as a table: 60 epochs from 60 rows"]
    assert plain["column"] == "train_loss"
    assert plain["config"]["relative_threshold"] == 1e-3
    assert "threshold" not in plain["config"]
    assert phases(curve, {"threshold": 1e-2}).to_dict()["config"]["threshold"] == 1e-2


def test_one_phase_is_named_in_the_singular(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("loss\n1\n")
    refusal = phases(path, {"num_phases": 1}).refusal
    assert refusal == "one phase needs at least 2 epochs; got 1: train longer"


def test_a_runs_phases_are_found_again_with_other_settings(own_run):
    before = own_run.phases
    found = phases(own_run.path, {"num_phases": 2}).phases
    assert len(found.markers) == 2
    assert own_run.phases == found != before
    assert (own_run.path / "figures" / "phases.png").exists()
    assert run_phases(own_run.path) == (own_run.losses, before)


def test_a_run_that_was_killed_in_its_last_line_has_phases_of_the_rest(own_run):
    with open(own_run.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "lo')
    losses, _ = run_phases(own_run.path)
    assert len(losses) == 8


def test_a_folder_without_a_run_or_lines_is_refused(own_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        phases(tmp_path / "run" / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml; nor does it hold event files"):
        phases(tmp_path)
    (own_run.path / "metrics.jsonl").unlink()
    assert phases(own_run.path).phases == own_run.phases  # from the checkpoints' own notes
    (own_run.path / "DONE.json").unlink()
    shutil.rmtree(own_run.path / "checkpoints")
    with pytest.raises(ValueError, match="has no metrics yet; train it first"):
        phases(own_run.path)


def test_a_curve_without_phases_keeps_the_runs_old_ones(own_run):
    before = own_run.phases
    found = phases(own_run.path, {"threshold": 100})
    assert (found.phases, own_run.phases) == (None, before)
    assert "never above the threshold" in found.refusal
    assert "--threshold" in found.refusal
    assert found.verdict.lines[0].startswith("verdict: ")


def test_a_file_is_measured_by_its_own_range_unless_a_threshold_is_named(tmp_path):
    for scale in (1.0, 1e-4):
        path = tmp_path / "curve.csv"
        path.write_text("loss\n" + "\n".join(repr(scale * loss) for loss in LOSSES))
        found = phases(path).phases
        assert found.config.relative_threshold == 1e-3
        assert (
            found.markers
            == phases(path, {"threshold": scale * found.threshold / scale}).phases.markers
        )


def test_negative_losses_have_a_verdict_and_no_phases(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("loss\n" + "\n".join(repr(loss - 3) for loss in LOSSES))
    found = phases(path)
    assert found.phases is None
    assert "negative" in found.refusal
    assert found.verdict.state == "converged"
    assert found.to_dict()["verdict"]["epoch"] == found.verdict.epoch


def test_a_running_training_has_provisional_phases_before_the_threshold_is_reached(own_run):
    (own_run.path / "DONE.json").unlink()
    before = own_run.phases
    found = phases(own_run.path, {"threshold": 1e-6, "if_not_converged": "error"})
    assert found.provisional
    assert not found.phases.converged
    assert found.to_dict()["provisional"]
    assert own_run.phases == before  # what is provisional is not stored
