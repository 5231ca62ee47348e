"""Pools in memory: held once while they are made, on the device only where all fit there."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.config.distillation import DistillationDataConfig
from fmce.data.frames.pool import FramePool
from fmce.data.frames.table import FileFrames, FrameTable
from fmce.data.pools import ImagePool, empty_pool, stack_images
from fmce.data.transforms import channel_statistics
from fmce.distillation.data import pools as distillation_pools
from fmce.distillation.data.dataset import load_distillation_data
from fmce.distillation.data.pools import DistillationData

META = torch.device("meta")


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


def data_of(pool, evaluated):
    return DistillationData(pool, empty_pool(4, 4), evaluated, evaluated, ("a",), (0.5,), (0.2,))


@pytest.mark.parametrize(("fits", "kind"), [(True, "meta"), (False, "cpu")])
def test_all_pools_of_a_training_are_placed_or_none(fits, kind, monkeypatch):
    asked = []
    monkeypatch.setattr(
        distillation_pools, "stays_resident", lambda size, device: asked.append(size) or fits
    )
    trained = ImagePool(
        torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    )
    evaluated = ImagePool(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    pool, data = data_of(trained, evaluated).placed(trained, META)
    assert asked == [5 * 48 + 5 * 8 + 2 * (2 * 48)]
    assert {p.device.type for p in (pool, data.held_out, data.validation)} == {kind}


def test_frames_in_files_count_for_nothing_and_take_labelled_images_in_without_a_copy(monkeypatch):
    asked = []
    monkeypatch.setattr(
        distillation_pools, "stays_resident", lambda size, device: asked.append(size) or True
    )
    labelled = ImagePool(torch.zeros(5, 3, 4, 4, dtype=torch.uint8))
    frames = labelled + FramePool(FrameTable([FileFrames(["a.png"])]), 4, 4)
    pool, _ = data_of(labelled, empty_pool(4, 4)).placed(frames, META)
    assert asked == [0]
    assert pool.table.sources[0].images.data_ptr() == labelled.images.data_ptr()
