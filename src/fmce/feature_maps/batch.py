"""What a batch of feature maps is."""

from typing import NamedTuple

from torch import Tensor


class MapBatch(NamedTuple):
    """Feature maps (B,C,H,W), their scores 1…K (B,) int64, image positions and run numbers (B,) int64."""

    maps: Tensor
    scores: Tensor
    image_index: Tensor
    run: Tensor
