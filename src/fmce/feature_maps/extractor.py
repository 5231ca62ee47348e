"""A frozen network as a function from images to feature maps."""

from pathlib import Path

import torch
from torch import Tensor, nn

from fmce.engine.runtime import Runtime
from fmce.files import wanted_by
from fmce.models.features import FeatureMaps
from fmce.runs.run import Run


class MapExtractor:
    """A frozen network as a function from images (B,3,H,W) to feature maps float32 (B,C,h,w)."""

    def __init__(
        self, model: nn.Module, layer: str, runtime: Runtime, origin: Path | None = None
    ) -> None:
        """Freeze a model; its hooks stay attached, so pass one that belongs to nobody else.

        Errors about what the layer returns open with `origin`, the file that named it.
        """
        self.model = model.eval().requires_grad_(False)
        self.layer, self.runtime, self.origin = layer, runtime, origin
        self._maps = FeatureMaps(self.model, layer)
        self._maps.__enter__()

    # no_grad rather than inference_mode: FMCE-Net's backward pass must be able to save the maps.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the feature maps of a batch."""
        with wanted_by(self.origin), self.runtime.autocast():
            self.model(self.runtime.to_device(images))
            maps = self._maps.single(self.layer).float()
        self._maps.clear()  # else each of K networks would keep a block of maps
        return maps


def map_extractor(run: Run, epoch: int, runtime: Runtime) -> MapExtractor:
    """Return the extractor of the network as it was after an epoch."""
    setup = run.setup
    return MapExtractor(runtime.to_device(run.model(epoch)), setup.layer, runtime, setup.origin)
