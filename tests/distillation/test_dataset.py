"""Which images an experiment gets: sizes, validation drawn at random, the leak rule for left-out images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fmce.config.distillation import DistillationDataConfig
from fmce.data.classification.classification import load_classification
from fmce.data.detection.boxes import unpack_boxes
from fmce.data.image_files import UnreadableDataError
from fmce.data.pools import resize_and_center_crop
from fmce.distillation.data.dataset import (
    damaged_images,
    load_distillation_data,
    prepare_distillation_data,
)


@given(st.integers(9, 500), st.integers(9, 500), st.sampled_from([(64, 128), (96, 128), (8, 9)]))
def test_any_size_is_covered(height, width, size):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    assert resize_and_center_crop(image, *size).shape == (*size, 3)


def test_a_size_whose_box_rounds_to_outside_the_image_is_covered():
    # With 412×210 pixels the box begins at −3e−14, which Pillow refuses.
    ids = np.full((210, 412), 7, dtype=np.uint8)
    assert (resize_and_center_crop(ids, 64, 128) == 7).all()


def test_validation_images_are_drawn_and_not_the_first_of_a_sorted_set():
    config = DistillationDataConfig(
        name="digits", height=8, width=8, labelled=100, validation=60, held_out=10
    )
    data = load_distillation_data("classify", config)
    everything = load_classification("digits", split_seed=0).test
    assert len(data.validation) == 60
    assert data.validation.targets is not None
    assert not torch.equal(data.validation.targets, everything.targets[:60])
    again = load_distillation_data("classify", config)
    assert torch.equal(data.validation.images, again.validation.images)


def _bdd100k(root):
    """Four training pairs, one of them also an image of 100k's validation set, and one validation pair."""
    names = {"train": [f"0000000{i}-00000000" for i in range(4)], "val": ["0000000a-00000000"]}
    for split, stems in names.items():
        for number, stem in enumerate(stems):
            image = root / "images/10k" / split / f"{stem}.png"
            mask = root / "labels/sem_seg/masks" / split / f"{stem}.png"
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 8), (10 * number, 0, 0)).save(image)
            Image.fromarray(
                np.repeat([[0], [1]], [4, 4], axis=0).repeat(16, 1).astype(np.uint8)
            ).save(mask)
    for folder, stem in (("100k/val", names["train"][3]), ("100k/test", "x"), ("10k/test", "y")):
        path = root / "images" / folder / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 8)).save(path)
    return root


@pytest.mark.parametrize("seed", range(4))
def test_left_out_training_images_of_100ks_validation_set_stay_out_of_the_pool(seed, tmp_path):
    config = DistillationDataConfig(
        name="bdd100k",
        root=str(_bdd100k(tmp_path)),
        height=8,
        width=16,
        labelled=1,
        unlabelled=None,
        held_out=0,
        seed=seed,
    )
    data = load_distillation_data("segment", config)
    reds = sorted({int(image[0, 0, 0]) for image in data.unlabelled.images})
    labelled = int(data.labelled.images[0, 0, 0, 0])
    assert reds == sorted({0, 10, 20} - {labelled})


def test_a_mask_of_other_ids_is_named_wherever_it_lies(tmp_path):
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
            for number in range(70):  # with 64 spread over them, number 69 is not among those
                wrong = (kind, split, number) == ("masks", "train", 69)
                picture = Image.new(mode, (16, 8), 9 if wrong else 0)
                picture.save(tmp_path / kind / split / f"{number:02}.png")
    config = DistillationDataConfig(
        name="folder", root=str(tmp_path), height=8, width=16, class_names=("road", "sky")
    )
    with pytest.raises(ValueError, match=r"1 of 70 items are wrong: .*69\.png holds 9, expected"):
        load_distillation_data("segment", config)


def test_damaged_files_of_every_pool_are_counted_and_named(tmp_path):
    for folder, count in (("train", 6), ("val", 3)):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / kind / folder).mkdir(parents=True)
            for number in range(count):
                Image.new(mode, (16, 8), number % 2).save(
                    tmp_path / kind / folder / f"{number}.png"
                )
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.new("RGB", (16, 8)).save(frames / f"{number}f.png")
    broken = (
        ("labelled", 1, tmp_path / "images/train/2.png"),
        ("validation", 1, tmp_path / "masks/val/0.png"),
        ("unlabelled", 2, frames / "1f.png"),
        ("unlabelled", 2, frames / "3f.png"),
    )
    for _, _, path in broken:
        path.write_bytes(path.read_bytes()[:30])
    config = DistillationDataConfig(
        name="folder",
        root=str(tmp_path),
        height=8,
        width=16,
        labelled=None,
        held_out=0,
        folders=(str(frames),),
        class_names=("road", "sky"),
    )
    out = tmp_path / "experiment"
    out.mkdir()
    prepare_distillation_data(out, "segment", config)
    damaged = damaged_images(out)
    assert {pool: found["count"] for pool, found in damaged.items()} == {
        pool: count for pool, count, _ in broken
    }
    assert all(path.name in damaged[pool]["first"] for pool, _, path in broken)


@pytest.mark.parametrize("seed", range(3))
def test_labelled_images_are_neither_in_the_pool_nor_held_out(seed, tmp_path):
    """Each image has a level of its own: training 0, 10, …, 90, validation 200 and 210, frames 150 …"""
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        for split, count in (("train", 10), ("val", 2)):
            (tmp_path / kind / split).mkdir(parents=True)
            for number in range(count):
                level = 10 * number + (200 if split == "val" else 0)
                picture = Image.new(mode, (16, 8), (level,) * 3 if mode == "RGB" else number % 2)
                picture.save(tmp_path / kind / split / f"{split}{number}.png")
    (tmp_path / "more").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 8), (150 + number,) * 3).save(tmp_path / f"more/{number}.png")
    config = DistillationDataConfig(
        name="folder",
        root=str(tmp_path),
        height=8,
        width=16,
        labelled=6,
        unlabelled=None,
        held_out=4,
        folders=(str(tmp_path / "images"), str(tmp_path / "more")),
        class_names=("road", "sky"),
        seed=seed,
    )
    data = load_distillation_data("segment", config)
    levels = {
        name: [int(image[0, 0, 0]) for image in getattr(data, name).images]
        for name in ("labelled", "unlabelled", "held_out")
    }
    rest = set(range(0, 100, 10)) - set(levels["labelled"]) | {150, 151, 152}
    assert (len(levels["labelled"]), len(levels["held_out"]), len(rest)) == (6, 4, 4 + 3)
    assert sorted(levels["unlabelled"] + levels["held_out"]) == sorted(rest)


def test_normalisation_can_be_another_than_the_labelled_images(tmp_path):
    fixed = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    size = {"height": 16, "width": 16, "labelled": 2, "unlabelled": 2, "held_out": 0}
    data = load_distillation_data("segment", DistillationDataConfig(**size, validation=1, **fixed))
    assert (data.mean, data.std) == (fixed["mean"], fixed["std"])
    for wrong in ({"mean": (0.5,)}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}):
        with pytest.raises(ValueError, match="mean and std: expected three numbers each, or none"):
            DistillationDataConfig(**wrong)


def boxed_pictures(root, split, count):
    for i in range(count):
        image = np.zeros((60, 100, 3), np.uint8)
        image[20:40, 30:50] = 255
        path = root / "images" / split / f"{split}{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        label = root / "labels" / split / f"{split}{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.4 0.5 0.2 0.3333333\n")


def of_boxed_pictures(root, **section):
    size = {"height": 30, "width": 40, "held_out": 0}
    return DistillationDataConfig(
        name="yolo", root=str(root), class_names=("car",), **size, **section
    )


def test_boxes_and_images_of_files_are_brought_to_one_size(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        boxed_pictures(tmp_path, split, count)
    data = load_distillation_data("detect", of_boxed_pictures(tmp_path, labelled=3))
    assert [len(p) for p in (data.labelled, data.unlabelled, data.validation)] == [3, 1, 2]
    (box,) = unpack_boxes(data.labelled.targets)[0]["boxes"].tolist()
    # Halved to 50 pixels wide, of which the middle 40 are kept.
    assert box == pytest.approx([10, 10, 20, 20], abs=1e-3)
    assert ((data.labelled.images[0, 0] > 127).nonzero().aminmax(dim=0).min.tolist()) == [10, 10]


def test_damaged_labelled_images_of_a_detector_stop_it_above_the_rate_that_was_set(tmp_path):
    for split, count in (("train", 12), ("val", 2)):
        boxed_pictures(tmp_path, split, count)
    damaged = [f"train{i}.png" for i in (0, 1, 4, 7, 10, 11)]
    for name in damaged:
        (tmp_path / "images" / "train" / name).write_bytes(b"no picture")
    config = of_boxed_pictures(tmp_path, labelled=None)
    with pytest.raises(UnreadableDataError, match=r"train11\.png"):
        load_distillation_data("detect", config)
    data = load_distillation_data("detect", replace(config, max_damaged=0.9))
    assert sorted(Path(name).name for name in data.labelled.damaged) == sorted(damaged)


def coco_set(root, **categories):
    """One training and one validation image, a box of every category in each."""
    for split, names in categories.items():
        (root / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / split / f"{split}.png")
        boxes = [[4 * i, 5, 3, 3] for i in names]
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png"}],
            "categories": [{"id": i, "name": name} for i, name in names.items()],
            "annotations": [
                {"image_id": 1, "category_id": i, "bbox": box}
                for i, box in zip(names, boxes, strict=True)
            ],
        }
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    size = {"height": 30, "width": 40, "labelled": None, "held_out": 0}
    return DistillationDataConfig(name="coco", root=str(root), **size)


def test_validation_boxes_have_the_class_ids_of_the_training_file(tmp_path):
    config = coco_set(tmp_path, train={1: "car", 2: "person"}, val={2: "person"})
    data = load_distillation_data("detect", config)
    assert data.class_names == ("car", "person")
    assert unpack_boxes(data.labelled.targets)[0]["labels"].tolist() == [0, 1]
    assert unpack_boxes(data.validation.targets)[0]["labels"].tolist() == [1]
    data = load_distillation_data("detect", replace(config, class_names=("person", "car")))
    assert unpack_boxes(data.labelled.targets)[0]["labels"].tolist() == [1, 0]
    assert unpack_boxes(data.validation.targets)[0]["labels"].tolist() == [0]


def test_validation_classes_that_training_does_not_have_are_named_with_both_lists(tmp_path):
    config = coco_set(tmp_path, train={1: "car", 2: "person"}, val={1: "person", 3: "dog"})
    message = r"instances_val\.json has the classes person, dog, but .* have car, person"
    with pytest.raises(ValueError, match=message):
        load_distillation_data("detect", config)
    data = load_distillation_data("detect", replace(config, class_names=("person",)))
    assert unpack_boxes(data.validation.targets)[0]["labels"].tolist() == [0]
    with pytest.raises(
        ValueError, match=r"instances_val\.json: expected boxes to find in 1 images"
    ):
        load_distillation_data("detect", replace(config, class_names=("car",)))


def test_labelled_images_without_a_box_are_refused(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        boxed_pictures(tmp_path, split, count)
    for path in (tmp_path / "labels" / "train").iterdir():
        path.write_text("")
    config = DistillationDataConfig(
        name="yolo", root=str(tmp_path), class_names=("car",), held_out=0
    )
    with pytest.raises(ValueError, match=r"train: expected boxes to find in 4 images, got none"):
        load_distillation_data("detect", config)


@pytest.mark.parametrize("name", ["kitti", "bdd100k"])
def test_class_names_of_data_that_has_its_own_are_refused(name, tmp_path):
    config = DistillationDataConfig(name=name, root=str(tmp_path), class_names=("car",))
    with pytest.raises(ValueError, match=f"class_names is car, but {name} has its own classes"):
        load_distillation_data("detect", config)


def test_a_class_name_given_twice_is_refused():
    with pytest.raises(ValueError, match="class_names: expected different values"):
        DistillationDataConfig(class_names=("car", "car"))


@pytest.mark.parametrize(("task", "name"), [("detect", "yolo"), ("segment", "folder")])
def test_folders_beside_built_in_scenes_name_data_that_take_them(task, name):
    with pytest.raises(ValueError, match=rf"--set data\.name={name}"):
        load_distillation_data(task, DistillationDataConfig(folders=("frames",)))


def test_unknown_detection_data_is_named():
    with pytest.raises(ValueError, match="choose from scenes, bdd100k, kitti, coco, yolo, voc"):
        load_distillation_data("detect", DistillationDataConfig(name="camvid"))
