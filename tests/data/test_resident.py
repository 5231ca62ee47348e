"""Images that stay on the device and images cut on the host give the same batches."""

import pytest
import torch

from fmce.data import memory
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.memory import available_memory, stays_resident
from fmce.data.transforms import ImageTransform

CPU = torch.device("cpu")
IMAGES = ImageSet(
    torch.randint(0, 256, (37, 3, 6, 6), dtype=torch.uint8, generator=torch.manual_seed(0)),
    torch.arange(37) % 5,
)
TRANSFORM = ImageTransform(8, (0.5,) * 3, (0.2,) * 3, shift=2, noise=0.3, flip=True)


def batches(resident, seed, device=CPU):
    options = {"seed": seed, "device": device, "resident": resident}
    return ImageBatches(IMAGES, TRANSFORM, 8, **options)


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_both_ways_give_identical_batches(seed):
    for epoch in (1, 2):
        stays, copied = (list(batches(r, seed).epoch(epoch)) for r in (True, False))
        assert len(stays) == len(copied) == 5
        for one, other in zip(stays, copied, strict=True):
            assert one.step == other.step
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("seed", [None, 3])
def test_shares_of_all_ranks_make_up_the_batches_of_one(resident, seed):
    ranks = 3
    options = {"seed": seed, "device": CPU, "resident": resident}
    shared = [
        list(ImageBatches(IMAGES, TRANSFORM, 8, **options, rank_of=(rank, ranks)).epoch(2))
        for rank in range(ranks)
    ]
    for whole, *parts in zip(batches(resident, seed).epoch(2), *shared, strict=True):
        assert max(len(p.targets) for p in parts) - min(len(p.targets) for p in parts) <= 1
        assert {p.step for p in parts} == {whole.step}
        for one, others in zip(whole[:3], zip(*(p[:3] for p in parts), strict=True), strict=True):
            assert torch.equal(one, torch.cat(others))


def test_a_last_batch_of_fewer_images_than_processes_is_refused_in_training():
    wide = {"device": CPU, "rank_of": (0, 6)}  # 37 images: the last batch of 8 has 5
    with pytest.raises(ValueError, match="has 5 images, fewer than the 6 processes"):
        ImageBatches(IMAGES, TRANSFORM, 8, seed=0, **wide)
    assert [len(b.targets) for b in ImageBatches(IMAGES, TRANSFORM, 8, **wide).epoch()][-1] == 0


def test_an_epoch_that_is_left_early_can_be_begun_again():
    copied = batches(False, 0)
    first = next(iter(copied.epoch(1)))
    assert torch.equal(first.images, next(iter(copied.epoch(1))).images)


def test_on_the_cpu_images_stay_without_a_copy():
    plain = batches(None, 0)
    assert plain.resident
    assert plain.images.images.data_ptr() == IMAGES.images.data_ptr()


def test_on_a_gpu_images_stay_while_they_take_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 8000))
    assert stays_resident(500, torch.device("cuda"))
    assert not stays_resident(501, torch.device("cuda"))


def test_available_memory_is_what_the_kernel_says(tmp_path):
    free = available_memory()
    assert free is None or 2**20 < free < 2**50
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   123 kB\n")
    assert memory._meminfo(tmp_path / "meminfo") == 123 * 1024
    assert memory._meminfo(tmp_path / "none") is None


def test_a_containers_limit_counts_and_file_pages_do_not(tmp_path):
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("active_file 5\ninactive_file 300\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._cgroup_limit(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_limit(tmp_path) is None
