"""Labelled images: every layout, pairs, wrong ids, damage; CamVid and the BDD10K samples where they
are."""

import doctest
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmce.data import segmentation as module
from fmce.data.image_files import UnreadableDataError
from fmce.data.segmentation import (
    BDD100K_CLASSES,
    CAMVID_CLASSES,
    SegmentationFiles,
    bdd100k_segmentation,
    camvid,
    folder_pair,
)

CLASSES = ("road", "sky", "car")
real_data = pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"),
    reason="FMCE_DATA is not set: the folder with camvid and bdd10k-seg-sample",
)


def _write(images, masks, stem, ids, *, suffix=".png", size=None):
    """Write a pair whose image holds its mask's values in every channel."""
    ids = np.asarray(ids, dtype=np.uint8)
    for folder, array, end in ((images, np.stack([ids] * 3, 2), suffix), (masks, ids, ".png")):
        (folder / f"{stem}{end}").parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array)
        (picture.resize(size) if size and folder is images else picture).save(
            folder / f"{stem}{end}"
        )


def _pairs(tmp_path, count=4, **options):
    for i in range(count):
        _write(tmp_path / "images", tmp_path / "masks", f"{i:04}", np.full((4, 6), i % 3))
    return tmp_path / "images", tmp_path / "masks", CLASSES


def test_items_are_the_image_and_its_ids_in_order_of_stems(tmp_path):
    data = folder_pair(*_pairs(tmp_path))
    assert data.stems == ("0000", "0001", "0002", "0003")
    image, mask = data[1]
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == (
        (4, 6, 3),
        np.uint8,
        (4, 6),
        np.uint8,
    )
    assert image[0, 0].tolist() == [1, 1, 1]
    assert (mask == 1).all()


def test_nested_folders_pair_by_their_paths_and_endings(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for city in ("aachen", "bonn"):
        _write(images, masks, f"{city}/1", np.zeros((2, 2)), suffix=".webp")
        (masks / city / "1.png").rename(masks / city / "1_train_id.png")
    (masks / "bonn" / "1_color.png").touch()
    data = folder_pair(images, masks, CLASSES, mask_ending="_train_id")
    assert [mask.relative_to(masks).as_posix() for mask in data.mask_paths] == [
        "aachen/1_train_id.png",
        "bonn/1_train_id.png",
    ]


def test_files_without_a_partner_are_named_or_skipped(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    (images / "0001.png").unlink()
    (masks / "0003.png").unlink()
    with pytest.raises(ValueError, match=r"0001 \(no image\), 0003 \(no mask\)"):
        folder_pair(images, masks, classes)
    assert folder_pair(images, masks, classes, unpaired="skip").stems == ("0000", "0002")
    assert folder_pair(images, masks, classes, exclude=["0001", "0003"]).stems == ("0000", "0002")


def test_two_images_of_one_stem_are_refused(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    (images / "0001.jpg").touch()
    with pytest.raises(ValueError, match="one file per stem"):
        folder_pair(images, masks, classes)


def test_missing_folders_and_empty_sets_are_refused(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    with pytest.raises(ValueError, match="none at"):
        folder_pair(tmp_path / "nowhere", masks, classes)
    with pytest.raises(ValueError, match="at least one labelled image"):
        folder_pair(images, masks, classes, exclude=[f"{i:04}" for i in range(4)])


def test_the_check_counts_items_and_pixels_by_class(tmp_path):
    data = folder_pair(*_pairs(tmp_path))
    assert data.check() == {"road": 48, "sky": 24, "car": 24, "ignored": 0}
    assert data.damaged == ()


def test_the_check_names_the_files_with_wrong_ids_and_their_values(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    _write(images, masks, "0002", [[0, 3], [77, 255]])
    with pytest.raises(ValueError, match=r"1 of 4 .*0002.png holds 3, 77, expected .* 0 … 2"):
        folder_pair(images, masks, classes).check()


def test_the_check_names_sizes_that_differ_and_colour_maps(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    _write(images, masks, "0001", np.zeros((4, 6)), size=(8, 5))
    Image.new("RGB", (6, 4)).save(masks / "0002.png")
    with pytest.raises(ValueError, match=r"2 of 4.*0001.png is 4×6, its image 5×8.*colour map"):
        folder_pair(images, masks, classes).check()


def test_a_damaged_file_is_reported_by_the_check_and_replaced_on_reading(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    (images / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (masks / "0002.png").write_bytes(b"")
    data = folder_pair(images, masks, classes)
    data.check()
    assert [Path(f).stem for f in data.damaged] == ["0001", "0002"]
    assert [int(data[i].mask[0, 0]) for i in range(4)] == [0, 0, 0, 0]  # 1 and 2 become 3, id 0
    assert data.failures.failed_items == [1, 2]


def test_a_mask_with_wrong_ids_met_in_training_is_replaced_too(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    _write(images, masks, "0001", np.full((4, 6), 9))
    data = folder_pair(images, masks, classes)
    assert (data[1].mask == 2).all()
    assert data.failures.failed_items == [1]


def test_a_set_with_many_damaged_files_fails_its_check(tmp_path):
    images, masks, classes = _pairs(tmp_path, count=12)
    for path in sorted(images.iterdir())[:6]:
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableDataError, match=r"more than 1.00%: .*0000.png"):
        folder_pair(images, masks, classes).check()


def test_id_maps_translate_and_wrong_ones_are_refused(tmp_path):
    images, masks, classes = _pairs(tmp_path)
    data = folder_pair(images, masks, classes, id_map={0: 255, 1: 0})
    assert [int(data[i].mask[0, 0]) for i in range(3)] == [255, 0, 2]
    with pytest.raises(ValueError, match="got 7 → 3"):
        folder_pair(images, masks, classes, id_map={7: 3})


def test_a_selection_keeps_its_order_and_counts_its_own_failures(tmp_path):
    data = folder_pair(*_pairs(tmp_path), id_map={0: 255})
    part = data.select([3, 1])
    assert part.stems == ("0003", "0001")
    assert (part[0].mask == 255).all()
    assert (part.failures.reads, data.failures.reads) == (1, 0)


@pytest.mark.parametrize(
    ("images", "masks", "ending"),
    [
        ("images/10k/train", "labels/sem_seg/masks/train", ""),
        ("images/train", "masks/train", ""),
        ("images/train", "labels/train", "_train_id"),
    ],
)
def test_bdd100k_is_found_in_each_of_its_layouts(tmp_path, images, masks, ending):
    _write(tmp_path / images, tmp_path / masks, "a1-b2", [[0, 18], [255, 13]], suffix=".jpg")
    (tmp_path / masks / "a1-b2.png").rename(tmp_path / masks / f"a1-b2{ending}.png")
    data = bdd100k_segmentation(tmp_path, "train")
    assert data.class_names == BDD100K_CLASSES
    assert data[0].mask.tolist() == [[0, 18], [255, 13]]


def test_camvids_void_becomes_ignored(tmp_path):
    _write(tmp_path / "val", tmp_path / "valannot", "0016E5_1", [[0, 11], [10, 3]])
    assert camvid(tmp_path, "val")[0].mask.tolist() == [[0, 255], [10, 3]]


def test_a_missing_layout_is_named_with_what_is_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"images/10k/val with .*found pictures"):
        bdd100k_segmentation(tmp_path, "val")
    with pytest.raises(ValueError, match=r"val with valannot.*no such folder"):
        camvid(tmp_path / "none", "val")


def test_more_classes_than_a_uint8_mask_holds_are_refused():
    names = [str(i) for i in range(255)]
    image, mask = [Path("a.png")], [Path("b.png")]
    with pytest.raises(ValueError, match="at most 254"):
        SegmentationFiles(name="many", image_paths=image, mask_paths=mask, class_names=names)


@real_data
def test_real_camvid_has_its_counts_and_ids():
    root = Path(os.environ["FMCE_DATA"]) / "camvid"
    splits = {split: camvid(root, split) for split in ("train", "val", "test")}
    assert [len(data) for data in splits.values()] == [367, 101, 233]
    some = splits["train"].select(range(0, 367, 33))
    pixels = some.check()
    assert some.damaged == ()
    assert sum(pixels.values()) == 12 * 360 * 480
    assert len(CAMVID_CLASSES) == 11
    assert pixels["road"] > pixels["pedestrian"] > 0


@real_data
def test_real_bdd10k_samples_are_clean():
    root = Path(os.environ["FMCE_DATA"]) / "bdd10k-seg-sample"
    data = {split: bdd100k_segmentation(root, split) for split in ("train", "val")}
    assert [len(d) for d in data.values()] == [16, 8]
    data["val"].check()
    assert data["val"].damaged == ()
    assert data["train"][0].image.shape == (720, 1280, 3)


@real_data
def test_real_bdd10k_palette_colour_maps_hold_the_masks_ids():
    root = Path(os.environ["FMCE_DATA"]) / "bdd10k-seg-sample"
    masks = bdd100k_segmentation(root, "val")
    colours = folder_pair(root / "images/val", root / "colormaps/val", BDD100K_CLASSES)
    for index in (0, 7):
        np.testing.assert_array_equal(colours[index].mask, masks[index].mask)


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0
