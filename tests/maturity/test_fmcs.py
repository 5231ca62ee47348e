"""`fmce fmcs`: one checkpoint's maps, by epoch or by file."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fmce.engine.runtime import make_runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.maturity.fmcs import WARNING, fmcs
from fmce.models.fmce_net import expected_phase


def by_hand(run, epoch):
    runtime = make_runtime("cpu")
    index = torch.arange(len(run.setup.data.test))
    maps = map_extractor(run, epoch, runtime)(run.setup.images(run.setup.data.test, runtime)(index))
    with torch.no_grad():
        return run.fmce_net("map")(maps)


def test_a_score_is_the_mean_expected_phase_over_test_images(finished_run):
    result = fmcs(finished_run, epoch=5)
    logits = by_hand(finished_run, 5)
    expected = expected_phase(logits).double()
    assert result["mean"] == pytest.approx(expected.mean().item(), abs=1e-5)
    assert result["sd"] == pytest.approx(expected.std().item(), abs=1e-5)
    counts = torch.bincount(logits.argmax(1), minlength=3)
    assert result["share_per_phase"] == pytest.approx((counts / 360).tolist(), abs=1e-6)
    assert result["true_phase"] == finished_run.phases.phase_at(5)
    assert result["images"] == 360


def test_folder_and_file_of_a_checkpoint_score_as_its_epoch(finished_run):
    folder = finished_run.path / "checkpoints" / "epoch_0005"
    by_epoch = fmcs(finished_run, epoch=5)
    assert fmcs(finished_run, checkpoint=folder) == by_epoch
    assert fmcs(finished_run, checkpoint=folder / "model.safetensors") == by_epoch


def test_a_checkpoint_given_from_within_its_folder_scores_as_its_epoch(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run.path / "checkpoints" / "epoch_0005")
    by_epoch = fmcs(finished_run, epoch=5)
    assert fmcs(finished_run, checkpoint=Path()) == {**by_epoch, "checkpoint": "."}


def test_weights_from_elsewhere_have_no_true_phase(finished_run, tmp_path):
    save_file(finished_run.model(5).state_dict(), tmp_path / "mine.safetensors")
    result = fmcs(finished_run, checkpoint=tmp_path / "mine.safetensors")
    assert result["true_phase"] is None
    assert result["mean"] == fmcs(finished_run, epoch=5)["mean"]


@pytest.mark.parametrize("both", [{}, {"epoch": 1, "checkpoint": Path("x")}])
def test_one_checkpoint_must_be_named(finished_run, both):
    with pytest.raises(ValueError, match="either --epoch N or --checkpoint FOLDER"):
        fmcs(finished_run, **both)


@pytest.mark.parametrize("missing", [{"epoch": 0}, {"epoch": 40}, {"checkpoint": Path("nowhere")}])
def test_a_checkpoint_that_is_not_there_is_named(finished_run, missing):
    with pytest.raises(FileNotFoundError, match=r"available epochs|no weights at nowhere"):
        fmcs(finished_run, **missing)


def test_a_damaged_checkpoint_is_named(own_run):
    file = own_run.path / "checkpoints" / "epoch_0002" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        fmcs(own_run, epoch=2)


def test_a_run_without_a_net_says_how_to_train_one(own_run):
    shutil.rmtree(own_run.path / "fmce_net")
    with pytest.raises(FileNotFoundError, match="fmce train-net"):
        fmcs(own_run, epoch=2)


def test_the_warning_is_always_there(finished_run):
    assert fmcs(finished_run, epoch=5)["warning"] == WARNING
