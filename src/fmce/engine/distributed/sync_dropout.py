"""Dropout over the global batch when several processes train together: what one process would drop.

Each rank draws for the global batch from the same generator and takes its own rows.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fmce.engine.distributed.layers import Forward, replaced_forward
from fmce.engine.distributed.ranks import Ranks

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def sync_dropout(model: nn.Module, ranks: Ranks) -> AbstractContextManager[None]:
    """Let a model's dropout layers, when in training mode, drop what they would in one process.

    On GPUs that holds for layers that drop entire channels; elements are drawn there by a kernel that
    cannot be asked for some rows, so theirs are as many, but others. The model is left as found.

    Args:
        model: The network in training.
        ranks: Alone, nothing is changed.
    """
    kinds = (nn.Dropout, *_OF_CHANNELS)
    layers = [m for m in model.modules() if isinstance(m, kinds) and ranks.world_size > 1]

    def replacement(layer: Any, plain: Forward) -> Forward:
        of_channels = isinstance(layer, _OF_CHANNELS)

        def forward(x: Tensor) -> Tensor:
            rate = float(layer.p)
            if not layer.training or not 0 < rate < 1:
                return plain(x)
            return x * _scale(x, of_channels, 1 - rate, ranks)

        return forward

    return replaced_forward(layers, replacement)


def _scale(x: Tensor, of_channels: bool, kept: float, ranks: Ranks) -> Tensor:
    """Return this rank's rows of what the global batch is multiplied by: 0, or 1 / kept where kept."""
    sizes = ranks.all_gather(torch.tensor(len(x), device=x.device)).tolist()
    shape = [sum(sizes), *x.shape[1:]]
    if of_channels:
        shape[2:] = [1] * (x.ndim - 2)
    # PyTorch draws in the order in which the elements lie in memory.
    channels_last = x.ndim == 4 and not of_channels and not x.is_contiguous()
    order = torch.channels_last if channels_last else torch.contiguous_format
    noise = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)
    noise.bernoulli_(kept, generator=ranks.generator(x.device)).div_(kept)
    before = sum(sizes[: ranks.rank])
    return noise[before : before + len(x)]
