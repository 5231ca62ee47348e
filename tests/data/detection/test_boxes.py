"""Boxes in their one form: packed, cut, and moved with the view of their image."""

import numpy as np
import pytest
import torch

from fmce.data.augmentation import Augmentation, TrainBatches
from fmce.data.detection.boxes import (
    crop_boxes,
    image_boxes,
    is_packed,
    move_boxes,
    pack_boxes,
    resize_and_center_crop_boxes,
    to_labels,
    unpack_boxes,
)
from fmce.data.pools import ImagePool, resize_and_center_crop

TWO = [
    image_boxes([[1, 2, 5, 9], [0, 0, 3, 3]], [2, 0], [False, True]),
    image_boxes([], []),
]


def test_packing_and_unpacking_loses_nothing():
    packed = pack_boxes(TWO)
    assert packed.shape == (2, 2, 6)
    assert is_packed(packed)
    first, second = unpack_boxes(packed)
    assert first["boxes"].tolist() == [[1, 2, 5, 9], [0, 0, 3, 3]]
    assert first["labels"].tolist() == [2, 0]
    assert first["ignored"].tolist() == [False, True]
    assert second["boxes"].shape == (0, 4)


def test_masks_and_class_indices_are_no_boxes():
    assert not is_packed(torch.zeros(2, 6, 6, dtype=torch.uint8))
    assert not is_packed(torch.zeros(2, dtype=torch.int64))
    assert not is_packed(None)


def test_ignored_boxes_are_no_labels_to_train_on():
    boxes, labels = to_labels(pack_boxes(TWO))
    assert boxes.shape == (2, 2, 4)
    assert labels.tolist() == [[2, -1], [-1, -1]]


def test_boxes_are_cut_and_ignored_where_little_is_left():
    packed = pack_boxes([image_boxes([[-2, 0, 6, 4], [7, 0, 17, 4], [12, 0, 14, 4]], [0, 1, 2])])
    (rows,) = crop_boxes(packed, 8, 9).tolist()
    assert rows[0] == [0, 0, 6, 4, 0, 0]  # three quarters are left
    assert rows[1] == [7, 0, 9, 4, 1, 1]  # a fifth is left
    assert rows[2][4] == -1  # nothing is left


@pytest.mark.parametrize("flip", [True, False])
def test_a_view_moves_boxes_as_it_moves_pixels(flip):
    # Bright rectangles on black: after any view, the bright pixels' extent is the box.
    images = torch.zeros(16, 3, 40, 60, dtype=torch.uint8)
    images[:, :, 10:30, 20:44] = 255
    packed = pack_boxes([image_boxes([[20, 10, 44, 30]], [1])]).expand(16, -1, -1)
    augmentation = Augmentation((0.0,) * 3, (1.0,) * 3, zoom=1.6, flip=flip)
    seen, moved = augmentation(images, packed, torch.Generator().manual_seed(3))
    for picture, (box,) in zip(seen[:, 0] > 0.5, moved, strict=True):
        rows, columns = picture.any(1).nonzero()[:, 0], picture.any(0).nonzero()[:, 0]
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert box[:4].tolist() == pytest.approx([int(v) for v in extent], abs=0.75)
    assert len({tuple(box[0, :4].tolist()) for box in moved}) == 16


def test_mirroring_twice_gives_the_box_back():
    packed = pack_boxes([image_boxes([[20, 10, 44, 30]], [1])])
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1.0, 0]]])
    once = move_boxes(packed, mirror, 40, 60)
    assert once[0, 0, :4].tolist() == pytest.approx([16, 10, 40, 30])
    torch.testing.assert_close(move_boxes(once, mirror, 40, 60), packed)


def test_pool_batches_carry_boxes_and_plain_images_keep_them():
    packed = pack_boxes(TWO)
    pool = ImagePool(torch.zeros(2, 3, 12, 16, dtype=torch.uint8), packed)
    augmentation = Augmentation((0.0,) * 3, (1.0,) * 3)
    (batch,) = TrainBatches(pool, augmentation, 2, 1, seed=0).epoch(1)
    torch.testing.assert_close(batch.targets, packed[batch.image_index])


def test_covering_moves_boxes_as_it_moves_pixels():
    image = np.zeros((100, 300, 3), np.uint8)
    image[20:60, 120:200] = 255
    small = resize_and_center_crop(image, 48, 96)[..., 0] > 127
    got = resize_and_center_crop_boxes(image_boxes([[120, 20, 200, 60]], [0]), (100, 300), (48, 96))
    rows, columns = np.flatnonzero(small.any(1)), np.flatnonzero(small.any(0))
    extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert got.boxes[0].tolist() == pytest.approx(extent, abs=0.75)


def test_covering_drops_what_is_cut_away():
    got = resize_and_center_crop_boxes(
        image_boxes([[0, 0, 20, 40], [150, 0, 160, 9]], [0, 1]), (100, 300), (48, 96)
    )
    assert got.labels.tolist() == [1]
