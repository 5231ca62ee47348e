"""Augmentation: one draw for image and mask, the same for the same seed and step."""

import pytest
import torch

from fmce.data.augmentation import Augmentation, EvalBatches, TrainBatches
from fmce.data.pools import ImagePool, as_pool, resize_and_center_crop

PLAIN = Augmentation((0.0,) * 3, (1.0,) * 3)
VARIED = Augmentation((0.0,) * 3, (1.0,) * 3, zoom=1.6, flip=True)


def pool_of(count: int = 6, side: int = 16) -> ImagePool:
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 4, (count, side, side), generator=generator, dtype=torch.uint8)
    return ImagePool(masks[:, None].repeat(1, 3, 1, 1) * 60, masks)


def test_plain_view_is_the_image_normalised() -> None:
    images = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    x, y = Augmentation((0.1,) * 3, (0.5,) * 3)(images)
    assert torch.allclose(x, torch.full_like(x, 0.2))
    assert y is None


def test_image_and_mask_are_cut_alike() -> None:
    blocks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    blocks[:, :, 8:] = 1
    pool = ImagePool(blocks[:, None].repeat(1, 3, 1, 1) * 255, blocks)
    for seed in range(8):
        x, y = VARIED(pool.images, pool.targets, torch.Generator().manual_seed(seed))
        assert y is not None
        # Bilinear and nearest sampling agree wherever the image is not between two blocks.
        sure = (x[:, 0] - 0.5).abs() > 0.45
        assert torch.equal((x[:, 0] > 0.5)[sure], (y == 1)[sure])
        assert sure.float().mean() > 0.8


def test_flip_mirrors_half_of_the_views_and_zoom_one_keeps_the_whole() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).repeat(200, 3, 16, 1)
    x, _ = Augmentation((0.0,) * 3, (1.0,) * 3, flip=True)(
        ramp, None, torch.Generator().manual_seed(0)
    )
    mirrored = x[:, 0, 0, 0] > x[:, 0, 0, -1]
    assert 70 < int(mirrored.sum()) < 130
    assert torch.allclose(x[~mirrored] * 255, ramp[~mirrored].float(), atol=1e-3)
    assert torch.allclose(x[mirrored] * 255, ramp[mirrored].flip(-1).float(), atol=1e-3)


def test_each_image_is_seen_once_before_any_is_seen_again() -> None:
    batches = TrainBatches(pool_of(7), PLAIN, batch_size=3, interval=7, seed=3)
    seen = torch.cat([b.image_index for b in batches.epoch(1)]).tolist()
    for turn in range(3):
        assert sorted(seen[7 * turn : 7 * turn + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_intervals_continue_each_other_and_repeat_exactly() -> None:
    pool = pool_of(7)
    one = TrainBatches(pool, VARIED, batch_size=3, interval=4, seed=3)
    two = TrainBatches(pool, VARIED, batch_size=3, interval=2, seed=3)
    whole = list(one.epoch(1))
    halves = [*two.epoch(1), *two.epoch(2)]
    for a, b in zip(whole, halves, strict=True):
        assert torch.equal(a.images, b.images)
        assert a.targets is not None
        assert b.targets is not None
        assert torch.equal(a.targets, b.targets)


def test_ranks_share_the_views_and_masks_of_one_process() -> None:
    lit = Augmentation((0.0,) * 3, (1.0,) * 3, zoom=1.6, flip=True, brightness=0.3)
    alone = list(TrainBatches(pool_of(7), lit, batch_size=5, interval=4, seed=3).epoch(2))
    for rank, rows in ((0, slice(0, 2)), (1, slice(2, 5))):
        shared = TrainBatches(pool_of(7), lit, batch_size=5, interval=4, seed=3, rank_of=(rank, 2))
        for ours, whole in zip(shared.epoch(2), alone, strict=True):
            assert torch.equal(ours.image_index, whole.image_index[rows])
            torch.testing.assert_close(ours.images, whole.images[rows])
            assert ours.targets is not None
            assert whole.targets is not None
            assert torch.equal(ours.targets, whole.targets[rows])


def test_ranks_together_give_every_plain_image_once() -> None:
    parts = [
        [b.image_index.tolist() for b in EvalBatches(pool_of(5), PLAIN, 2, rank_of=(r, 2)).epoch()]
        for r in (0, 1)
    ]
    assert parts == [[[0], [2]], [[1], [3], [4]]]


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="smallest batch has 2 images, fewer than the 3 processes"):
        TrainBatches(pool_of(5), PLAIN, batch_size=2, interval=1, seed=0, rank_of=(0, 3))


def test_plain_batches_give_every_image_once_in_order() -> None:
    batches = EvalBatches(pool_of(5), PLAIN, batch_size=2)
    assert torch.cat([b.image_index for b in batches.epoch()]).tolist() == [0, 1, 2, 3, 4]
    assert len(batches) == 3


def test_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool with images"):
        TrainBatches(pool_of(6).select([]), PLAIN, batch_size=2, interval=1, seed=0)


def test_cover_fills_the_size_and_cuts_the_longer_side() -> None:
    wide = torch.zeros(10, 40, 3, dtype=torch.uint8).numpy()
    wide[:, 15:25] = 200
    cut = resize_and_center_crop(wide, 10, 10)
    assert cut.shape == (10, 10, 3)
    assert (cut == 200).all()
    mask = resize_and_center_crop(wide[:, :, 0], 5, 10)
    assert set(mask.ravel().tolist()) == {0, 200}


def test_pools_add_and_keep_targets_only_where_both_have_them() -> None:
    labelled = pool_of(2)
    assert (labelled + labelled).targets is not None
    both = labelled + labelled.unlabelled()
    assert both.targets is None
    assert len(both) == 4


def test_stacking_keeps_pixels() -> None:
    image = torch.randint(0, 255, (4, 6, 3), dtype=torch.uint8).numpy()
    assert (as_pool([image]).images[0].permute(1, 2, 0).numpy() == image).all()
