import numpy as np
import pytest
import torch

from fmce.recorder.gram import (
    debiased_cka,
    drift_between,
    effective_rank,
    gram_matrix,
    gram_triangle,
    pooled,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def triangle(features):
    return gram_triangle(gram_matrix(features))


def unbiased_hsic(k, m):
    """HSIC_1 of Song et al. (2012), written from its formula."""
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    a = np.trace(k @ m)
    b = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
    c = 2 / (n - 2) * (ones @ k @ m @ ones)
    return (a + b - c) / (n * (n - 3))


def test_the_cosine_of_triangles_is_the_debiased_cka_of_its_definition():
    x, y = random(40, 30), random(40, 50, seed=1)
    y = y + x @ random(30, 50, seed=2)
    k, m = ((f @ f.T).double().numpy() for f in (x, y))
    expected = unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    assert debiased_cka(triangle(x), triangle(y)) == pytest.approx(expected, abs=2e-4)


def test_random_features_that_outnumber_the_samples_have_nothing_in_common():
    values = [
        debiased_cka(triangle(random(64, 4096, seed=s)), triangle(random(64, 4096, seed=s + 50)))
        for s in range(5)
    ]
    assert max(map(abs, values)) < 0.1
    x, y = (random(64, 4096, seed=s) for s in (0, 50))
    k, m = ((f - f.mean(0)) @ (f - f.mean(0)).T for f in (x, y))
    assert float((k * m).sum() / (k.norm() * m.norm())) > 0.9  # the biased form is taken in


def test_rotation_and_scale_change_nothing_and_small_drifts_keep_their_digits():
    x = random(64, 16)
    rotation, _ = torch.linalg.qr(random(16, 16, seed=3))
    assert drift_between(triangle(x), triangle(7 * x @ rotation + 5)) < 1e-6
    moved = x + 1e-2 * random(64, 16, seed=4)
    assert 1e-5 < drift_between(triangle(x), triangle(moved)) < 1e-3


def test_constant_outputs_have_no_cka_and_no_rank():
    constant = torch.full((16, 5), 0.1)
    assert np.isnan(drift_between(triangle(constant), triangle(random(16, 5))))
    assert np.isnan(effective_rank(gram_matrix(torch.zeros(16, 5))))


def test_triangles_of_different_probes_are_refused():
    with pytest.raises(ValueError, match="one probe"):
        debiased_cka(triangle(random(16, 4)), triangle(random(20, 4)))
    with pytest.raises(ValueError, match="8 samples"):
        gram_matrix(random(7, 4))


def test_a_triangle_of_256_samples_takes_64_kib():
    assert triangle(random(256, 32)).nbytes == 256 * 255 // 2 * 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9,), 1),
        ((9, 5), 5),
        ((9, 7, 6), 24),
        ((9, 5, 7, 3), 20),
        ((9, 5, 1, 1), 5),
        ((9, 4, 3, 4, 5), 32),
    ],
)
def test_outputs_of_every_rank_are_pooled(shape, expected):
    assert pooled(random(*shape), channels_last=len(shape) == 3).shape == (9, expected)
