"""From stored images to network input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmce.data.batch_slice import rank_slice
from fmce.data.transforms import ImageTransform, channel_statistics, cut_windows

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def test_a_shift_equals_padding_and_cutting_by_hand():
    x = torch.rand(20, 3, 6, 5, generator=generator())
    corners = torch.randint(0, 5, (2, 20), generator=generator(1))
    shifted = cut_windows(x, corners, 2)
    padded = F.pad(x, (2, 2, 2, 2))
    for image in range(20):
        top, left = corners[:, image].tolist()
        window = padded[image, :, top : top + 6, left : left + 5]
        assert torch.equal(shifted[image], window)


def test_every_shift_up_to_the_largest_is_drawn():
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    shifted = ImageTransform(8, **PLAIN, shift=2)(images, generator())
    _, rows, columns = shifted[:, 0].nonzero().T.tolist()
    assert set(rows) == set(columns) == {2, 3, 4, 5, 6}


def test_a_shift_of_nothing_changes_nothing():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(cut_windows(x, torch.zeros(2, 2, dtype=torch.int64), 0), x)


def test_the_same_generator_gives_the_same_variation_and_another_does_not():
    transform = ImageTransform(8, **PLAIN, shift=2, noise=0.3, flip=True)
    images = random_images(4, 1, 8, 8)
    one, same, other = (transform(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_a_batch_are_varied_as_the_whole_batch_is(ranks):
    transform = ImageTransform(9, **PLAIN, shift=2, noise=0.3, flip=True)
    images = random_images(7, 3, 8, 8)
    whole = transform(images, generator(1))
    slices = [rank_slice(7, rank, ranks) for rank in range(ranks)]
    parts = [transform(images[one.rows], generator(1), one) for one in slices]
    assert torch.equal(torch.cat(parts), whole)


def test_without_a_generator_nothing_varies():
    transform = ImageTransform(8, **PLAIN, shift=2, noise=0.3, flip=True)
    images = random_images(4, 3, 8, 8)
    assert torch.equal(transform(images), images.float() / 255)


def test_grey_is_replicated_to_three_channels_each_normalised():
    transform = ImageTransform(2, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    out = transform(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8))  # 51/255 = 0.2
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.0, -0.4], abs=1e-6)


def test_images_are_enlarged_bilinearly():
    out = ImageTransform(4, **PLAIN)(torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8))
    assert out[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_shrinking_averages_what_it_drops():
    stripes = torch.tensor([0, 255] * 8, dtype=torch.uint8).expand(1, 1, 16, 16)
    inner = ImageTransform(4, **PLAIN)(stripes)[0, 0, 1:3, 1:3]
    assert (inner - 0.5).abs().max() < 0.05


def test_half_of_the_images_are_mirrored():
    images = random_images(400, 3, 4, 4)
    out = ImageTransform(4, **PLAIN, flip=True)(images, generator())
    plain = images.float() / 255
    mirrored = [torch.equal(o, p.flip(-1)) for o, p in zip(out, plain, strict=True)]
    kept = [torch.equal(o, p) for o, p in zip(out, plain, strict=True)]
    assert sum(mirrored) + sum(kept) == 400
    assert 150 < sum(mirrored) < 250


def test_noise_has_the_spread_asked_for_in_normalised_units():
    transform = ImageTransform(32, mean=(0.5,) * 3, std=(0.1,) * 3, noise=0.3)
    images = torch.full((8, 1, 32, 32), 128, dtype=torch.uint8)
    noise = transform(images, generator()) - transform(images)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean().item()) < 0.01


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 1, 4, 4), random_images(1, 2, 4, 4), random_images(3, 4, 4)],
    ids=["float", "two channels", "no batch"],
)
def test_what_is_no_batch_of_stored_images_is_refused(images):
    with pytest.raises(ValueError, match=r"expected uint8 images \(B,1 or 3,H,W\)"):
        ImageTransform(4, **PLAIN)(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_equal_numpys(channels):
    images = random_images(50, channels, 6, 7)
    mean, std = channel_statistics(images)
    array = images.numpy() / 255
    expected = [array[:, c % channels] for c in range(3)]
    np.testing.assert_allclose(mean, [c.mean() for c in expected], rtol=1e-12)
    np.testing.assert_allclose(std, [c.std() for c in expected], rtol=1e-12)
