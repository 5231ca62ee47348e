"""PSPNet (Zhao et al., CVPR 2017) on any timm encoder that can be dilated to output stride 8."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.models.timm_models import timm_encoder

PYRAMID_BINS = (1, 2, 3, 6)
# Not given in the slides: below this width a head of C/4 channels has fewer channels than classes.
MIN_HEAD_CHANNELS = 32


class SegmentationOutput(NamedTuple):
    """What a segmentation model returns, in train and in eval mode alike.

    A custom model may also return bare logits, or torchvision's {"out": …, "aux": …}.

    Attributes:
        logits: Float (B, num_classes, H, W) at the size of the images.
        auxiliary_logits: The same shape from the auxiliary head; None in eval mode or without that head.
    """

    logits: Tensor
    auxiliary_logits: Tensor | None = None


def segmentation_output(
    result: Tensor | SegmentationOutput | Mapping[str, Tensor], images: Tensor
) -> SegmentationOutput:
    """Convert what a segmentation model returned for images (B, 3, H, W) to the one output type.

    Raises:
        ValueError: If the result is of another type, or its logits are not (B, C, H, W) at the images'
            size.
    """
    if isinstance(result, Tensor):
        result = SegmentationOutput(result)
    elif isinstance(result, Mapping) and "out" in result:
        result = SegmentationOutput(result["out"], result.get("aux"))
    if not isinstance(result, SegmentationOutput):
        raise ValueError(
            "a segmentation model must return logits (B, C, H, W), a SegmentationOutput or a "
            f"mapping with 'out'; got {type(result).__name__}; wrap the model in one that does"
        )
    shape = tuple(result.logits.shape)
    if len(shape) != 4 or (shape[0], *shape[2:]) != (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"expected logits (B, C, H, W) at the size of {tuple(images.shape)}, got {shape}; "
            "upsample them inside the model (bilinear, align_corners=False)"
        )
    return result


def head_channels(encoder_channels: int) -> int:
    """Width of a head on a stage of `encoder_channels` channels: a quarter, as in PSPNet, and at least 32.

    >>> head_channels(2048), head_channels(512), head_channels(96)
    (512, 128, 32)
    """
    return max(encoder_channels // 4, MIN_HEAD_CHANNELS)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Pool to each bin size, reduce to C/len(bins) channels, upsample and concatenate to the input.

    PSPNet, section 3.2. Maps (B, C, h, w) become (B, C + len(bins) · (C // len(bins)), h, w).
    """

    def __init__(self, channels: int, bins: Sequence[int] = PYRAMID_BINS) -> None:
        super().__init__()
        self.bins = tuple(bins)
        width = channels // len(self.bins)
        self.reduce = nn.ModuleList(_conv_bn_relu(channels, width, 1) for _ in self.bins)
        self.out_channels = channels + width * len(self.bins)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps with their pooled context behind them, (B, out_channels, h, w)."""
        size = maps.shape[2:]
        levels = [maps]
        for bins, reduce in zip(self.bins, self.reduce, strict=True):
            if bins == 1 and maps.shape[0] == 1 and reduce[1].training:  # type: ignore[index]
                raise ValueError(
                    "PSPNet cannot train on a batch of one image: its 1×1 pooled maps leave batch "
                    "normalisation one value per channel. Use batches of at least two "
                    "(drop_last=True for a last batch of one), or put the model in eval mode"
                )
            levels.append(_upsample(reduce(F.adaptive_avg_pool2d(maps, bins)), size))
        return torch.cat(levels, dim=1)


def _head(in_channels: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *_conv_bn_relu(in_channels, width, 3),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, num_classes, 1),
    )


class PSPNet(nn.Module):
    """Encoder, pyramid pooling and heads; built by `pspnet`.

    Attributes:
        num_classes: Classes of the logits.
        output_stride: Pixels of the image per cell of the encoder's last map.
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: tuple[int, int],
        num_classes: int,
        *,
        auxiliary: bool = True,
        dropout: float = 0.1,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        self.num_classes, self.output_stride = num_classes, output_stride
        before_last, last = channels
        self.encoder = encoder
        self.pyramid = PyramidPooling(last)
        pooled = self.pyramid.out_channels
        self.classifier = _head(pooled, head_channels(last), num_classes, dropout)
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = _head(before_last, head_channels(before_last), num_classes, dropout)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Compute logits of images float (B, 3, H, W), normalised as the encoder wants them, at their size.

        Raises:
            ValueError: If a batch has one image in train mode.
        """
        size = images.shape[2:]
        before_last, last = self.encoder(images)[-2:]
        logits = _upsample(self.classifier(self.pyramid(last)), size)
        if self.auxiliary is None or not self.training:
            return SegmentationOutput(logits)
        return SegmentationOutput(logits, _upsample(self.auxiliary(before_last), size))


def pspnet(
    encoder: str,
    num_classes: int,
    *,
    weights: str | None = None,
    auxiliary: bool = True,
    dropout: float = 0.1,
    output_stride: int = 8,
    encoder_options: Mapping[str, Any] | None = None,
) -> PSPNet:
    """Build a PSPNet (Zhao et al., CVPR 2017) on a timm encoder.

    Each pyramid branch has C/4 channels, the head over them max(C/4, 32) and the auxiliary head a
    quarter of its own stage's, at least 32, with C the channels of the encoder's last stage.

    Args:
        encoder: A timm model name, for instance "resnet18", "resnet101" or "test_resnet".
        num_classes: Classes of the logits, at least 2.
        weights: None for a random start; "imagenet" loads (and where needed downloads) timm's
            weights.
        auxiliary: Whether to add the auxiliary head for supervised training. Distillation does not
            use it.
        dropout: Share of channels dropped before each classifier in train mode, in [0, 1).
        output_stride: Pixels of the image per cell of the encoder's last map: 8, 16 or 32.
        encoder_options: Further arguments of the timm model, such as a ResNet's `channels`.

    Raises:
        ValueError: If the encoder is unknown or cannot have this output stride, or an argument is out
            of its range.
        ModuleNotFoundError: If timm is not installed.

    >>> model = pspnet("test_resnet", 10).eval()
    >>> model(torch.zeros(1, 3, 40, 60)).logits.shape
    torch.Size([1, 10, 40, 60])
    """
    if num_classes < 2:
        raise ValueError(f"expected num_classes of at least 2, got {num_classes}")
    if weights not in (None, "imagenet"):
        raise ValueError(f"expected weights None or 'imagenet', got {weights!r}")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"expected output_stride 8, 16 or 32, got {output_stride}")
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")
    options = {"output_stride": output_stride, **(encoder_options or {})}
    maps = timm_encoder(encoder, pretrained=weights is not None, **options)
    info = maps.feature_info
    stride = info.reduction()[-1]
    if stride != output_stride:
        raise ValueError(
            f"timm's {encoder!r} ends at stride {stride}, not at {output_stride}; "
            "choose an encoder that can be dilated, such as a ResNet"
        )
    before_last, last = info.channels()[-2:]
    heads: dict[str, Any] = {"auxiliary": auxiliary, "dropout": dropout}
    return PSPNet(maps, (before_last, last), num_classes, output_stride=output_stride, **heads)
