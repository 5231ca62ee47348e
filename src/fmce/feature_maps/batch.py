"""What a batch of feature maps is."""

from typing import NamedTuple

from torch import Tensor


class MapBatch(NamedTuple):
    """Feature maps and what they are maps of; what FMCE-Net predicts from `maps` is `phases`.

    Attributes:
        maps: float32 (B,C,h,w).
        phases: Convergence phase of each map's checkpoint, 1 … K, int64 (B,).
        image_index: Position of each image in its split, int64 (B,).
        run: Number of the training run each map belongs to, int64 (B,).
    """

    maps: Tensor
    phases: Tensor
    image_index: Tensor
    run: Tensor
