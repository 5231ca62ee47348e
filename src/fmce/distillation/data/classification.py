"""The images of a classification experiment: a class-balanced part keeps its labels, the others join the pool."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.config.distillation import DistillationDataConfig
from fmce.data.classification.classification import load_classification
from fmce.data.pools import ImagePool
from fmce.distillation.data.pools import DistillationData, sample_indices, with_statistics


def classification_data(config: DistillationDataConfig) -> DistillationData:
    """Load a data set of `fmce train`; targets are class indices int64 (N,)."""
    from sklearn.model_selection import train_test_split

    data = load_classification(config.name, split_seed=config.seed, root=config.root)
    everything = np.arange(len(data.train))
    chosen, rest = everything, everything[:0]
    if config.labelled is not None and config.labelled < len(everything):
        chosen, rest = train_test_split(
            everything,
            train_size=config.labelled,
            stratify=data.train.targets.numpy(),
            random_state=config.seed,
        )
    images, labelled = _resized(data.train.images, config), np.sort(chosen)
    validation = ImagePool(_resized(data.test.images, config), data.test.targets)
    return with_statistics(
        ImagePool(images[labelled], data.train.targets[labelled]),
        ImagePool(images[rest[config.held_out :][: config.unlabelled]]),
        ImagePool(images[rest[: config.held_out]]),
        validation.select(sample_indices(len(data.test), config.validation, config.seed)),
        data.class_names,
    )


def _resized(images: Tensor, config: DistillationDataConfig) -> Tensor:
    """Return uint8 images (N,C,h,w) as (N,3,height,width)."""
    size, rgb = (config.height, config.width), images.expand(-1, 3, -1, -1)
    if images.shape[-2:] == size:
        return rgb.contiguous()
    resized = F.interpolate(rgb.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
