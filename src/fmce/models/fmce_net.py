"""FMCE-Net: the classifier that predicts from a feature map which training phase it comes from.

FMCE paper, sections IV-E and V-C; it returns logits, where the paper prints probabilities.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fmce.digests import arrays_digest
from fmce.files import replacing

_FORMAT = "fmce.FMCENet/1"
_DAMAGED = (
    SafetensorError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
)
# Not given in the paper: the least width, so that maps of few channels still get a useful network.
_MIN_CHANNELS = 16
# Not given in the paper: with a 3×3 convolution at 2048 channels the head has 24.8 M parameters.
_MAX_CHANNELS = 1024


def expected_phase(phase_logits: Tensor) -> Tensor:
    """Return the mean phases (B,) in [1, K] under the distributions with logits (B, K), Σ k·softmax(logits)_k.

    Not given in the paper, which takes the argmax only; phases are ordered, so a mean makes sense.

    >>> expected_phase(torch.zeros(1, 3))
    tensor([2.])
    """
    phases = torch.arange(1, phase_logits.shape[-1] + 1, device=phase_logits.device)
    probabilities = phase_logits.float().softmax(dim=-1)
    return (probabilities * phases).sum(dim=-1)


class _ConvBeforePool(nn.Conv2d):
    """Zero-padded convolution 3×3 that leaves out what the max-pool 2 behind it would drop.

    Of an odd side that is the last row: 13 of the 49 outputs on a map of 7×7, 5 of 9 on 3×3. Pooled values
    and gradients are the same.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, out, H, W), less the last row of an odd H and the last column of an odd W."""
        height, width = maps.shape[2:]
        if height % 2 == 0 and width % 2 == 0:
            return super().forward(maps)
        padded = F.pad(maps, (1, 1 - width % 2, 1, 1 - height % 2))
        return F.conv2d(padded, self.weight, self.bias)


def _channels(channels: int, width: float) -> tuple[int | None, int, int]:
    """Return the channels after the 1×1 reduction (None without one) and after each of the two blocks."""
    reduced = min(channels, _MAX_CHANNELS)
    first = max(_MIN_CHANNELS, reduced // 2)
    published = reduced, first, max(_MIN_CHANNELS, first // 2)
    # Not given in the paper: a narrower network has this share of the published one's channels.
    leading, *blocks = (max(1, round(width * count)) for count in published)
    return (leading if channels > _MAX_CHANNELS else None, blocks[0], blocks[1])


def _convolutions(map_shape: tuple[int, int, int], net_width: float) -> nn.Sequential:
    """Stack [1×1 reduction] and the two blocks conv 3×3 → max-pool 2 → ReLU."""
    channels, height, width = map_shape
    reduced, *blocks = _channels(channels, net_width)
    layers: list[nn.Module] = []
    if reduced is not None:
        layers += [nn.Conv2d(channels, reduced, 1), nn.ReLU(inplace=True)]
        channels = reduced
    for following in blocks:
        # Not given in the paper: a side of 1 cannot be halved, so the block keeps the size.
        if min(height, width) >= 2:
            layers += [_ConvBeforePool(channels, following, 3, padding=1), nn.MaxPool2d(2)]
            height, width = height // 2, width // 2
        else:
            layers.append(nn.Conv2d(channels, following, 3, padding=1))
        layers.append(nn.ReLU(inplace=True))
        channels = following
    return nn.Sequential(*layers)


class FMCENet(nn.Module):
    """Classify feature maps (C, H, W) into training phases 1 … num_phases.

    FMCE paper, section V-C: two blocks conv 3×3 → max-pool 2 → ReLU, each halving the channels
    (above 1024 of them a 1×1 convolution reduces to 1024 first), then one linear layer. Logit index
    = phase − 1. It takes maps of exactly the shape it was built for; the layers would run on
    another size too, but their answers for sizes never seen in training mean nothing.

    Args:
        map_shape: (C, H, W), each at least 1.
        num_phases: K, at least 2.
        width: Share of the published channels that each convolution gives, in (0, 1]. The first
            convolution, nearly all of the cost, gets cheaper in proportion.

    Raises:
        ValueError: If a size is below its least value, `map_shape` has no three entries or `width` is
            outside (0, 1].

    >>> net = FMCENet((1024, 7, 7))
    >>> sum(p.numel() for p in net.parameters())
    5901578
    >>> [p.shape[0] for p in FMCENet((1024, 7, 7), width=0.25).parameters() if p.ndim == 4]
    [128, 64]
    """

    def __init__(
        self, map_shape: tuple[int, int, int], num_phases: int = 10, *, width: float = 1.0
    ) -> None:
        super().__init__()
        _check_sizes(map_shape, num_phases, width)
        channels, height, side = map_shape
        self.map_shape = (channels, height, side)
        self.num_phases, self.width = num_phases, float(width)
        self.trained_on = ""
        self.convolutions = _convolutions(self.map_shape, self.width)
        self.head = nn.Linear(_channels(channels, self.width)[-1], num_phases)

    def forward(self, maps: Tensor) -> Tensor:
        """Return phase logits (B, num_phases) of feature maps (B, C, H, W) of any float dtype.

        Raises:
            ValueError: If the maps have another shape than the network was built for.
        """
        if maps.ndim != 4 or tuple(maps.shape[1:]) != self.map_shape:
            raise ValueError(
                f"expected maps of shape (B, {', '.join(map(str, self.map_shape))}), got "
                f"{tuple(maps.shape)}; capture the module and image size this FMCE-Net was built "
                "for, or build one with FMCENet(map_shape)"
            )
        # Maps from autocast or a half-precision store; inside autocast this changes nothing.
        maps = maps.to(self.head.weight.dtype)
        # amax equals a max-pool to 1×1 and, unlike adaptive pooling on CUDA, is deterministic.
        logits: Tensor = self.head(self.convolutions(maps).amax(dim=(2, 3)))
        return logits

    def save(self, path: str | os.PathLike[str], *, trained_on: str = "") -> None:
        """Write or replace one safetensors file with weights, shape and origin, atomically.

        `trained_on` is the run whose maps it was trained on, for which alone scores hold; empty keeps it.
        """
        self.trained_on = trained_on or self.trained_on
        config: dict[str, Any] = {"map_shape": self.map_shape, "num_phases": self.num_phases}
        if self.width != 1:  # the published network's files stay what they were
            config["width"] = self.width
        metadata = {"format": _FORMAT, "config": json.dumps(config), "trained_on": self.trained_on}
        # A shared or strided tensor cannot be stored; contiguous copies on the CPU always can.
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        metadata["sha256"] = arrays_digest(tensors, metadata)
        with replacing(Path(path)) as beside:
            beside.write_bytes(to_safetensors(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a network that `save` wrote, on the CPU and in training mode like a new one.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file was not written by `FMCENet.save`, or not completely.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no FMCE-Net file at {path}; train one first or give its path")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            noted = metadata.pop("sha256", None)
            if noted not in (None, arrays_digest(tensors, metadata)):
                raise ValueError("its SHA-256 is not the one noted when it was written")
            if metadata["format"] != _FORMAT:
                raise ValueError(f"format {metadata['format']!r}, expected {_FORMAT!r}")
            config = json.loads(metadata["config"])
            sizes = tuple(config["map_shape"]), config["num_phases"]
            width = config.get("width", 1.0)
            with torch.device("meta"):  # sizes that are not the weights' may fill the memory
                cls(*sizes, width=width).load_state_dict(tensors, assign=True)
            net = cls(*sizes, width=width)
            net.load_state_dict(tensors)
        except _DAMAGED as error:
            raise ValueError(
                f"{os.fspath(path)} is not a complete FMCE-Net file ({error}); "
                "expected a file written by FMCENet.save"
            ) from error
        net.trained_on = metadata.get("trained_on", "")
        return net


def _check_sizes(map_shape: Any, num_phases: object, width: float) -> None:
    whole = isinstance(map_shape, Sequence) and all(isinstance(size, int) for size in map_shape)
    if not whole or len(map_shape) != 3 or min(map_shape) < 1:
        raise ValueError(
            f"map_shape must be (C, H, W), whole numbers of at least 1, got {map_shape}; "
            "take it from one captured map: tuple(maps.shape[1:])"
        )
    if not isinstance(num_phases, int) or num_phases < 2:
        raise ValueError(
            f"num_phases must be a whole number of at least 2, got {num_phases}; the paper uses 10"
        )
    if not 0 < width <= 1:
        raise ValueError(
            f"width must be in (0, 1], got {width}; 1 is the published network, 0.25 has a quarter of "
            "its channels"
        )
