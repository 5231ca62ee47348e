"""Unlabelled frames: order, nesting, stems to leave out, BDD100K's leak rule, damage."""

import doctest
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fmce.data.frames import folders as module
from fmce.data.frames.folders import bdd100k_excluded_stems, list_frames
from fmce.data.frames.pool import FramePool
from fmce.data.frames.table import FileFrames, FrameTable

real_data = pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"),
    reason="FMCE_DATA is not set: the folder with driveai120 and the BDD100K samples",
)


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _frames(root, count=4):
    for i in range(count):
        Image.new("RGB", (6, 4), (i, i, i)).save(root / f"{i}.png")
    return list_frames(root)


def _bdd100k(root):
    """Lay out all four held-out sets and some training files."""
    _touch(
        root, "images/10k/train/11111111-aaaaaaaa.jpg", "images/100k/train/22222222-bbbbbbbb.jpg"
    )
    _touch(root, "images/10k/val/33333333-aaaaaaaa.jpg", "images/10k/test/44444444-aaaaaaaa.jpg")
    _touch(root, "images/100k/test/55555555-aaaaaaaa.jpg")
    _touch(root, "labels/sem_seg/masks/val/33333333-aaaaaaaa.png")
    (root / "labels/det_20").mkdir(parents=True)
    val = [{"name": "66666666-aaaaaaaa.jpg", "labels": None}]
    (root / "labels/det_20/det_val.json").write_text(json.dumps(val), "utf-8")
    train = [{"name": "22222222-bbbbbbbb.jpg"}]
    (root / "labels/det_20/det_train.json").write_text(json.dumps(train), "utf-8")


HELD_OUT = {f"{digit * 8}-aaaaaaaa" for digit in "3456"}


def test_nested_folders_are_listed_in_a_fixed_order_root_by_root(tmp_path):
    _touch(tmp_path, "b/2.webp", "b/1.JPG", "b/deep/0.jpeg", "b/readme.txt", "a/3.png")
    listed = list_frames([tmp_path / "b", tmp_path / "a"])
    assert [p.relative_to(tmp_path).as_posix() for p in listed] == [
        "b/1.JPG",
        "b/2.webp",
        "b/deep/0.jpeg",
        "a/3.png",
    ]


def test_overlapping_roots_list_a_file_once(tmp_path):
    _touch(tmp_path, "a/1.png", "2.png")
    assert len(list_frames([tmp_path / "a", tmp_path, tmp_path])) == 2


def test_listed_stems_are_left_out(tmp_path):
    _touch(tmp_path, "1.png", "2.png", "12.png")
    (tmp_path / "out.txt").write_text("1\n", "utf-8")
    assert [p.stem for p in list_frames(tmp_path, exclude=tmp_path / "out.txt")] == ["12", "2"]


def test_nothing_left_and_missing_folders_are_refused(tmp_path):
    _touch(tmp_path, "1.png")
    with pytest.raises(ValueError, match="found 1 images, 1 of them excluded"):
        list_frames(tmp_path, exclude=["1"])
    with pytest.raises(ValueError, match="none at"):
        list_frames(tmp_path / "none")


def test_the_leak_rule_collects_val_and_test_of_both_collections(tmp_path):
    _bdd100k(tmp_path)
    assert bdd100k_excluded_stems(tmp_path) == HELD_OUT


def test_frames_of_held_out_videos_stay_out_of_the_pool(tmp_path):
    _bdd100k(tmp_path / "bdd")
    pool = tmp_path / "pool"
    _touch(
        pool, "66666666-aaaaaaaa-0000001.jpg", "66666666-aaaaaaaa_7.jpg", "55555555-aaaaaaaa.jpg"
    )
    _touch(pool, "33333333-aaaaaaaa/00012.jpg", "22222222-bbbbbbbb-0000001.jpg")
    kept = list_frames(pool, exclude=bdd100k_excluded_stems(tmp_path / "bdd"))
    assert [p.name for p in kept] == ["22222222-bbbbbbbb-0000001.jpg"]


def test_the_2018_label_list_and_per_image_labels_count_too(tmp_path):
    (tmp_path / "labels/100k/test").mkdir(parents=True)
    (tmp_path / "labels/100k/test/77777777-aaaaaaaa.json").write_text("{}", "utf-8")
    names = {"frames": [{"name": "88888888-aaaaaaaa.jpg"}, {"name": "99999999-aaaaaaaa-0000005"}]}
    (tmp_path / "bdd100k_labels_images_val.json").write_text(json.dumps(names), "utf-8")
    with pytest.warns(UserWarning, match="10k val, 10k test: frames"):
        stems = bdd100k_excluded_stems(tmp_path)
    assert stems == {
        "77777777-aaaaaaaa",
        "88888888-aaaaaaaa",
        "99999999-aaaaaaaa-0000005",
        "99999999-aaaaaaaa",
    }


def test_held_out_sets_on_another_disk_are_found_through_links(tmp_path):
    _bdd100k(tmp_path / "disk")
    (tmp_path / "bdd").mkdir()
    (tmp_path / "bdd" / "images").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "bdd" / "labels").symlink_to(tmp_path / "disk" / "labels")
    assert bdd100k_excluded_stems(tmp_path / "bdd") == HELD_OUT


def test_without_held_out_sets_the_leak_rule_is_an_error(tmp_path):
    _touch(tmp_path, "images/10k/train/a.jpg")
    with pytest.raises(ValueError, match="leak rule cannot be kept"):
        bdd100k_excluded_stems(tmp_path)
    with pytest.raises(ValueError, match="none at"):
        bdd100k_excluded_stems(tmp_path / "none")


def test_a_broken_label_list_is_named(tmp_path):
    _touch(tmp_path, "labels/det_20/det_val.json")
    with pytest.raises(ValueError, match=r"det_val.json is empty, expected JSON"):
        bdd100k_excluded_stems(tmp_path)


def _pool(paths, height, width):
    return FramePool(FrameTable([FileFrames(paths)]), height, width)


def test_frames_are_read_as_uint8_and_damage_is_replaced(tmp_path):
    pool = _pool(_frames(tmp_path), 4, 6)
    (tmp_path / "1.png").write_bytes(b"no image")
    read = pool.in_memory()
    assert read.images[:, 0, 0, 0].tolist() == [0, 2, 2, 3]
    assert (read.images.shape, read.images.dtype) == ((4, 3, 4, 6), torch.uint8)
    assert read.damaged == (str(tmp_path / "1.png"),)


@real_data
def test_real_frames_are_listed_and_read():
    listed = list_frames(Path(os.environ["FMCE_DATA"]) / "driveai120")
    assert len(listed) == 120
    assert listed[0].name == "0001.webp"
    read = _pool(listed, 360, 640).in_memory([0, 119])
    assert read.images.shape == (2, 3, 360, 640)
    assert read.damaged == ()


@real_data
def test_the_leak_rule_reads_the_real_samples():
    root = Path(os.environ["FMCE_DATA"]) / "bdd10k-seg-sample"
    with pytest.warns(UserWarning, match="10k test, 100k val, 100k test"):
        stems = bdd100k_excluded_stems(root)
    val = {p.stem for p in (root / "images" / "val").iterdir()}
    assert val <= stems
    assert not stems & {p.stem for p in (root / "images" / "train").iterdir()}


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
