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
from fmce.distillation import predict_masks
from fmce.distillation.distill import distill
from fmce.distillation.predict import predict
from fmce.distillation.predict_masks import predict_mask, score_masks, true_masks
from fmce.files import read_json
from fmce.tasks.distillation import SegmentationTask
from tests.inputs import INPUTS

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


def write_ids(path, ids, size=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).resize(size or np.shape(ids)[::-1]).save(path)
    return path


def test_an_image_without_prediction_is_left_out_and_ids_of_the_files_are_mapped(tmp_path):
    for name, ids in (("a", [[0, 11]]), ("b", [[1, 1]])):
        write_ids(tmp_path / "t" / f"{name}_train_id.png", ids)
        write_ids(tmp_path / "i" / f"{name}.jpg", ids)
    paths = sorted((tmp_path / "i").iterdir())
    truth = true_masks(tmp_path / "t", paths, tmp_path / "i", ["sky", "road"], {11: 255})
    scores = score_masks(truth, {paths[0]: write_ids(tmp_path / "p.png", [[0, 1]])})
    assert (scores["miou"], scores["pixels"]) == (1.0, 1)
    with pytest.raises(ValueError, match=r"a_train_id\.png holds 11, expected class ids 0 … 1"):
        true_masks(tmp_path / "t", paths, tmp_path / "i", ["sky", "road"])


@pytest.mark.parametrize("seed", range(3))
def test_miou_of_masks_with_ignored_pixels_and_mapped_ids_is_an_independent_loops(tmp_path, seed):
    rng = np.random.default_rng(seed)
    classes, hits, unions, seen = 5, np.zeros(5), np.zeros(5), np.zeros(5)
    predicted = {}
    for i in range(4):
        size = rng.integers(5, 30, 2)
        ids, answer = rng.choice([0, 1, 2, 3, 11, 200, 255], size), rng.integers(0, classes, size)
        image = write_ids(tmp_path / "i" / f"{i}.png", ids)
        write_ids(tmp_path / "t" / f"{i}.png", ids)
        predicted[image] = write_ids(tmp_path / "p" / f"{i}.png", answer)
        for there, here in zip(ids.ravel(), answer.ravel(), strict=True):
            wanted = {200: 3}.get(there, there)
            if wanted in (11, 255):
                continue
            seen[wanted] += 1
            hits[wanted] += wanted == here
            unions[wanted] += 1
            unions[here] += wanted != here
    truth = true_masks(
        tmp_path / "t", list(predicted), tmp_path / "i", tuple("abcde"), {11: 255, 200: 3}
    )
    scores = score_masks(truth, predicted)
    present = seen > 0
    assert present.tolist() == [True] * 4 + [False]
    assert scores["miou"] == pytest.approx((hits[present] / unions[present]).mean(), abs=1e-12)


def refused(experiment, images, out, message, **options):
    with pytest.raises(ValueError, match=message):
        predict(experiment, images, out, **options)
    assert not list(out.rglob("*.png")) or out == images


def test_masks_that_do_not_fit_are_refused_before_the_first_image(experiment, pictures, tmp_path):
    images, out = pictures / "images", tmp_path / "out"
    wrong = "1 of 1 masks in .*12-wrongmasks have no image in .*images: zzz; give the masks"
    refused(experiment, images, out, wrong, masks=INPUTS / "labels" / "12-wrongmasks")
    shutil.copytree(pictures / "masks", tmp_path / "masks")
    mask = tmp_path / "masks" / "a" / "0001.png"
    write_ids(mask, np.full((32, 48), 10))
    refused(experiment, images, out, r"0001\.png holds 10, expected", masks=tmp_path / "masks")
    write_ids(mask, np.zeros((16, 24)))
    refused(
        experiment, images, out, r"1 of 5 .*is 16×24, its image 32×48", masks=tmp_path / "masks"
    )
    mask.write_bytes(b"no mask")
    refused(
        experiment, images, out, r"0001\.png cannot be read \(no image", masks=tmp_path / "masks"
    )
    shutil.copy(pictures / "masks" / "a" / "0001.png", mask)
    shutil.copy(mask, mask.with_name("0001_train_id.png"))
    refused(experiment, images, out, "expected one mask per image", masks=tmp_path / "masks")
    (tmp_path / "none").mkdir()
    refused(experiment, images, out, "0 of 0 masks", masks=tmp_path / "none")


def test_no_output_overwrites_another_or_what_is_read(experiment, predicted, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(INPUTS / "labels" / "12-nested", images)
    result = predict(experiment, images, tmp_path / "out")
    assert result["images"] == len(list((tmp_path / "out").rglob("*.png"))) == 4
    refused_again = "holds finished predictions; choose another folder, or delete it"
    with pytest.raises(ValueError, match=refused_again):
        predict(experiment, images, tmp_path / "out", network="teacher")
    refused(experiment, images, images, "expected a folder outside the images")
    refused(experiment, images, images / "drive1" / "out", "expected a folder outside the images")
    shutil.copytree(tmp_path / "out", tmp_path / "truth")
    (tmp_path / "truth" / "predictions.json").unlink()
    before = {p: p.read_bytes() for p in (tmp_path / "truth").rglob("*.png")}
    with pytest.raises(ValueError, match=r"would overwrite .*0000\.png, .* which are read"):
        predict(experiment, images, tmp_path / "truth", masks=tmp_path / "truth", network="teacher")
    assert before == {p: p.read_bytes() for p in (tmp_path / "truth").rglob("*.png")}
    shutil.copy(images / "drive1" / "0000.jpg", images / "drive1" / "0000.jpeg")
    refused(experiment, images, tmp_path / "new", r"0000\.jpeg and .*0000\.jpg would both give")


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


@torch.inference_mode()
def test_the_classes_of_a_large_image_are_found_in_parts(monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (37, 23, 3), dtype=np.uint8)
    task = SegmentationTask(3, ("a", "b", "c"))
    arguments = task, Colours().eval(), image, (8, 8), Augmentation((0.0,) * 3, (1.0,) * 3)
    complete = predict_mask(*arguments)
    monkeypatch.setattr(predict_masks, "_MOST_VALUES", 3 * 23 * 4 * 5)  # five rows at a time
    assert (predict_mask(*arguments) != complete).float().mean() < 0.01  # but for ties


def test_an_image_much_longer_than_those_of_the_training_is_left_out(
    experiment, pictures, tmp_path, caplog
):
    images = tmp_path / "images"
    shutil.copytree(pictures / "images" / "a", images)
    Image.new("RGB", (1, 4000)).save(images / "long.png")
    result = predict(experiment, images, tmp_path / "out")
    assert result["unreadable"] == [str(images / "long.png")]
    assert "1 × 4000 pixels, more than 16 times as long" in caplog.text
