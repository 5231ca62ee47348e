"""Rows that belong to a class: one per image, or one per image and class where labels belong to positions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmce.losses.distillation import IGNORE_INDEX

# Class of what lies in no box; padding has it in the labels too, and is left out there.
BACKGROUND = -1
_BOX_FIELDS = (5, 6)


def checked_labels(labels: Tensor, samples: int) -> Tensor:
    """Return labels of a probe in one of three forms.

    Args:
        labels: Classes int (N,), maps of classes int (N,H,W), or boxes float (N,M,5 or 6), see `Probe`.
        samples: N.

    Raises:
        ValueError: If they have another form, or another number of samples.
    """
    labels = torch.as_tensor(labels)
    whole = not labels.is_floating_point() and not labels.is_complex()
    boxes = not whole and labels.ndim == 3 and labels.shape[2] in _BOX_FIELDS
    if not ((whole and labels.ndim in (1, 3)) or boxes):
        raise ValueError(
            "expected labels of the probe as whole numbers (N,) or (N,H,W), or boxes (N,M,5) or (N,M,6) as floats, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    if len(labels) != samples:
        raise ValueError(f"the probe has {samples} samples, and labels for {len(labels)}")
    return labels


def labelled_rows(
    name: str, output: Tensor, labels: Tensor, images: torch.Size
) -> tuple[Tensor, Tensor]:
    """Average a module's outputs over the positions of each class in each image.

    Args:
        name: The module, for messages.
        output: (N,C) or (N,C,…), channels in the second axis.
        labels: As `checked_labels` returns them.
        images: Shape (N,·,H,W) of what the model was given; boxes are in its pixels.

    Returns:
        Rows float32 (R,C) and their classes int64 (R,): R = N for classes of images.

    Raises:
        ValueError: If labels of positions meet an output without positions.
    """
    x = output.detach().float()
    if labels.ndim == 1:
        known = labels >= 0
        rows = x.flatten(2).mean(2) if x.ndim > 2 else x
        return rows[known], labels[known].long()
    if x.ndim != 4:
        raise ValueError(
            f"module {name!r} returned {tuple(output.shape)}, and the labels belong to positions; name a module "
            "that returns maps (N, C, h, w)"
        )
    height, width = x.shape[2:]
    if not labels.is_floating_point():
        found = [int(c) for c in torch.unique(labels).tolist() if c >= 0 and c != IGNORE_INDEX]
        shares = {
            c: F.adaptive_avg_pool2d((labels == c).float()[:, None], (height, width))[:, 0]
            for c in found
        }
    else:
        if len(images) != 4:
            raise ValueError("labels are boxes in pixels, but the model is given no images")
        shares = _box_shares(labels, (height, width), (images[2], images[3]))
    found_rows, classes = [x.new_zeros(0, x.shape[1])], [labels.new_zeros(0, dtype=torch.long)]
    for label, share in shares.items():
        weight = share.flatten(1)  # (N,h·w)
        total = weight.sum(1)
        present = total > 1e-6
        mean = torch.einsum("ncp,np->nc", x[present].flatten(2), weight[present])
        found_rows.append(mean / total[present, None])
        classes.append(torch.full((len(mean),), label, device=x.device))
    return torch.cat(found_rows), torch.cat(classes)


def _box_shares(
    packed: Tensor, cells: tuple[int, int], pixels: tuple[int, int]
) -> dict[int, Tensor]:
    """Return class → share (N,h,w) of each cell that its boxes cover; the background has what no box covers."""
    height, width = cells
    scale = packed.new_tensor([width / pixels[1], height / pixels[0]]).repeat(2)
    boxes, classes = packed[..., :4].float() * scale, packed[..., 4].long()
    over_x = _overlaps(boxes[..., 0], boxes[..., 2], width)  # (N,M,w)
    over_y = _overlaps(boxes[..., 1], boxes[..., 3], height)
    covered = over_y[..., :, None] * over_x[..., None, :]  # (N,M,h,w)
    covered = covered * (classes >= 0)[..., None, None]
    # What is to be ignored belongs to no class and not to the background.
    counts = torch.ones_like(classes, dtype=torch.bool)
    if packed.shape[2] > 5:
        counts = packed[..., 5] <= 0
    shares = {BACKGROUND: 1 - covered.amax(1)}
    for label in torch.unique(classes[classes >= 0]).tolist():
        own = ((classes == label) & counts)[..., None, None]
        shares[int(label)] = (covered * own).amax(1)
    return shares


def _overlaps(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Return by how much of each of the cells 0 … n − 1 intervals (N,M) overlap: (N,M,n)."""
    start = torch.arange(cells, device=low.device)
    top, bottom = high[..., None].minimum(start + 1.0), low[..., None].maximum(start + 0.0)
    return (top - bottom).clamp(min=0)
