"""From batches of stored uint8 images to a network's input, on any device."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, BatchSlice, rank_slice

# Images whose levels are counted at one time.
_COUNTED_TOGETHER = 1024


class Variation(NamedTuple):
    """What is drawn for the images of a batch; None for kinds that are off.

    Attributes:
        mirrored: bool (B,).
        corner: Row and column of the window to cut, int64 (2,B).
        noise: float32 (B,3,H,W), standard normal.
    """

    mirrored: Tensor | None
    corner: Tensor | None
    noise: Tensor | None

    def of(self, rows: slice) -> "Variation":
        """Return what was drawn for some rows of the batch."""
        mirrored, corner, noise = self
        return Variation(
            None if mirrored is None else mirrored[rows],
            None if corner is None else corner[:, rows],
            None if noise is None else noise[rows],
        )


@dataclass(frozen=True)
class ImageTransform:
    """Resize, vary (training only) and normalise a batch of images.

    Attributes:
        size: Side in pixels after bilinear resizing.
        mean: Three channel means on the 0–1 scale.
        std: Three standard deviations on the 0–1 scale.
        shift: Largest shift in pixels, with zeros moving in (pad-and-crop).
        noise: Standard deviation of Gaussian noise, in units of `std`.
        flip: Whether images are mirrored left-right with probability ½.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    noise: float = 0.0
    flip: bool = False

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        batch_slice: BatchSlice | None = None,
    ) -> Tensor:
        """Return network input.

        Args:
            images: Images uint8 (B,C,H,W), C = 1 (replicated to three channels) or 3.
            generator: Draws the variation; None applies none.
            batch_slice: Rows of a larger batch that these are. Variation is drawn for the complete batch, so that
                ranks vary it as one process would; None means that these are all rows.

        Returns:
            float32 (B,3,size,size).

        Raises:
            ValueError: If the images are not uint8 with 1 or 3 channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"expected uint8 images (B,1 or 3,H,W), got {images.dtype} {tuple(images.shape)}"
            )
        x = images.float() / 255
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", antialias=_shrinks(x, self.size)
            )
        batch_slice = batch_slice or rank_slice(len(x), *ALL_ROWS)
        drawn = self._draw(batch_slice.batch_size, x.device, generator).of(batch_slice.rows)
        if drawn.mirrored is not None:
            x = torch.where(drawn.mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        if drawn.corner is not None:
            x = cut_windows(x, drawn.corner, self.shift)
        # torch.tensor(…, device) would make the host wait for the GPU.
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1).to(x.device, non_blocking=True)
            for v in (self.mean, self.std)
        )
        x = (x - mean) / std
        return x if drawn.noise is None else x + self.noise * drawn.noise

    def _draw(
        self, count: int, device: torch.device, generator: torch.Generator | None
    ) -> Variation:
        if generator is None:
            return Variation(None, None, None)
        mirrored = corner = noise = None
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        if self.shift:
            corner = torch.randint(
                0, 2 * self.shift + 1, (2, count), generator=generator, device=device
            )
        if self.noise:
            shape = (count, 3, self.size, self.size)
            noise = torch.randn(shape, generator=generator, device=device)
        return Variation(mirrored, corner, noise)


def cut_windows(x: Tensor, corner: Tensor, largest: int) -> Tensor:
    """Cut an H×W window out of each zero-padded image: a shift by up to `largest` pixels.

    Args:
        x: Images (B,C,H,W).
        corner: Row and column of the corner of each window, int64 (2,B), 0 to 2·largest.
        largest: Pixels of padding on each side.

    Returns:
        (B,C,H,W).
    """
    _, _, height, width = x.shape
    padded = F.pad(x, (largest,) * 4)
    rows = corner[0][:, None] + torch.arange(height, device=x.device)
    columns = corner[1][:, None] + torch.arange(width, device=x.device)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    # Advanced indices around the channel slice move it last: (B,H,W,C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of three channels on the 0–1 scale.

    Args:
        images: Images uint8 (N,C,H,W), C = 1 or 3; one channel counts for all three.

    Returns:
        Means and standard deviations. A constant channel has deviation 1, since images are divided by it.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        # Counts of the 256 levels, part by part: exact and without a copy of the images.
        parts = torch.split(channel, _COUNTED_TOGETHER)
        counts = torch.stack([torch.bincount(p.flatten(), minlength=256) for p in parts]).sum(0)
        share = counts.cpu().double() / channel.numel()
        mean.append((share @ levels).item())
        variance = (share @ (levels - mean[-1]).square()).item()
        # Two-colour images, such as those of microscopes, have an empty third channel.
        std.append(math.sqrt(variance) if (counts > 0).sum() > 1 else 1.0)
    repeat = 3 // len(mean)
    return tuple(mean * repeat), tuple(std * repeat)


def _shrinks(x: Tensor, size: int) -> bool:
    return size < min(x.shape[-2:])
