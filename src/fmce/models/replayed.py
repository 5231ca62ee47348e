"""A network's passes recorded once as CUDA graphs and replayed: one launch where there were hundreds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ReplayedPasses(nn.Module):
    """Forward and backward passes of a function of images, recorded for the first batch's shape.

    Batches of another shape, such as an epoch's last one, run as they are. The values are those of unrecorded
    passes: recording changes neither weights nor the statistics of batch norm, and draws no random numbers.

    Args:
        model: The network on a GPU; its weights must stay where they are.
        run: Calls it; images → tensors.
    """

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.run = model, run
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], Any] = run

    def forward(self, images: Tensor) -> Any:
        """Return what the function returns of images (B, C, H, W); the next call overwrites it."""
        if self._shape is None:
            self._record(images)
        return self._replay(images) if images.shape == self._shape else self.run(images)

    def _record(self, images: Tensor) -> None:
        # That gradients come from the stream that recorded is meant.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        before = [buffer.clone() for buffer in self.model.buffers()]
        kind = images.device.type
        # A cast of a weight that is kept between passes would be none of the graph's own.
        whole = torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        )
        with torch.random.fork_rng([images.device]), whole:
            self._replay = torch.cuda.make_graphed_callables(
                _Passes(self.model, self.run), (images.clone(),)
            )
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        self._shape = images.shape


class _Passes(nn.Module):
    """The function as a module that names the weights; PyTorch replaces its `forward`, and so not the model's."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, images: Tensor) -> Any:
        return self.run(images)
