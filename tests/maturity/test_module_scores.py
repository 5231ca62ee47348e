"""`fmce score`: each module of a run at its checkpoints, by whatever was measured."""

import json
import shutil

import numpy as np
import pytest

from fmce import MaturityScorer, ScoredProbe, open_run
from fmce.cli.main import main
from fmce.maturity.histories import about_run
from fmce.maturity.module_scores import score_run, spread
from tests.recorder.loops import Small, digits, recorded
from tests.scoring.runs import histories

MODULES = ("blocks.0", "blocks.2")


@pytest.fixture(scope="module")
def scores(finished_run):
    return score_run(finished_run, modules=MODULES, images=128)


def data():
    images, targets = digits()
    return {"train": (images[:200], targets[:200]), "test": (images[200:260], targets[200:260])}


def test_every_kept_epoch_of_each_module_has_a_score_with_an_interval(finished_run, scores):
    assert [m.name for m in scores.modules] == list(MODULES)
    assert scores.finished
    assert scores.images == 128
    for module in scores.modules:
        within = module.within_run
        assert within.epochs.tolist() == finished_run.epochs
        assert (within.low <= within.values).all()
        assert (within.values <= within.high).all()
        assert within.values[-1] > 8
        assert within.values[0] < within.values[-1]
        assert sorted(module.snapshot_order) == list(range(1, 9))


def test_what_a_score_is_compared_with_stands_beside_it(finished_run, scores):
    base = scores.modules[-1].baselines
    assert base["share_of_schedule"] == [n / 8 for n in range(1, 9)]
    assert all(v is not None for values in base.values() for v in values)
    assert base["head_loss"][-1] < base["head_loss"][0]
    assert base["probe_error"][-1] < base["probe_error"][0]


def test_scores_are_the_same_in_every_call(finished_run, scores):
    again = score_run(finished_run, modules=MODULES, images=128)
    assert again.to_dict() == scores.to_dict()
    json.dumps(scores.to_dict(), allow_nan=False)


def test_a_training_that_was_cut_off_is_scored_against_an_extrapolated_end(own_run):
    (own_run.path / "DONE.json").unlink()
    for epoch in range(6, 9):
        shutil.rmtree(own_run.path / "checkpoints" / f"epoch_{epoch:04d}")
    lines = (own_run.path / "metrics.jsonl").read_text().splitlines()[:5]
    (own_run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    scores = score_run(open_run(own_run.path), modules=["blocks.2"], images=128)
    within = scores.modules[0].within_run
    assert not scores.finished
    assert within.extrapolated
    assert within.epochs.tolist() == [1, 2, 3, 4, 5]
    assert within.values[-1] < 9.9
    assert within.low[-1] <= within.values[-1] <= within.high[-1]


def test_a_run_with_all_its_epochs_is_over_without_its_record_of_the_end(own_run):
    before = score_run(open_run(own_run.path), modules=["blocks.2"], images=128)
    (own_run.path / "DONE.json").unlink()
    after = score_run(open_run(own_run.path), modules=["blocks.2"], images=128)
    assert after.finished
    assert after.modules[0].within_run.low.tolist() == before.modules[0].within_run.low.tolist()


def test_modules_default_to_the_recorded_ones_or_the_children(finished_run):
    found = score_run(finished_run, images=64)
    assert [m.name for m in found.modules] == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]


def test_an_unknown_module_and_a_missing_epoch_are_errors(finished_run):
    with pytest.raises(ValueError, match="no submodule 'neck'"):
        score_run(finished_run, modules=["neck"], images=64)
    with pytest.raises(FileNotFoundError, match="available epochs"):
        score_run(finished_run, modules=["blocks.2"], epochs=[99], images=64)


def test_a_run_without_checkpoints_is_an_error(own_run):
    shutil.rmtree(own_run.path / "checkpoints")
    with pytest.raises(FileNotFoundError, match="no checkpoints to score"):
        score_run(own_run, modules=["blocks.2"], images=64)


def test_what_a_recorder_measured_needs_neither_model_nor_checkpoints(tmp_path):
    images, targets = digits()
    probe = ScoredProbe(images[:200], targets[:200])
    recorded(tmp_path / "run", 12, probe=probe, modules=["middle", "late"], keep="none")
    found = score_run(open_run(tmp_path / "run"))
    assert [m.name for m in found.modules] == ["middle", "late"]
    assert found.images is None
    assert not found.finished  # closed, but not finished
    assert found.modules[1].within_run.extrapolated
    assert found.modules[1].within_run.labels == "class"
    assert set(found.modules[1].within_run.novel) >= {"run", "data", "architecture"}


def test_a_recorded_run_of_ones_own_is_measured_with_its_model_and_images(tmp_path):
    recorded(tmp_path / "run", 12, modules=["middle", "late"], keep="all")
    run = open_run(tmp_path / "run", model=Small, data=data)
    found = score_run(run)
    assert found.images == 200
    assert found.modules[1].within_run.epochs[-1] == 12
    assert found.modules[1].baselines["head_loss"][-1] < 0


def test_images_without_classes_are_scored_without_labels(tmp_path):
    recorded(tmp_path / "run", 12, modules=["late"], keep="all")
    unlabelled = {"train": (digits()[0][:200], None), "test": (digits()[0][200:260], None)}
    found = score_run(open_run(tmp_path / "run", model=Small, data=lambda: unlabelled))
    assert found.modules[0].within_run.labels == "free"
    assert found.modules[0].baselines["head_loss"] == [None] * 12
    assert found.modules[0].baselines["probe_error"] == [None] * 12


def test_a_scorer_of_ones_own_takes_its_place(finished_run):
    own = MaturityScorer.fit(histories(6))
    found = score_run(finished_run, modules=["blocks.2"], images=128, scorer=own)
    assert found.modules[0].within_run.novel == ("run", "width", "recipe", "data", "architecture")


def test_epochs_are_spread_with_the_first_and_the_last():
    assert spread([3, 9], 16) == [3, 9]
    chosen = spread(range(1, 201), 16)
    assert chosen[0] == 1
    assert chosen[-1] == 200
    assert len(chosen) <= 16
    assert (np.diff(chosen, n=2) >= -1).all()


def test_a_run_is_described_in_the_words_of_the_training_card(finished_run):
    assert about_run(finished_run) == {
        "data": "digits 8px",
        "architecture": "tiny",
        "width": "tiny 4",
        "recipe": "adam-0.005-8-cosine-128",
    }


def test_the_shipped_scorer_is_small_and_names_what_it_was_fitted_on():
    from fmce.scoring.scorer import SHIPPED

    assert SHIPPED.stat().st_size < 200_000
    card = MaturityScorer.load().card
    assert len(card["run"]) >= 40
    assert min(len(card[n]) for n in ("data", "architecture", "width", "recipe")) >= 4
    assert card["command"].startswith("python -m experiments.transfer")


def test_the_command_prints_each_module_and_one_epoch_of_all(finished_run, capsys):
    words = ["score", str(finished_run.path), "--modules", *MODULES, "--images", "128"]
    main(words)
    out = capsys.readouterr().out
    assert "blocks.0 of" in out
    assert "blocks.2 of" in out
    assert "it does not compare this run with others" in out
    assert "orders checkpoints of one training task" in out
    main([*words, "--epoch", "4"])
    out = capsys.readouterr().out
    assert "at epoch 4" in out
    assert out.count(" of 8") == 2
    main([*words, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in printed["modules"]] == list(MODULES)


def test_the_command_takes_a_file_of_ones_own(finished_run, tmp_path, capsys):
    MaturityScorer.fit(histories(6)).save(tmp_path / "mine.json")
    words = ["score", str(finished_run.path), "--modules", "blocks.2", "--images", "64"]
    main([*words, "--scorer", str(tmp_path / "mine.json")])
    assert (
        "not in the scorer's training card: run, width, recipe, data, architecture"
        in capsys.readouterr().out
    )
