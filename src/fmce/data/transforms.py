"""From stored uint8 images to a network's input, whole batches at a time on any device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ImageTransform:
    """Resize, vary (training only) and normalise a batch of images.

    size: side in pixels after bilinear resizing.
    mean, std: per channel on the 0–1 scale, three values each.
    shift: largest shift in pixels, zeros moving in (pad-and-crop).
    noise: standard deviation of Gaussian noise, in units of the channel's own (after normalising).
    flip: mirror left-right with probability ½.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int = 0
    noise: float = 0.0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return network input.

        Args:
            images: uint8 (B,C,H,W), C = 1 (replicated to three channels) or 3.
            generator: draws the variation; None applies none.

        Returns:
            float32 (B,3,size,size).

        Raises:
            ValueError: the images are no uint8 batch with 1 or 3 channels.
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
        if generator is not None:
            x = self._move(x, generator)
        mean, std = (
            torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std)
        )
        x = (x - mean) / std
        if generator is not None and self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)
        return x

    def _move(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        return random_shift(x, self.shift, generator) if self.shift else x


def random_shift(x: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `largest` pixels in each direction, zeros moving in.

    Args:
        x: (B,C,H,W).
        largest: pixels.
        generator: on the device of `x`.

    Returns:
        (B,C,H,W), the same as padding by `largest` and cutting a random H×W window.
    """
    batch, _, height, width = x.shape
    padded = F.pad(x, (largest,) * 4)
    corner = torch.randint(0, 2 * largest + 1, (2, batch), generator=generator, device=x.device)
    rows = corner[0][:, None] + torch.arange(height, device=x.device)
    columns = corner[1][:, None] + torch.arange(width, device=x.device)
    each = torch.arange(batch, device=x.device)[:, None, None]
    # Advanced indices around the channel slice move it last: (B,H,W,C).
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of three channels on the 0–1 scale.

    Args:
        images: uint8 (N,C,H,W), C = 1 or 3; one channel counts for all three.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        # Counts of the 256 levels: exact, and 8 bytes a pixel less than converting the images.
        share = torch.bincount(channel.flatten(), minlength=256).cpu().double() / channel.numel()
        mean.append((share @ levels).item())
        std.append((share @ (levels - mean[-1]).square()).sqrt().item())
    repeat = 3 // len(mean)
    return tuple(mean * repeat), tuple(std * repeat)


def _shrinks(x: Tensor, size: int) -> bool:
    return size < min(x.shape[-2:])
