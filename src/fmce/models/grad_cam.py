"""Grad-CAM (Selvaraju et al., arXiv:1610.02391, by captum) over the phases of a training, and numbers of it.

The FMCE paper (section V-D) shows its pictures only; the numbers are ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fmce.models.features import FeatureMaps, check_map, eval_mode, find_module

_FloatArray = NDArray[np.float64]


class CamNumbers(NamedTuple):
    """What a class activation map shows, one value per image; NaN for an all-zero map.

    None of these is given in the FMCE paper, which describes the pictures in words.

    Attributes:
        gini: Concentration of the map's energy, Gini coefficient of its n cells: 0 for a uniform
            map, (n − 1)/n when one cell holds all.
        area_above_half_max: Fraction of cells strictly above half of the map's maximum, in (0, 1].
        centroid_drift: Distance between the energy's centroid and the previous phase's, as a
            fraction of the map's side (each axis by its own side); NaN without a previous map.
        overlap: Intersection over union of the two areas above half maximum, this phase's and the
            previous one's, in [0, 1]; NaN without a previous map.
    """

    gini: _FloatArray
    area_above_half_max: _FloatArray
    centroid_drift: _FloatArray
    overlap: _FloatArray


def grad_cam(
    model: nn.Module, images: Tensor, targets: Tensor, layer: str, *, signed: bool = False
) -> Tensor:
    """Compute Grad-CAM maps of the target classes at the layer's own resolution.

    map = ReLU(Σ_c a_c·A_c) with a_c the mean gradient of the target's logit over channel c of the
    layer's output A (Eq. 1 and 2 of Grad-CAM). Rectified, zero means "nothing in favour", not
    "against". The model runs in eval mode and is left as found, gradients included.

    Args:
        model: Classifier that returns logits (B, num_classes); a compiled one runs uncompiled.
        images: (B, C, H, W) images, on the model's device.
        targets: (B,) class indices from 0; the paper's pictures show the true class.
        layer: Name of the submodule, as in `model.named_modules()`, that is called once a forward.
        signed: Leave out the final ReLU, so that evidence against the class is negative.

    Returns:
        (B, h, w) raw maps in float32, in logit units, not normalised: one colour scale over the
        phases of an image needs the raw values.

    Raises:
        ValueError: If the layer is unknown (near names are listed), not called, called several times
            or returns no (B, C, h, w) tensor, or if `targets` are not B classes of the model.
        ModuleNotFoundError: If captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Grad-CAM needs the package captum: pip install 'fmce[explain]'"
        ) from error
    # Autograd must record whatever the caller switched off around this call.
    with torch.inference_mode(False), torch.enable_grad(), FeatureMaps(model, layer) as maps:
        network = maps.model

        def target_logits(batch: Tensor) -> Tensor:
            logits: Tensor = network(batch)
            maps.single(layer)  # names the problem where captum would fail with an assertion
            count, classes = logits.shape
            # A GPU would only report an assert.
            if targets.shape != (count,) or targets.min() < 0 or targets.max() >= classes:
                raise ValueError(
                    f"expected targets ({count},) with classes in 0 … {classes - 1}, got shape "
                    f"{tuple(targets.shape)} with {targets.min()} … {targets.max()}; classes count from 0"
                )
            return logits

        with eval_mode(network), _gradients_from(network, layer):
            attribution = LayerGradCam(target_logits, find_module(network, layer))
            cam: Tensor = attribution.attribute(
                images.detach(), target=targets, relu_attributions=not signed
            )
    return cam.detach().squeeze(1).float()


@contextmanager
def _gradients_from(network: nn.Module, layer: str) -> Iterator[None]:
    """Let autograd record what follows the layer only: all that comes before takes no part in the maps."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def start(_module: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor):
            return output
        check_map(output, layer, carries_gradient=torch.is_grad_enabled())
        return output.detach().requires_grad_()

    hook = find_module(network, layer).register_forward_hook(start)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        hook.remove()
        for parameter in trained:
            parameter.requires_grad_()


def cam_numbers(cam: Tensor | ArrayLike, previous: Tensor | ArrayLike | None = None) -> CamNumbers:
    """Measure rectified class activation maps at their own resolution.

    Args:
        cam: (B, h, w) maps, finite and at least 0; for signed ones pass `cam.clip(0)`.
        previous: (B, h, w) maps of the previous phase for the same images; None for the first.

    Raises:
        ValueError: If a map is not (B, h, w), finite and non-negative, or the shapes differ.

    >>> numbers = cam_numbers([[[0.0, 0.0], [0.0, 4.0]]], previous=[[[0.0, 0.0], [4.0, 0.0]]])
    >>> [float(values[0]) for values in numbers]
    [0.75, 0.25, 0.5, 0.0]
    """
    maps = _checked_maps("cam", cam)
    undefined = np.full(len(maps), np.nan)
    drift, overlap = undefined, undefined.copy()
    if previous is not None:
        before = _checked_maps("previous", previous)
        if before.shape != maps.shape:
            raise ValueError(
                f"expected previous of cam's shape {maps.shape}, got {before.shape}; "
                "compare maps of the same images and layer"
            )
        drift = np.linalg.norm(_centroids(maps) - _centroids(before), axis=1)
        overlap = _overlap(maps, before)
    area = np.where(maps.any(axis=(1, 2)), _above_half(maps).mean(axis=(1, 2)), np.nan)
    return CamNumbers(_gini(maps), area, drift, overlap)


def _checked_maps(name: str, values: Tensor | ArrayLike) -> _FloatArray:
    source = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    maps = np.asarray(source, dtype=np.float64)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"expected {name} of shape (B, h, w), got {maps.shape}; keep the batch")
    if not np.isfinite(maps).all() or maps.min() < 0:
        raise ValueError(
            f"expected {name} finite and at least 0, got values in {maps.min()} … {maps.max()}; "
            "pass rectified maps, cam.clip(0)"
        )
    return maps


def _above_half(maps: _FloatArray) -> NDArray[np.bool_]:
    return np.asarray(maps > maps.max(axis=(1, 2), keepdims=True) / 2)


def _fraction(part: _FloatArray, total: _FloatArray) -> _FloatArray:
    """Divide elementwise, NaN where the total is 0."""
    fractions = np.full(part.shape, np.nan)
    np.divide(part, total, out=fractions, where=total > 0)
    return fractions


def _gini(maps: _FloatArray) -> _FloatArray:
    """Return Σ_i (2i − n − 1)·x_i / (n·Σ x) over the n cells in rising order."""
    cells = np.sort(maps.reshape(len(maps), -1), axis=1)
    n = cells.shape[1]
    weights = 2 * np.arange(1, n + 1) - n - 1
    return _fraction((cells * weights).sum(axis=1), n * cells.sum(axis=1))


def _centroids(maps: _FloatArray) -> _FloatArray:
    """Return (B, 2) energy centroids (down, right) as fractions of the map's sides."""
    energy = maps.sum(axis=(1, 2))
    rows, columns = np.arange(maps.shape[1]), np.arange(maps.shape[2])
    down = _fraction((maps.sum(axis=2) * rows).sum(axis=1), energy) / len(rows)
    right = _fraction((maps.sum(axis=1) * columns).sum(axis=1), energy) / len(columns)
    return np.stack([down, right], axis=1)


def _overlap(maps: _FloatArray, before: _FloatArray) -> _FloatArray:
    now, then = _above_half(maps), _above_half(before)
    shared, joint = ((area.sum(axis=(1, 2), dtype=np.float64)) for area in (now & then, now | then))
    # An all-zero map has no area, and nothing to share.
    present = maps.any(axis=(1, 2)) & before.any(axis=(1, 2))
    return np.where(present, _fraction(shared, joint), np.nan)
