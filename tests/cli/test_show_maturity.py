"""What the commands of method 1 print."""

import json
import shutil
from dataclasses import replace

import pytest

from fmce.cli.main import main
from fmce.cli.show_maturity import remarks, show_fmcs
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.digests import read_record
from fmce.maturity.fmcs import fmcs
from fmce.maturity.phases import phases
from fmce.maturity.train_fmce_net import train_fmce_net

LOSSES = [2.0 * 0.8**i + 0.1 for i in range(60)]


@pytest.fixture
def curve(tmp_path):
    path = tmp_path / "losses.csv"
    rows = [f"{i + 1},{loss!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,train_loss", *rows]))
    return path


def run(*arguments):
    main(list(map(str, arguments)))


def test_phases_prints_markers_and_what_the_smoother_did(curve, capsys):
    found = phases(curve, {"threshold": 1e-2, "num_phases": 5}).phases
    run("phases", curve, "--threshold", "1e-2", "--num-phases", 5)
    out = capsys.readouterr().out
    assert f"convergence epoch {found.convergence_epoch} of 60" in out
    assert "step curve, same smoothing" in out
    assert f"{curve.name}, train_loss" in "".join(out.splitlines())
    assert "the file" not in out  # it counts from 1 too


def test_phases_as_json_is_the_result_and_nothing_else(curve, capsys):
    run("phases", curve, "--threshold", "1e-2", "--json")
    found = phases(curve, {"threshold": 1e-2})
    printed = json.loads(capsys.readouterr().out)
    assert printed == found.to_dict()
    assert printed["markers"] == list(found.phases.markers)


def test_phases_end_with_the_verdict_in_three_lines(curve, capsys):
    run("phases", curve, "--threshold", "1e-2")
    lines = capsys.readouterr().out.splitlines()
    assert tuple(lines[-3:]) == phases(curve, {"threshold": 1e-2}).verdict.lines


def test_several_curves_give_one_table(curve, own_run, capsys):
    run("phases", curve, own_run.path)
    out = capsys.readouterr().out
    assert "published E_K" in out
    assert out.count("converged") + out.count("at rest") + out.count("undecided") >= 2


def test_a_curve_without_phases_has_its_verdict_and_exit_code_2(curve, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["phases", str(curve), "--threshold", "100"])
    said = capsys.readouterr()
    assert said.out.splitlines()[-3].startswith("verdict: ")
    assert "gives epoch" in said.err


def test_markers_are_printed_in_the_files_own_epochs_too(tmp_path, capsys):
    path = tmp_path / "every_fifth.csv"
    rows = [f"{5 * i},{loss!r}" for i, loss in enumerate(LOSSES)]
    path.write_text("\n".join(["epoch,loss", *rows]))
    run("phases", path, "--threshold", "1e-2", "--num-phases", 3)
    found = phases(path, {"threshold": 1e-2, "num_phases": 3}).phases
    own = ", ".join(str(5 * (marker - 1)) for marker in found.markers)
    assert f"as the file numbers epochs: [{own}]" in capsys.readouterr().out


def test_the_figure_is_named(curve, tmp_path, capsys):
    run("phases", curve, "--threshold", "1e-2", "--figure", tmp_path / "phases.png")
    assert f"figure: {tmp_path / 'phases.png'}" in capsys.readouterr().out


def test_remarks_say_what_made_the_markers():
    step = find_phases([2.3] + [0.001] * 59, PhaseConfig(threshold=2e-3))
    text = "\n".join(remarks(step))
    assert (
        "takes 100 % of the epochs to convergence too: the markers are largely an artefact" in text
    )
    assert "learning rate" not in text
    rates = [1.0] * 30 + [0.1] * 30
    late = find_phases(LOSSES, PhaseConfig(threshold=1e-3), learning_rates=rates)
    assert "0.100 of its peak; CQI partly measures the schedule" in "\n".join(remarks(late))
    open_end = find_phases(LOSSES, PhaseConfig(threshold=1e-9, if_not_converged="last"))
    assert remarks(open_end)[0].startswith("not converged")


def test_evaluate_prints_both_tables(own_run, capsys):
    run("evaluate", own_run.path)
    out = capsys.readouterr().out
    assert "Classifier of" in out
    assert "held-out maps" in out
    assert "spearman" in out


def test_evaluate_prints_json_and_nothing_else(own_run, capsys):
    run("evaluate", own_run.path, "--json")
    written = read_record(own_run.path / "evaluation.json")
    assert json.loads(capsys.readouterr().out) == written


def test_evaluate_names_the_width(own_run, capsys):
    train_fmce_net(own_run, config=replace(own_run.config.fmce_net, epochs=1, width=0.25))
    run("evaluate", own_run.path, "--set", "width=0.25")
    assert "FMCE-Net, split map, width 0.25" in capsys.readouterr().out


def test_a_run_it_was_trained_on_is_not_called_another(own_run, other_run, capsys, monkeypatch):
    monkeypatch.chdir(own_run.path.parent)  # short names stay on their line
    shutil.copytree(other_run.path, "other")
    run("evaluate", own_run.path, "--others", own_run.path.name, "other")
    out = capsys.readouterr().out
    assert f"a run it was trained on: {own_run.path.name}" in out
    assert "other run: other" in out


def test_a_score_is_printed_with_its_warning(finished_run, capsys):
    result = fmcs(finished_run, epoch=5)
    show_fmcs(result)
    out = capsys.readouterr().out
    assert "near chance" in out
    assert f"in phase {result['true_phase']}" in out


def test_explain_prints_a_table_and_names_the_picture(own_run, capsys):
    pytest.importorskip("captum")
    run("explain", own_run.path, "--images", 2)
    out = capsys.readouterr().out
    assert "Grad-CAM of 2 test images" in out
    assert "grad_cam.png" in "".join(out.splitlines())
