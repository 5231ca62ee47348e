"""Networks and images of the transfer study: small ones, and as unlike one another as they can be.

Images are subsets of the usual sets, 16 or 32 pixels wide. They are kept in one file per set below --out, so that a
machine without the sets can train too.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.classification.classification import load_classification
from fmce.data.classification.image_folder import read_image_folder
from fmce.data.transforms import ImageTransform, channel_statistics
from fmce.files import replacing
from fmce.models.tiny import TinyNet


class Source(NamedTuple):
    """A set of images.

    Attributes:
        name: For `load_classification`, or the folder of an image folder below FMCE_DATA.
        classes: Those taken, from the first to before the second; None takes all.
        side: Pixels.
        images: How many train.
        flip: Whether they are mirrored in training.
        noise: Deviation of the noise added in training.
    """

    name: str
    classes: tuple[int, int] | None = None
    side: int = 16
    images: int = 1000
    flip: bool = True
    noise: float = 0.0


SOURCES: Mapping[str, Source] = {
    "digits": Source("digits", flip=False, noise=0.3),
    "mnist": Source("mnist", flip=False),
    "fashion": Source("fashion-mnist"),
    "cifar10": Source("cifar10"),
    "cifar100-first10": Source("cifar100", (0, 10)),
    "cifar100-other20": Source("cifar100", (40, 60)),
    "cifar100-last20": Source("cifar100", (80, 100)),
    "imagenette": Source("imagenette-84"),
    "cifar10-32px": Source("cifar10", side=32, images=10_000),
    "cifar10-32px-2000": Source("cifar10", side=32, images=2000),
}
_SHIFT = 2


@dataclass(frozen=True)
class Images:
    """Training images uint8 (N,C,side,side), their classes (N,), and how they are varied."""

    images: Tensor
    targets: Tensor
    transform: ImageTransform

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self.targets.max()) + 1


def load_images(name: str, folder: Path) -> Images:
    """Return the images of a set, from the file below `folder`, which is written where it is missing.

    Raises:
        FileNotFoundError: If neither the file nor the set below FMCE_DATA is there.
    """
    source, file = SOURCES[name], folder / f"{name}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, targets = _drawn(source)
        with replacing(file) as beside, open(beside, "wb") as opened:
            np.savez_compressed(opened, images=images.numpy(), targets=targets.numpy())
    with np.load(file) as arrays:
        images, targets = (torch.from_numpy(arrays[key]) for key in ("images", "targets"))
    mean, std = channel_statistics(images)
    transform = ImageTransform(
        source.side, mean, std, shift=_SHIFT, noise=source.noise, flip=source.flip
    )
    return Images(images, targets.long(), transform)


def _drawn(source: Source) -> tuple[Tensor, Tensor]:
    """Draw a set's images, the same in every call, and resize them."""
    if source.name.startswith("imagenette"):
        root = os.environ.get("FMCE_DATA", "data")
        part = read_image_folder(Path(root) / source.name, 2 * source.side).train
    else:
        part = load_classification(source.name).train
    targets = part.targets.long()
    low, high = source.classes or (0, int(targets.max()) + 1)
    chosen = torch.nonzero((targets >= low) & (targets < high))[:, 0]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
    chosen = chosen[order[: source.images]]
    images = part.images[chosen].float()
    size = (source.side, source.side)
    if images.shape[-2:] != size:
        shrinks = images.shape[-1] > source.side
        images = F.interpolate(images, size, mode="bilinear", antialias=shrinks)
    return images.round().clamp(0, 255).byte(), targets[chosen] - low


class PlainNet(nn.Module):
    """Three stages of two 3×3 convolutions without shortcuts, max pooling between them."""

    def __init__(self, num_classes: int, width: int, *, norm: bool = True) -> None:
        super().__init__()
        stages, before = [], 3
        for level in range(3):
            after = width * 2**level
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if level else []
            for channels in (before, after):
                layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=not norm))
                layers += [nn.BatchNorm2d(after)] if norm else []
                layers.append(nn.ReLU())
            stages.append(nn.Sequential(*layers))
            before = after
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,num_classes)."""
        logits: Tensor = self.head(self.blocks(images).mean((2, 3)))
        return logits


class TokenBlock(nn.Module):
    """A block over the cells of a map (B,D,h,w): attention, or mixing of cells, and a perceptron."""

    def __init__(self, width: int, cells: int, *, attention: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True) if attention else None
        mixed = nn.Sequential(nn.Linear(cells, 2 * cells), nn.GELU(), nn.Linear(2 * cells, cells))
        self.mixing = None if attention else mixed
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        tokens = maps.flatten(2).transpose(1, 2)  # (B,h·w,D)
        x = self.first(tokens)
        if self.attention is not None:
            tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        else:
            assert self.mixing is not None
            tokens = tokens + self.mixing(x.transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.perceptron(self.second(tokens))
        mixed: Tensor = tokens.transpose(1, 2).reshape(maps.shape)
        return mixed


class TokenNet(nn.Module):
    """Patches of 4×4 pixels, three token blocks and a linear head: a small ViT, or a small MLP-Mixer."""

    def __init__(self, num_classes: int, width: int, side: int, *, attention: bool) -> None:
        super().__init__()
        cells = side // 4
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(1, width, cells, cells))
        blocks = [TokenBlock(width, cells**2, attention=attention) for _ in range(3)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,num_classes)."""
        maps = self.blocks(self.stem(images) + self.place)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def _shufflenet(num_classes: int, _width: int, _side: int) -> nn.Module:
    from torchvision.models import shufflenet_v2_x0_5

    net: Any = shufflenet_v2_x0_5(num_classes=num_classes)
    net.conv1[0].stride, net.maxpool = (1, 1), nn.Identity()
    return net  # type: ignore[no-any-return]


def _mobilenet(num_classes: int, _width: int, _side: int) -> nn.Module:
    from torchvision.models import mobilenet_v2

    net: Any = mobilenet_v2(num_classes=num_classes, width_mult=0.35, dropout=0.0)
    for number in (0, 2):  # the first two of five halvings
        for layer in net.features[number].modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
    return net  # type: ignore[no-any-return]


def _densenet(num_classes: int, width: int, _side: int) -> nn.Module:
    from torchvision.models import DenseNet

    net: Any = DenseNet(width, (4, 4, 4), 2 * width, num_classes=num_classes)
    net.features.conv0 = nn.Conv2d(3, 2 * width, 3, padding=1, bias=False)
    net.features.pool0 = nn.Identity()
    return net  # type: ignore[no-any-return]


def _resnet18(num_classes: int, _width: int, _side: int) -> nn.Module:
    from torchvision.models import resnet18

    net: nn.Module = resnet18(num_classes=num_classes)
    return net


def _resnet18_stem3(num_classes: int, width: int, side: int) -> nn.Module:
    net: Any = _resnet18(num_classes, width, side)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net  # type: ignore[no-any-return]


_BLOCKS = ("blocks.0", "blocks.1", "blocks.2")
ARCHITECTURES: Mapping[str, tuple[Callable[[int, int, int], nn.Module], tuple[str, ...]]] = {
    "tiny": (lambda c, w, _: TinyNet(c, width=w), _BLOCKS),
    "plain": (lambda c, w, _: PlainNet(c, w), _BLOCKS),
    "plain-no-norm": (lambda c, w, _: PlainNet(c, w, norm=False), _BLOCKS),
    "vit": (lambda c, w, s: TokenNet(c, w, s, attention=True), _BLOCKS),
    "mixer": (lambda c, w, s: TokenNet(c, w, s, attention=False), _BLOCKS),
    "shufflenet": (_shufflenet, ("stage2", "stage3", "conv5")),
    "mobilenet": (_mobilenet, ("features.3", "features.10", "features")),
    "densenet": (
        _densenet,
        ("features.denseblock1", "features.denseblock2", "features"),
    ),
    "resnet18": (_resnet18, ("layer1", "layer2", "layer3", "layer4")),
    "resnet18-stem3": (_resnet18_stem3, ("layer1", "layer2", "layer3", "layer4")),
}
"""Name → how it is built from classes, width and side, and its modules from the first to the last."""
