"""Gram matrices of a module's outputs on a fixed probe, and what follows from them alone.

A matrix is kept U-centred, as the upper triangle in half precision: two samples' similarity without what either
shares with all others. The cosine of two such triangles is the debiased linear CKA (Song et al., 2012; Kornblith
et al., 2019). The biased form would come close to 1 between random features as soon as they outnumber the samples.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Fewer samples leave too few pairs.
FEWEST_SAMPLES = 8
# Cells per channel that maps are averaged to: 2×2 of an image, four of a sequence.
_SIDE, _CELLS = 2, 4

Triangle = NDArray[np.float16]


def pooled(output: Tensor, *, channels_last: bool = False) -> Tensor:
    """Average a module's outputs to a few cells per channel and flatten them.

    Args:
        output: (N,), (N,C), tokens (N,T,C), or maps (N,C,…) with one to three spatial axes.
        channels_last: Whether the last axis of (N,a,b) holds the channels.

    Returns:
        float32 (N,C·cells): at most 2 cells per spatial axis, 4 of a sequence.

    >>> pooled(torch.zeros(8, 16, 7, 7)).shape, pooled(torch.zeros(8, 5)).shape
    (torch.Size([8, 64]), torch.Size([8, 5]))
    """
    x = output.detach().float()
    if x.ndim == 3 and channels_last:
        x = x.transpose(1, 2)
    if x.ndim == 3:
        x = F.adaptive_avg_pool1d(x, min(_CELLS, x.shape[2]))
    elif x.ndim == 4:
        x = F.adaptive_avg_pool2d(x, (min(_SIDE, x.shape[2]), min(_SIDE, x.shape[3])))
    elif x.ndim >= 5:
        x = x.flatten(4)
        a, b, c = (min(_SIDE, side) for side in x.shape[2:])
        x = F.adaptive_avg_pool3d(x, (a, b, c))
    return x.reshape(len(x), -1)


def gram_matrix(features: Tensor) -> Tensor:
    """Return the Gram matrix (N,N) of centred features (N,D), in float64.

    Raises:
        ValueError: If there are fewer than 8 samples.
    """
    if len(features) < FEWEST_SAMPLES:
        raise ValueError(f"a Gram matrix needs {FEWEST_SAMPLES} samples, got {len(features)}")
    # Some accelerators have no float64.
    home = features if features.device.type in ("cpu", "cuda") else features.cpu()
    x = home.double()
    x = x - x.mean(0)
    return x @ x.T


def effective_rank(gram: Tensor) -> float:
    """Return the effective rank of centred features: e to the entropy of their spectrum (Roy & Vetterli, 2007).

    Args:
        gram: (N,N) from `gram_matrix`.

    Returns:
        1 to N − 1; NaN where all samples have the same features.

    >>> round(effective_rank(gram_matrix(torch.eye(8))), 6)
    7.0
    """
    values = torch.linalg.eigvalsh(gram.cpu()).clamp(min=0)
    total = values.sum()
    if not total > 0:
        return float("nan")
    shares = values / total
    return float(torch.exp(-(shares * torch.log(shares.clamp(min=1e-300))).sum()))


def gram_triangle(gram: Tensor) -> Triangle:
    """Return a Gram matrix (N,N) U-centred, as its upper triangle (N(N−1)/2,) in half precision, largest entry 1.

    All zeros where every sample has the same features.
    """
    k = gram.cpu().double().clone()
    n = len(k)
    scale = float(k.abs().max())
    k.fill_diagonal_(0)
    rows = k.sum(0)
    centred = k - (rows[:, None] + rows[None, :]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    upper = centred[tuple(torch.triu_indices(n, n, 1))].numpy()
    largest = float(np.abs(upper).max())
    # What is left of rounding alone is no structure.
    if not largest > 1e-12 * scale:
        return np.zeros(len(upper), np.float16)
    return (upper / largest).astype(np.float16)


def debiased_cka(first: Triangle, second: Triangle) -> float:
    """Return the debiased linear CKA of two modules' outputs, or of one module's at two epochs.

    Args:
        first: Triangle (P,) of the first; see `gram_triangle`.
        second: Triangle (P,) of the second, for the same probe.

    Returns:
        At most 1, which means the same up to rotation and scale; about 0 where they have nothing in common, and
        possibly a little below. NaN where one of them is constant.

    Raises:
        ValueError: If they belong to probes of different sizes.

    >>> features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> turned = 3 * features.flip(1)
    >>> round(debiased_cka(*(gram_triangle(gram_matrix(x)) for x in (features, turned))), 5)
    1.0
    """
    if first.shape != second.shape:
        raise ValueError(
            f"expected two triangles of one probe, got {len(first)} and {len(second)} pairs of samples"
        )
    return 1.0 - drift_between(first, second)


def drift_between(first: Triangle, second: Triangle) -> float:
    """Return 1 − CKA, computed so that small drifts keep their digits; NaN where one is constant."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not min(lengths) > 0:
        return float("nan")
    return float(np.square(a / lengths[0] - b / lengths[1]).sum() / 2)
