"""Pools in memory: held once while they are made, on the device only where all fit there."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.config.distillation import DistillationDataConfig
from fmce.data.frames.pool import FramePool
from fmce.data.frames.table import FileFrames, FrameTable
from fmce.data.pools import stack_images
from fmce.data.transforms import channel_statistics
from fmce.distillation.data.dataset import load_distillation_data


def peak_of(make):
    tracemalloc.start()
    try:
        made = make()
        return made, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_images_are_stacked_channels_first_in_their_order():
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    stacked = stack_images(iter(images), 2)
    assert stacked.is_contiguous()
    assert (stacked.permute(0, 2, 3, 1).numpy() == images).all()


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_images_is_noticed(count):
    with pytest.raises(ValueError, match=r"zip\(\) argument"):
        stack_images(iter([np.zeros((4, 4, 3), np.uint8)] * 2), count)


def write_set(root, count):
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
            for number in range(count):
                picture = Image.new(mode, (128, 96), number % 2)
                picture.save(root / kind / split / f"{split}{number}.png")


def test_labelled_images_are_held_once_while_they_are_read(tmp_path):
    write_set(tmp_path, 60)
    config = DistillationDataConfig(
        name="folder",
        root=str(tmp_path),
        height=96,
        width=128,
        labelled=None,
        held_out=0,
        class_names=("road", "sky"),
    )
    load_distillation_data("segment", config)  # what is imported and kept at first use
    data, peak = peak_of(lambda: load_distillation_data("segment", config))
    held = data.labelled.nbytes + data.validation.nbytes
    assert held == 120 * 96 * 128 * 4
    assert peak < 1.3 * held


def test_frames_read_into_memory_are_held_once(tmp_path):
    write_set(tmp_path, 60)
    files = FileFrames(sorted((tmp_path / "images").rglob("*.png")))
    pool = FramePool(FrameTable([files]), 96, 128)
    pool.in_memory([0])
    images, peak = peak_of(pool.in_memory)
    assert images.nbytes == 120 * 96 * 128 * 3
    assert peak < 1.3 * images.nbytes


def test_statistics_of_many_images_are_those_of_all_at_once():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1500, 3, 4, 4), dtype=torch.uint8, generator=draw)
    scaled = images.double() / 255
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(scaled.std((0, 2, 3), unbiased=False).tolist())
