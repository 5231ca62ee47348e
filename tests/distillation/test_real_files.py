"""Labelled images as people have them: what is read, refused before any training, or reported."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fmce.config.distillation import DistillationDataConfig
from fmce.data.classification.image_folder import read_image_folder
from fmce.data.detection.boxes import unpack_boxes
from fmce.data.image_reader import read_rgb
from fmce.distillation.data.dataset import load_distillation_data
from tests.inputs import INPUTS

SIZE = {"labelled": None, "held_out": 0, "height": 64, "width": 96}


def of(root, name="folder", **section):
    names = {} if name == "coco" else {"class_names": ("car",)}
    return DistillationDataConfig(**{**SIZE, **names, "name": name, "root": str(root), **section})


def masks(root, ids_of, classes, *, count=3):
    """Write pairs whose masks hold `ids_of(split)`; return the config that reads them."""
    for split in ("train", "val"):
        for kind, pixels in (("images", 128), ("masks", ids_of(split))):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for i in range(count):
                array = np.broadcast_to(np.asarray(pixels, np.uint8), (64, 96))
                Image.fromarray(np.ascontiguousarray(array)).save(folder / f"{split}{i}.png")
    return of(root, class_names=classes)


def test_boxes_and_masks_of_turned_pictures_fit_the_upright_image():
    config = of(INPUTS / "images/01-exif6-yolo", "yolo", height=96, width=64)
    data = load_distillation_data("detect", config)
    (box,) = unpack_boxes(data.labelled.targets)[0]["boxes"].tolist()
    assert box == pytest.approx([6.4, 2.4, 25.6, 21.6], abs=1e-4)
    path = INPUTS / "images/01-exif6-yolo/images/train/train0.jpg"
    np.testing.assert_array_equal(data.labelled.images[0].permute(1, 2, 0), read_rgb(path))
    config = of(INPUTS / "images/01-exif3-masks", class_names=("a", "b", "c"))
    data = load_distillation_data("segment", config)
    # Stored upside down: where the shown image is bright, the mask has another class than elsewhere.
    image, mask = data.labelled.images[0].float().mean(0), data.labelled.targets[0]
    means = [float(image[mask == value].mean()) for value in mask.unique()]
    assert len(means) > 1
    assert max(means) - min(means) > 30


def test_an_image_folder_is_read_upright(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(INPUTS / "images/01-exif6-yolo/images/train/train0.jpg", tmp_path / name)
    parts = read_image_folder(tmp_path, 32)
    upright = read_rgb(tmp_path / "a/train0.jpg")
    expected = Image.fromarray(upright).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(parts.train.images[0].permute(1, 2, 0), np.asarray(expected))


def test_16_bit_pictures_are_scaled_in_every_pool(tmp_path):
    root = INPUTS / "images/04-16bit"
    config = of(
        root, class_names=("a", "b", "c"), folders=(str(root / "images/train"),), labelled=1
    )
    data = load_distillation_data("segment", config)
    for pool in (data.labelled, data.unlabelled, data.validation):
        assert 60 < pool.images.float().mean() < 220
        assert len(pool.images.unique()) > 20


def test_masks_of_0_and_255_are_refused_with_what_was_found():
    config = of(INPUTS / "images/03-binary", class_names=("background", "road"))
    message = (
        r"no pixel of road in the 2 labelled images; found: 0 \(background\) 62\.5%, "
        r"255 \(ignored\) 37\.5%; masks need the ids 0 … 1"
    )
    with pytest.raises(ValueError, match=message):
        load_distillation_data("segment", config)


def test_a_class_without_a_pixel_is_reported_for_each_set(tmp_path, caplog):
    config = masks(
        tmp_path, lambda split: [0, 1, 2] * 32 if split == "train" else 0, ("a", "b", "c")
    )
    load_distillation_data("segment", config)
    assert caplog.messages == [
        f"{tmp_path}: no pixel of b, c in the 3 validation images; found: 0 (a) 100.0%"
    ]


def test_one_class_alone_has_nothing_to_be_told_from(tmp_path, caplog):
    data = load_distillation_data("segment", masks(tmp_path, lambda _: 0, ("all",)))
    assert data.class_names == ("all",)
    assert caplog.messages == []


def test_a_class_without_a_box_is_reported_with_the_counts(caplog):
    root = INPUTS / "labels/11-yolo-pose"
    config = of(root, "yolo", class_names=("car", "bus"), label_columns="box")
    load_distillation_data("detect", config)
    assert caplog.messages == [
        f"{root}: no box of bus in the 2 {which} images; found: 0 (car) 100.0%"
        for which in ("labelled", "validation")
    ]


def test_coco_of_another_size_and_names_of_windows():
    root = INPUTS / "labels"
    with pytest.raises(ValueError, match=r"train0\.jpg is 192×128, its labels are for 96×64"):
        load_distillation_data("detect", of(root / "02-coco-size", "coco"))
    data = load_distillation_data("detect", of(root / "08-backslash", "coco"))
    assert unpack_boxes(data.labelled.targets)[0]["boxes"].tolist() == [[8, 32, 48, 56]]


@pytest.mark.parametrize("name", ["bom", "utf16", "win"])
def test_lists_of_images_to_leave_out_as_windows_writes_them(name, caplog):
    root = INPUTS / "labels/06-exclude"
    config = of(root, class_names=("a", "b", "c"), exclude=str(root / f"{name}.txt"))
    data = load_distillation_data("segment", config)
    assert (len(data.labelled), len(data.validation)) == (1, 1)
    assert not [m for m in caplog.messages if "match no image" in m]


def test_lines_of_a_list_that_match_nothing_are_named(tmp_path, caplog):
    root = INPUTS / "labels/06-exclude"
    (tmp_path / "x.txt").write_text("train0  # blurred\n# a heading\nTrain1\ntrain_2.jpeg\n")
    config = of(root, class_names=("a", "b", "c"), exclude=str(tmp_path / "x.txt"))
    load_distillation_data("segment", config)
    assert (
        f"{tmp_path}/x.txt: 2 of 3 stems match no image or video: Train1, train_2"
        in caplog.messages
    )
    caplog.clear()
    (tmp_path / "x.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.txt: expected one stem per line as UTF-8 text"):
        load_distillation_data("segment", config)


def test_images_without_annotation_are_counted(tmp_path, caplog):
    shutil.copytree(INPUTS / "labels/11-yolo-pose", tmp_path / "x")
    (tmp_path / "x/labels/train/train1.txt").unlink()
    config = of(tmp_path / "x", "yolo", label_columns="box")
    for kept, fate in (("empty", "count as images without objects"), ("skip", "are left out")):
        with caplog.at_level(logging.INFO, "fmce"):
            load_distillation_data("detect", replace(config, unannotated_images=kept))
        assert f"1 of 2 images have no annotation and {fate}" in caplog.text
