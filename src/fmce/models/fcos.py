"""FCOS (Tian et al., ICCV 2019) with a feature pyramid, built from torchvision's parts.

It returns its raw outputs in train and in eval mode, and changes no image, so that boxes are in its pixels.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fmce.models.detection import DetectionOutput
from fmce.models.timm_models import timm_encoder

PAPER_STRIDES = (8, 16, 32, 64, 128)
_GROUPS = 32  # of the head's group normalisation, as in torchvision
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # torchvision's


class FCOS(nn.Module):
    """Backbone with feature pyramid, and torchvision's FCOS head; built by `fcos`.

    Attributes:
        num_classes: Classes of the logits; there is no background class.
        strides: Pixels between neighbouring locations, by level.
    """

    def __init__(self, pyramid: nn.Module, head: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.pyramid, self.head, self.strides = pyramid, head, tuple(strides)
        self.num_classes: int = head.classification_head.num_classes  # type: ignore[union-attr, assignment]

    def forward(self, images: Tensor) -> DetectionOutput:
        """Compute the raw outputs of images float (B, 3, H, W), normalised, of at least one stride."""
        maps = list(self.pyramid(images).values())
        raw = self.head(maps)
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        locations, strides = _locations(sizes, self.strides, images.device)
        return DetectionOutput(
            raw["cls_logits"],
            # The head counts in strides, which are powers of two: nothing is rounded here.
            raw["bbox_regression"].float() * strides[:, None],
            raw["bbox_ctrness"].squeeze(2),
            locations,
            strides,
            tuple(h * w for h, w in sizes),
        )


def _locations(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return x, y (A, 2) and strides (A,) of the cells of all levels, row by row.

    A cell lies at index times stride, as in torchvision, whose anchors are centred there. torchvision gets
    the stride as image size over map size, which is wrong where the image is no multiple of it (375 px
    over 47 cells gives 7); the levels' true strides are used here.
    """
    places, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        places.append(torch.stack([x, y], dim=2).flatten(0, 1) * float(stride))
        steps.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(places), torch.cat(steps)


class _Pyramid(nn.Module):
    """An encoder's maps, finest first, with torchvision's feature pyramid over them."""

    def __init__(self, encoder: nn.Module, fpn: nn.Module) -> None:
        super().__init__()
        self.encoder, self.fpn = encoder, fpn

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        maps = self.encoder(images)
        named = maps if isinstance(maps, Mapping) else {str(i): m for i, m in enumerate(maps)}
        levels: Mapping[str, Tensor] = self.fpn(OrderedDict(named))
        return levels


def fcos(
    backbone: str,
    num_classes: int,
    *,
    weights: str | None = None,
    channels: int = 256,
    convolutions: int = 4,
    strides: Sequence[int] = PAPER_STRIDES,
    encoder_options: Mapping[str, Any] | None = None,
) -> FCOS:
    """Build an FCOS detector (Tian et al., ICCV 2019).

    Args:
        backbone: "resnet18", "resnet50", "resnet101" or another ResNet of torchvision; or a timm
            encoder with feature maps, such as "test_resnet", for small images and processors.
        num_classes: Classes of the logits, at least 1; no background class.
        weights: None for a random start; "imagenet" loads (and where needed downloads) weights. As
            in torchvision, a loaded ResNet's batch normalisation is frozen.
        channels: Of the pyramid and the head, a multiple of 32.
        convolutions: Of each of the head's two branches before its outputs.
        strides: Of the levels, each twice the one before. Those beyond the encoder's last stage are
            made by further strided convolutions. Objects of a few pixels need 4.
        encoder_options: Further arguments of a timm encoder, such as a ResNet's `channels`.

    Raises:
        ValueError: If the backbone is unknown or lacks these strides, or an argument is out of its range.
        ModuleNotFoundError: If a timm encoder was asked for and timm is not installed.

    >>> model = fcos("test_resnet", 3, channels=32, convolutions=1, strides=(4, 8))
    >>> output = model(torch.zeros(2, 3, 32, 64))
    >>> output.class_logits.shape, output.level_sizes
    (torch.Size([2, 160, 3]), (128, 32))
    """
    _check_arguments(num_classes, weights, channels, convolutions, strides)
    if backbone in _RESNETS:
        if encoder_options:
            raise ValueError(f"encoder_options are for timm encoders, not for {backbone!r}")
        encoder, widths = _resnet(backbone, weights, strides)
    else:
        encoder, widths = _timm_levels(backbone, weights, strides, encoder_options or {})
    from torchvision.models.detection.fcos import FCOSHead
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

    further = LastLevelP6P7(channels, channels) if len(strides) > len(widths) else None
    fpn = FeaturePyramidNetwork(widths, channels, further)
    head = FCOSHead(channels, 1, num_classes, num_convs=convolutions)
    # Not given in the paper: torchvision starts distances at 0 ± 0.01 strides before a ReLU, where
    # a few large steps can end all gradients; they start at two strides instead.
    nn.init.constant_(head.regression_head.bbox_reg.bias, 2.0)
    return FCOS(_Pyramid(encoder, fpn), head, strides)


def _check_arguments(
    num_classes: int, weights: str | None, channels: int, convolutions: int, strides: Sequence[int]
) -> None:
    if num_classes < 1:
        raise ValueError(f"expected num_classes of at least 1, got {num_classes}")
    if weights not in (None, "imagenet"):
        raise ValueError(f"expected weights None or 'imagenet', got {weights!r}")
    if channels < _GROUPS or channels % _GROUPS:
        raise ValueError(f"expected channels as a multiple of {_GROUPS}, got {channels}")
    if convolutions < 1:
        raise ValueError(f"expected convolutions of at least 1, got {convolutions}")
    doubling = all(b == 2 * a for a, b in pairwise(strides))
    first = strides[0] if len(strides) else 0
    if first < 2 or first & (first - 1) or not doubling:
        raise ValueError(
            f"expected strides as powers of two, each twice the one before, such as {PAPER_STRIDES}; "
            f"got {tuple(strides)}"
        )


def _shared_strides(name: str, strides: Sequence[int], offered: Sequence[int]) -> list[int]:
    """Return the strides that the encoder itself has; the pyramid adds none or two."""
    shared = [s for s in strides if s in offered]
    if strides[0] not in offered or len(strides) - len(shared) not in (0, 2):
        raise ValueError(
            f"{name} has maps of strides {tuple(offered)}, to which two more can be added beyond the "
            f"last; got strides {tuple(strides)}"
        )
    return shared


def _resnet(name: str, weights: str | None, strides: Sequence[int]) -> tuple[nn.Module, list[int]]:
    """Return a ResNet of torchvision that gives the maps of its stages, and their channels."""
    from torchvision.models import get_model, get_model_weights
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.ops.misc import FrozenBatchNorm2d

    stages = {4: 1, 8: 2, 16: 3, 32: 4}
    taken = [stages[s] for s in _shared_strides(name, strides, list(stages))]
    chosen = None if weights is None else get_model_weights(name).DEFAULT
    norm = nn.BatchNorm2d if chosen is None else FrozenBatchNorm2d
    # Not given in the slides: all of a loaded ResNet is trained but its batch normalisation;
    # torchvision would freeze the first stages too.
    resnet = get_model(name, weights=chosen, norm_layer=norm)
    widths = [resnet.inplanes // 2 ** (4 - stage) for stage in taken]
    return IntermediateLayerGetter(resnet, {f"layer{s}": str(s) for s in taken}), widths


def _timm_levels(
    name: str, weights: str | None, strides: Sequence[int], options: Mapping[str, Any]
) -> tuple[nn.Module, list[int]]:
    """Return a timm encoder that gives its maps of the strides it has, and their channels."""
    info = timm_encoder(name, pretrained=False, **options).feature_info
    offered = info.reduction()
    indices = [offered.index(s) for s in _shared_strides(name, strides, offered)]
    encoder = timm_encoder(name, pretrained=weights == "imagenet", out_indices=indices, **options)
    return encoder, [info.channels()[i] for i in indices]
