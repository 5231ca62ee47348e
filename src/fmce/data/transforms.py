"""From batches of stored uint8 images to a network's input, on any device."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.data.batch_slice import ALL_ROWS, BatchSlice, rank_slice

_COUNTED_TOGETHER = 1024  # images whose levels are counted at one time


def normalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return images (B,3,H,W) on the 0–1 scale less the mean of each channel, over its deviation."""
    # torch.tensor(…, device) would make the host wait for the GPU.
    shift, scale = (
        torch.tensor(v).view(1, 3, 1, 1).to(x.device, non_blocking=True) for v in (mean, std)
    )
    return (x - shift) / scale


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
        """Return network input, float32 (B,3,size,size).

        Args:
            images: Images uint8 (B,C,H,W), C = 1 (replicated to three channels) or 3.
            generator: Draws the variation; None applies none.
            batch_slice: Rows of a larger batch that these are. Variation is drawn for the complete batch, so that
                ranks vary it as one process would; None means that these are all rows.

        Raises:
            ValueError: If the images are not uint8 with 1 or 3 channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"expected uint8 images (B,1 or 3,H,W), got {images.dtype} {tuple(images.shape)}"
            )
        x = images.float() / 255
        side, shape = self.size, x.shape[-2:]
        if shape != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=side < min(shape))
        if generator is None:
            return normalize(x, self.mean, self.std)
        rows, count = batch_slice or rank_slice(len(x), *ALL_ROWS)
        options: dict[str, Any] = {"generator": generator, "device": x.device}
        if self.flip:
            mirrored = torch.rand(count, **options)[rows] < 0.5  # (B,)
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        if self.shift:
            corner = torch.randint(0, 2 * self.shift + 1, (2, count), **options)
            x = cut_windows(x, corner[:, rows], self.shift)
        x = normalize(x, self.mean, self.std)
        if self.noise:
            x = x + self.noise * torch.randn((count, 3, side, side), **options)[rows]
        return x


def cut_windows(x: Tensor, corner: Tensor, largest: int) -> Tensor:
    """Cut an H×W window out of each zero-padded image (B,C,H,W): a shift by up to `largest` pixels.

    `corner` is the row and column of each window's corner, int64 (2,B), 0 to 2·largest.
    """
    _, _, height, width = x.shape
    padded = F.pad(x, (largest,) * 4)
    rows = corner[0][:, None] + torch.arange(height, device=x.device)
    columns = corner[1][:, None] + torch.arange(width, device=x.device)
    each = torch.arange(len(x), device=x.device)[:, None, None]
    # Advanced indices around the channel slice move it last: (B,H,W,C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of three channels of images uint8 (N,C,H,W), on the 0–1 scale.

    One channel counts for all three. A constant one has deviation 1, since images are divided by it.
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
