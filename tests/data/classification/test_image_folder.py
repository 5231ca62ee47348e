"""Image folders: layouts, splits, decoding, and what is said of damaged files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.data.classification import image_folder
from fmce.data.classification.classification import load_classification
from fmce.data.classification.image_folder import read_image_folder

PARTS = ("train", "validation", "test")


def write_images(folder, count, level=None, size=(12, 10), suffix=".png"):
    """Write images of one grey level each; the level tells them apart when read."""
    folder.mkdir(parents=True)
    for number in range(count):
        grey = number if level is None else level
        Image.new("RGB", size, (grey, grey, grey)).save(folder / f"{number:03d}{suffix}")


def test_without_a_split_a_fifth_of_each_class_is_test(tmp_path):
    write_images(tmp_path / "cat", 50)
    write_images(tmp_path / "dog", 100)
    data = load_classification("image-folder", root=tmp_path, image_size=4)
    assert [
        part.targets.bincount().tolist() for part in (data.train, data.validation, data.test)
    ] == [
        [36, 72],
        [4, 8],
        [10, 20],
    ]
    assert data.class_names == ("cat", "dog")
    dogs = [
        part.images[part.targets == 1, 0, 0, 0] for part in (data.train, data.validation, data.test)
    ]
    assert sorted(torch.cat(dogs).tolist()) == list(range(100))


def test_the_published_seed_alone_draws_the_split(tmp_path):
    write_images(tmp_path / "a", 30)
    write_images(tmp_path / "b", 30)
    one, same, other = (
        load_classification("image-folder", root=tmp_path, image_size=4, split_seed=s)
        for s in (0, 0, 1)
    )
    assert torch.equal(one.test.images, same.test.images)
    assert not torch.equal(one.test.images, other.test.images)


@pytest.mark.parametrize("held", ["val", "validation", "test"])
def test_a_second_folder_is_the_test_split(tmp_path, held):
    for part, level in (("train", 10), (held, 200)):
        for name in "ab":
            write_images(tmp_path / part / name, 10, level)
    data = load_classification("image-folder", root=tmp_path, image_size=4)
    assert [len(getattr(data, p)) for p in PARTS] == [18, 2, 20]
    assert data.test.images.unique().tolist() == [200]
    assert data.validation.images.unique().tolist() == [10]


def test_three_folders_are_taken_as_they_are_named(tmp_path):
    for part, level in (("train", 10), ("val", 100), ("test", 200)):
        for name in "ab":
            write_images(tmp_path / part / name, 5, level)
    data = load_classification("image-folder", root=tmp_path, image_size=4)
    assert [getattr(data, p).images.unique().tolist() for p in PARTS] == [[10], [100], [200]]


def test_a_lone_train_folder_is_split_and_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path / "one" / "train" / "a", 10)
    write_images(tmp_path / "one" / "train" / "b", 10)
    assert read_image_folder(tmp_path / "one", 4).class_names == ("a", "b")
    write_images(tmp_path / "two" / "train", 10)
    write_images(tmp_path / "two" / "tram", 10)
    assert read_image_folder(tmp_path / "two", 4).class_names == ("train", "tram")


def test_images_are_resized_bilinearly_to_the_size_asked_for(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
        Image.fromarray(pixels[..., 0]).save(tmp_path / name / "1.png")  # grey
    read = read_image_folder(tmp_path, 6).train.images
    expected = np.asarray(Image.fromarray(pixels).resize((6, 6), Image.Resampling.BILINEAR))
    assert torch.equal(read[0], torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert torch.equal(read[1][0], read[1][2])
    assert read.shape == (4, 3, 6, 6)
    assert read.dtype == torch.uint8


def test_damaged_files_are_all_counted_and_named(tmp_path):
    write_images(tmp_path / "a", 4)
    write_images(tmp_path / "b", 4, suffix=".jpg")
    (tmp_path / "a" / "002.png").write_bytes(b"no image")
    broken = tmp_path / "b" / "001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2 of 8 images cannot be read: .*a/002\.png.*b/001\.jpg"):
        read_image_folder(tmp_path, 4)


def test_memory_is_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 2)
    (tmp_path / "a" / "000.png").write_bytes(b"never looked at")
    monkeypatch.setattr(image_folder, "available_memory", lambda: 2 * 4 * 3 * 8 * 8 - 1)
    with pytest.raises(
        ValueError, match=r"4 images at 8×8 pixels need .* smaller data\.image_size"
    ):
        read_image_folder(tmp_path, 8)


def test_folders_that_are_no_image_folder_say_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image folder .*/no: expected CLASS/\*\.jpg"):
        read_image_folder(tmp_path / "no", 4)
    write_images(tmp_path / "only", 2)
    with pytest.raises(ValueError, match="at least two classes, found only"):
        read_image_folder(tmp_path, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        read_image_folder(tmp_path, 4)


def test_a_class_that_training_lacks_is_named(tmp_path):
    for place in ("train/a", "train/b", "val/a", "val/c"):
        write_images(tmp_path / place, 2)
    with pytest.raises(ValueError, match="val has classes that the training images lack: c"):
        read_image_folder(tmp_path, 4)


def test_memory_is_checked_for_all_processes_that_read_on_this_machine(tmp_path, monkeypatch):
    for label in "ab":
        write_images(tmp_path / label, 2)
    monkeypatch.setattr(image_folder, "available_memory", lambda: 2 * 4 * 3 * 8 * 8)
    assert len(read_image_folder(tmp_path, 8).train) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"in each of 2 processes, .* or use fewer processes"):
        read_image_folder(tmp_path, 8)


def test_names_lead_to_folders_under_the_root(tmp_path):
    for name in ("mini-imagenet", "mine"):
        for label in "ab":
            write_images(tmp_path / name / label, 10)
    mini = load_classification("mini-imagenet", root=tmp_path)
    assert mini.train.images.shape[-1] == 84
    mine = load_classification("image-folder:mine", root=tmp_path, image_size=5)
    assert mine.train.images.shape[-1] == 5
    assert mine.source == str(tmp_path / "mine")


@pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"),
    reason="FMCE_DATA is not set: the folder with imagenette-84",
)
def test_photographs_train_and_test_as_they_are_laid_out():
    root = Path(os.environ["FMCE_DATA"])
    data = load_classification("image-folder:imagenette-84", root=root, image_size=32)
    assert [len(getattr(data, p)) for p in PARTS] == [1800, 200, 500]
    assert len(data.class_names) == 10
    assert 0.3 < min(data.mean) < max(data.mean) < 0.6
