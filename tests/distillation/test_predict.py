"""`fmce predict`: official PNGs, their size and names, and scores against an independent implementation."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import nn

from fmce.config.distillation import DistillationConfig
from fmce.config.io import with_settings
from fmce.data.augmentation import Augmentation
from fmce.data.image_reader import read_ids
from fmce.data.road_scenes.scenes import render_scenes
from fmce.data.segmentation import BDD100K_CLASSES, folder_pair
from fmce.distillation.distill import distill
from fmce.distillation.predict import predict
from fmce.distillation.predict_masks import predict_mask, score_masks
from fmce.files import read_json
from fmce.tasks.distillation import SegmentationTask

real_data = pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"),
    reason="FMCE_DATA is not set: the folder with bdd10k-seg-sample and bdd100k-label-samples",
)


class Colours(nn.Module):
    """Takes the brightest channel for the class."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images * self.scale


@torch.inference_mode()
def test_classes_come_back_at_the_images_own_size_and_place():
    image = np.zeros((20, 60, 3), dtype=np.uint8)
    image[:, :30, 0] = image[:10, 30:, 1] = image[10:, 30:, 2] = 255
    plain = Augmentation((0.0,) * 3, (1.0,) * 3)
    task = SegmentationTask(3, ("a", "b", "c"))
    # Trained at 10×10: the image is halved to 10×30, whole and not cut.
    ids = predict_mask(task, Colours(), image, (10, 10), plain)
    assert ids.shape == (20, 60)
    assert ids.dtype == torch.uint8
    assert (ids[:, :28] == 0).all()
    assert (ids[:8, 32:] == 1).all()
    assert (ids[12:, 32:] == 2).all()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five scenes of two sizes in nested folders, one file damaged, and their masks."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        scenes = render_scenes([number], height=32, width=48 if number else 64, seed=9)
        for kind, pixels in (("images", scenes.images[0]), ("masks", scenes.masks[0])):
            path = folder / kind / ("a" if number < 2 else "b") / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (folder / "images" / "b" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def predicted(experiment, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    result = predict(experiment, pictures / "images", out, masks=pictures / "masks")
    return out, result


def test_each_image_has_a_mask_of_its_stem_and_size(pictures, predicted):
    out, _ = predicted
    for path in (pictures / "masks").rglob("*.png"):
        with (
            Image.open(path) as truth,
            Image.open(out / path.relative_to(pictures / "masks")) as mask,
        ):
            assert (mask.mode, mask.size) == ("L", truth.size)
            assert np.array(mask).max() < 10


def test_a_damaged_image_is_named_and_has_no_mask(predicted):
    out, result = predicted
    assert [Path(p).name for p in result["unreadable"]] == ["broken.png"]
    assert result["images"] == 5
    assert not (out / "b" / "broken.png").exists()
    assert read_json(out / "predictions.json") == result


def test_scores_are_scikit_learns(pictures, predicted):
    out, result = predicted
    names = sorted(p.relative_to(pictures / "masks") for p in (pictures / "masks").rglob("*.png"))
    truth, preds = (
        np.concatenate([read_ids(root / n).ravel() for n in names])
        for root in (pictures / "masks", out)
    )
    known = truth != 255
    expected = jaccard_score(
        truth[known], preds[known], labels=np.unique(truth[known]), average="macro"
    )
    assert result["scores"]["miou"] == pytest.approx(expected)


def test_missing_predictions_and_ids_outside_the_classes_are_refused(pictures, predicted, tmp_path):
    out, _ = predicted
    shutil.copytree(out, tmp_path / "some")
    (tmp_path / "some" / "a" / "0001.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 masks .* have no prediction .*: a/0001"):
        score_masks(tmp_path / "some", pictures / "masks", [str(i) for i in range(10)])
    Image.fromarray(np.full((32, 48), 10, np.uint8)).save(tmp_path / "some" / "a" / "0001.png")
    with pytest.raises(
        ValueError, match=r"0001\.png: expected predicted class ids in 0 … 9, got 10"
    ):
        score_masks(tmp_path / "some", pictures / "masks", [str(i) for i in range(10)])


def test_an_image_without_prediction_is_left_out_and_ids_of_the_files_are_mapped(tmp_path):
    for folder, name, ids in (("p", "a", [[0, 1]]), ("t", "a", [[0, 11]]), ("t", "b", [[1, 1]])):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.array(ids, np.uint8)).save(tmp_path / folder / f"{name}.png")
    folders = (tmp_path / "p", tmp_path / "t", ["sky", "road"])
    scores = score_masks(*folders, id_map={11: 255}, left_out={"b"})
    assert (scores["miou"], scores["pixels"]) == (1.0, 1)
    with pytest.raises(ValueError, match="b"):
        score_masks(*folders, id_map={11: 255})


def test_an_experiment_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run: fmce distill --out"):
        predict(tmp_path, tmp_path, tmp_path / "out")


@real_data
def test_real_bdd10k_samples_go_from_folders_to_official_masks(small_distillation, tmp_path):
    data = Path(os.environ["FMCE_DATA"])
    root = data / "bdd10k-seg-sample"
    settings = [
        *small_distillation,
        "data.name=bdd100k",
        f"data.root={root}",
        f"data.folders=[{data / 'bdd100k-det-sample10' / 'images'}]",
        "data.labelled=8",
        "data.validation=null",
        "student_steps={steps: 2, batch_size: 4, interval: 2}",
        "teacher_steps={steps: 2, batch_size: 4, interval: 2}",
        "arms=[function_matching]",
        "seeds=[1]",
    ]
    with pytest.warns(UserWarning, match="10k test, 100k val, 100k test"):  # no such sets there
        result = distill(with_settings(DistillationConfig(), settings), tmp_path / "x")
    assert result["images"] == {"labelled": 8, "unlabelled": 8, "held_out": 4, "validation": 8}
    assert list(result["teacher"]["iou"]) == list(BDD100K_CLASSES)
    out = tmp_path / "masks"
    scored = predict(
        tmp_path / "x",
        root / "images" / "val",
        out,
        network="teacher",
        masks=root / "masks" / "val",
    )
    masks = sorted(out.glob("*.png"))
    assert [p.name for p in masks] == sorted(p.name for p in (root / "masks" / "val").iterdir())
    assert {read_ids(p).shape for p in masks} == {(720, 1280)}
    assert 0 <= scored["scores"]["miou"] < 1


@real_data
def test_a_real_mask_of_bdd100ks_own_toolkit_is_read(tmp_path):
    mask = Path(os.environ["FMCE_DATA"]) / "bdd100k-label-samples" / "semseg_mask.png"
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    shutil.copy(mask, tmp_path / "masks" / "one.png")
    Image.new("RGB", (1280, 720)).save(tmp_path / "images" / "one.png")
    counts = folder_pair(tmp_path / "images", tmp_path / "masks", BDD100K_CLASSES).check()
    present = {name for name, pixels in counts.items() if pixels}
    assert {"car"} <= present <= {*BDD100K_CLASSES, "ignored"}
