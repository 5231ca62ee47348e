"""What the experiments with recorded trainings share: images as tensors, and an epoch in a plain loop."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.classification.classification import load_classification
from fmce.data.transforms import normalize
from fmce.recorder.recorder import Recorder
from fmce.seeding import epoch_seed

Part = tuple[Tensor, Tensor]
"""Images (N,C,H,W), normalised, and what they are trained on (N,…)."""


def classification_parts(name: str, train: int, held_out: int) -> tuple[Part, Part, Part]:
    """Return so many images of a data set for training, and for validation and test, the same in every call."""
    data = load_classification(name)
    parts = []
    for images, count in (
        (data.train, train),
        (data.validation, held_out),
        (data.test, held_out),
    ):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        chosen = images.select(order[:count])
        x = normalize(chosen.images.float() / 255, data.mean, data.std)
        parts.append((x, chosen.targets))
    return parts[0], parts[1], parts[2]


def data_root(name: str) -> str:
    """Return a data set's folder below FMCE_DATA.

    Raises:
        ValueError: If FMCE_DATA is not set.
    """
    named = os.environ.get("FMCE_DATA")
    if not named:
        raise ValueError(f"{name} is looked for below FMCE_DATA, which is not set")
    return str(Path(named) / name)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: Part,
    seed: int,
    recorder: Recorder,
    *,
    batch: int = 64,
    loss_fn: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    vary: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Train one epoch, the recorder's next, in an order of (seed, epoch)."""
    x, y = part
    draw = torch.Generator().manual_seed(epoch_seed(seed, recorder.epoch + 1))
    model.train()
    for index in torch.randperm(len(x), generator=draw).split(batch):  # type: ignore[no-untyped-call]
        if len(index) < 2:  # batch norm needs two
            continue
        images, targets = x[index], y[index]
        if vary is not None:
            images, targets = vary(images, targets, draw)
        loss = loss_fn(model(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        recorder.step(loss, len(index))


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Any]:
    """Return what a model gives for batches of 64 images, in eval mode."""
    model.eval()
    return [model(part) for part in images.split(64)]  # type: ignore[no-untyped-call]
