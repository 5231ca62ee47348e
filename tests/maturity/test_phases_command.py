"""`fmce phases`: of a run, or of any loss curve alone."""

import json

import pytest

from fmce.convergence.phases import PhaseConfig, Phases, find_phases
from fmce.maturity.phases import phases, remarks, run_phases

LOSSES = [2.0 * 0.8**i + 0.1 for i in range(60)]


@pytest.fixture
def curve(tmp_path):
    path = tmp_path / "losses.csv"
    rows = [f"{i + 1},{loss!r},{0.1 - i * 0.001!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,train_loss,rate", *rows]))
    return path


def test_a_file_gives_what_the_library_gives(curve, capsys):
    found = phases(curve, ["threshold=1e-2", "num_phases=5"], column="train_loss")
    assert found == find_phases(LOSSES, PhaseConfig(num_phases=5, threshold=1e-2))
    out = capsys.readouterr().out
    assert f"convergence epoch {found.convergence_epoch} of 60" in out
    assert "step curve, same smoothing" in out


def test_json_is_the_result_and_nothing_else(curve, capsys):
    found = phases(curve, ["threshold=1e-2"], as_json=True)
    assert Phases.from_json(capsys.readouterr().out) == found


def test_learning_rates_of_the_file_say_how_far_the_schedule_had_fallen(curve):
    found = phases(curve, ["threshold=1e-2"], lr_column="rate", as_json=True)
    expected = (0.1 - (found.convergence_epoch - 1) * 0.001) / 0.1
    assert found.lr_fraction == pytest.approx(expected)


def test_steps_are_averaged_by_epoch(tmp_path, capsys):
    path = tmp_path / "steps.jsonl"
    rows = [{"epoch": e, "loss": loss + d} for e, loss in enumerate(LOSSES) for d in (-0.05, 0.05)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = phases(path, ["threshold=1e-2"], key="loss", epoch_column="epoch", as_json=True)
    assert found.markers == find_phases(LOSSES, PhaseConfig(threshold=1e-2)).markers


def test_markers_are_given_in_the_files_own_epochs_too(tmp_path, capsys):
    path = tmp_path / "every_fifth.csv"
    rows = [f"{5 * i},{loss!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,loss", *rows]))
    found = phases(path, ["threshold=1e-2", "num_phases=3"])
    own = ", ".join(str(5 * (marker - 1)) for marker in found.markers)
    assert f"as the file numbers epochs: [{own}]" in capsys.readouterr().out


def test_where_the_file_counts_likewise_nothing_is_said(curve, capsys):
    phases(curve, ["threshold=1e-2"])
    out = capsys.readouterr().out
    assert f"{curve.name}, train_loss" in "".join(out.splitlines())
    assert "the file" not in out


@pytest.mark.parametrize("name", ["phases.png", "new/phases.svg"])
def test_the_figure_is_drawn_where_asked(curve, tmp_path, name, capsys):
    phases(curve, ["threshold=1e-2"], figure=tmp_path / name)
    assert (tmp_path / name).stat().st_size > 10_000
    assert f"figure: {tmp_path / name}" in capsys.readouterr().out


def test_a_runs_phases_are_found_again_with_other_settings(own_run):
    before = own_run.phases
    found = phases(own_run.path, ["num_phases=2"])
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
    with pytest.raises(ValueError, match="has no metrics yet; train it first"):
        phases(own_run.path)


def test_a_curve_without_phases_keeps_the_runs_old_ones(own_run):
    before = own_run.phases
    with pytest.raises(ValueError, match="threshold"):
        phases(own_run.path, ["threshold=100"])
    assert own_run.phases == before


def test_remarks_say_what_made_the_markers():
    step = find_phases([2.3] + [0.001] * 59, PhaseConfig(threshold=2e-3))
    text = "\n".join(remarks(step))
    assert "the smoother makes these markers: they are 0.0 epochs" in text
    assert "learning rate" not in text
    rates = [1.0] * 30 + [0.1] * 30
    late = find_phases(LOSSES, PhaseConfig(threshold=1e-3), learning_rates=rates)
    assert "0.100 of its peak; CQI partly measures the schedule" in "\n".join(remarks(late))
    open_end = find_phases(LOSSES, PhaseConfig(threshold=1e-9, if_not_converged="last"))
    assert remarks(open_end)[0].startswith("not converged")
