"""Batches of images: order and variation come from seed and epoch alone."""

import torch

from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.transforms import ImageTransform

IMAGES = ImageSet(
    torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.manual_seed(0)),
    torch.arange(10),
)
TRANSFORM = ImageTransform(4, (0.5,) * 3, (0.2,) * 3, shift=1, noise=0.1, flip=True)


def epoch_of(seed, epoch, batch_size=4):
    return list(ImageBatches(IMAGES, TRANSFORM, batch_size, seed=seed).epoch(epoch))


def same(one, other):
    return all(
        x.step == y.step and all(torch.equal(a, b) for a, b in zip(x[:3], y[:3], strict=True))
        for x, y in zip(one, other, strict=True)
    )


def test_an_epoch_has_every_image_once():
    batches = epoch_of(0, 1)
    assert [len(b.targets) for b in batches] == [4, 4, 2]
    assert sorted(torch.cat([b.image_index for b in batches]).tolist()) == list(range(10))
    assert all(torch.equal(b.targets, b.image_index) for b in batches)
    assert len(ImageBatches(IMAGES, TRANSFORM, 4, seed=0)) == 3


def test_two_trainings_of_a_seed_see_the_same_whatever_else_draws():
    torch.manual_seed(1)
    one = epoch_of(7, 3)
    torch.rand(100)
    assert same(one, epoch_of(7, 3))


def test_other_epochs_and_seeds_see_another_order():
    orders = {
        tuple(torch.cat([b.image_index for b in epoch_of(s, e)]).tolist())
        for s, e in ((7, 1), (7, 2), (8, 1), (1, 7))
    }
    assert len(orders) == 4


def test_without_a_seed_images_are_plain_and_in_order():
    (batch,) = epoch_of(None, 5, batch_size=10)
    assert batch.image_index.tolist() == list(range(10))
    assert torch.equal(batch.images, TRANSFORM(IMAGES.images))


def test_selecting_keeps_images_with_their_targets():
    part = IMAGES.select(torch.tensor([7, 2]))
    assert part.targets.tolist() == [7, 2]
    assert torch.equal(part.images[1], IMAGES.images[2])
    assert len(part.to(torch.device("cpu"))) == 2


def test_steps_are_counted_through_all_epochs_from_the_epoch_alone():
    assert [b.step for b in epoch_of(0, 1)] == [0, 1, 2]
    assert [b.step for b in epoch_of(0, 4)] == [9, 10, 11]
    assert [b.step for b in epoch_of(None, 0)] == [0, 1, 2]
