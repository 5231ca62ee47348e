"""What a distillation step sees: normalisation, and images that are on the device only where all fit there."""

from dataclasses import replace

import pytest
import torch

from fmce.config.distillation import DistillationConfig
from fmce.config.io import with_settings
from fmce.data.frames.pool import FramePool
from fmce.data.frames.table import FileFrames, FrameTable
from fmce.data.pools import ImagePool, empty_pool
from fmce.distillation import inputs
from fmce.distillation.data.dataset import load_distillation_data
from fmce.distillation.data.pools import DistillationData

META = torch.device("meta")


@pytest.mark.parametrize("net", ["teacher", "student"])
def test_with_imagenet_weights_in_either_network_images_are_normalised_as_imagenets(net):
    # Published with the weights: R, G, B on the 0-1 scale.
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    size = ["data.height=16", "data.width=16", "data.labelled=2", "data.unlabelled=2"]
    size += ["data.held_out=0", "data.validation=1"]
    plain = with_settings(DistillationConfig(), size)
    loaded = with_settings(plain, [f"{net}.weights=imagenet"])
    means = []
    for config in (plain, loaded):
        data = load_distillation_data("segment", inputs.with_imagenet_statistics(config))
        means.append((data.mean, data.std))
    assert means[1] == imagenet
    assert means[0] != imagenet
    chosen = with_settings(loaded, ["data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]"])
    assert inputs.with_imagenet_statistics(chosen).mean == (0.5, 0.5, 0.5)


def data_of(pool, evaluated):
    return DistillationData(pool, empty_pool(4, 4), evaluated, evaluated, ("a",), (0.5,), (0.2,))


@pytest.mark.parametrize(("fits", "kind"), [(True, "meta"), (False, "cpu")])
def test_all_pools_of_a_training_move_to_the_device_or_none(fits, kind, monkeypatch):
    asked = []
    monkeypatch.setattr(inputs, "stays_resident", lambda size, _device: asked.append(size) or fits)
    trained = ImagePool(
        torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    )
    evaluated = ImagePool(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    pool, data = inputs.on_device(trained, data_of(trained, evaluated), META)
    assert asked == [5 * 48 + 5 * 8 + 2 * (2 * 48)]
    assert {p.device.type for p in (pool, data.held_out, data.validation)} == {kind}


def test_frames_in_files_count_for_nothing_and_take_labelled_images_in_without_a_copy(monkeypatch):
    asked = []
    monkeypatch.setattr(inputs, "stays_resident", lambda size, _device: asked.append(size) or True)
    labelled = ImagePool(torch.zeros(5, 3, 4, 4, dtype=torch.uint8))
    frames = FramePool(FrameTable([FileFrames(["a.png"])]), 4, 4)
    data = replace(data_of(labelled, empty_pool(4, 4)), unlabelled=frames)
    pool, _ = inputs.on_device(inputs.training_pool("function_matching", data), data, META)
    assert asked == [0]
    assert pool.table.sources[0].images.data_ptr() == labelled.images.data_ptr()
