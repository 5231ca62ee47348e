"""Dropout over the global batch when several processes train together: what one process would drop.

Each rank draws for the whole batch from the same generator and takes its own rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fmce.engine.distributed.ranks import Ranks

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextmanager
def sync_dropout(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let a model's dropout layers, when in training mode, drop what they would in one process.

    On GPUs that holds for layers that drop whole channels; elements are drawn there by a kernel that
    cannot be asked for some rows, so theirs are as many, but others. The model is left as found.

    Args:
        model: the network in training.
        ranks: alone, nothing is changed.
    """
    kinds = (nn.Dropout, *_OF_CHANNELS)
    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, kinds) and ranks.world_size > 1
    ]
    for layer in layers:
        # An attribute of the instance hides the class's method, and deleting it brings that back.
        layer.forward = _jointly(layer, ranks)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _jointly(layer: Any, ranks: Ranks) -> Callable[[Tensor], Tensor]:
    plain: Callable[[Tensor], Tensor] = layer.forward
    of_channels = isinstance(layer, _OF_CHANNELS)

    def forward(x: Tensor) -> Tensor:
        rate = float(layer.p)
        if not layer.training or not 0 < rate < 1:
            return plain(x)
        return x * _kept(x, of_channels, 1 - rate, ranks)

    # Compiled code cannot hold what the ranks say to each other; it is cut in two here.
    uncompiled: Callable[[Tensor], Tensor] = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
    return uncompiled


def _kept(x: Tensor, of_channels: bool, share: float, ranks: Ranks) -> Tensor:
    """Return this rank's rows of what the whole batch is multiplied by: 0, or 1 / share where kept."""
    sizes = ranks.all_gather(torch.tensor(len(x), device=x.device)).tolist()
    shape = [sum(sizes), *x.shape[1:]]
    if of_channels:
        shape[2:] = [1] * (x.ndim - 2)
    # PyTorch draws in the order in which the elements lie in memory.
    beside = x.ndim == 4 and not of_channels and not x.is_contiguous()
    order = torch.channels_last if beside else torch.contiguous_format
    noise = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)
    noise.bernoulli_(share, generator=ranks.generator(x.device)).div_(share)
    before = sum(sizes[: ranks.rank])
    return noise[before : before + len(x)]
