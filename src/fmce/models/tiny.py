"""A small residual network for low-resolution images, in place of the papers' networks in the demo."""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Add two 3×3 convolutions to a shortcut, which is a 1×1 convolution where the shape changes.

    The layout is He et al.'s basic block (arXiv:1512.03385, Fig. 2 left) with batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
        output: Tensor = self.activation(self.residual(maps) + self.shortcut(maps))
        return output


class TinyNet(nn.Module):
    """Classify small images with a stem, three residual blocks and a linear head.

    The last map is the output of `blocks.2`: (B, 4·width, ⌈H/4⌉, ⌈W/4⌉), so 64×4×4 for 16×16 images
    at the default width; its mean over positions is what the head sees.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, stride=1),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, in_channels, H, W)."""
        maps = self.blocks(self.stem(images))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def tiny(num_classes: int, in_channels: int = 3, width: int = 16) -> TinyNet:
    """Build a `TinyNet` with freshly drawn weights; `width` is the number of channels of the first block.

    Raises:
        ValueError: If one of the three is below 1.

    >>> import torch
    >>> tiny(10)(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}; use a positive whole number")
    return TinyNet(num_classes, in_channels, width)
