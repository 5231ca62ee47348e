"""The original task: image classification with cross-entropy (FMCE paper, Section IV-A)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.batch import ImageBatch
from fmce.engine.loop import Batches, StepOutput
from fmce.engine.runtime import Runtime
from fmce.models.features import eval_mode


class ClassifierScores(NamedTuple):
    """Mean cross-entropy in nats, and the fraction of images classified correctly."""

    loss: float
    accuracy: float


def classification_step(
    model: nn.Module, smoothing: float = 0.0
) -> Callable[[ImageBatch], StepOutput]:
    """Return the training step of a classifier with logits (B, classes): cross-entropy alone.

    Args:
        model: Images → logits.
        smoothing: Share of each target that all classes get alike. The epoch's `task_loss` is then cross-entropy
            without it.
    """

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"expected logits, one tensor, got a {type(logits).__name__} in training mode; let the model "
                "return no auxiliary outputs"
            )
        loss, plain = smoothed_losses(logits, batch, smoothing)
        sums = {"task_loss": plain.detach() * len(batch.targets)} if smoothing else {}
        return classifier_output(loss, logits, batch, **sums)

    return step


def smoothed_losses(logits: Tensor, batch: ImageBatch, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return mean cross-entropy with smoothed targets, which trains, and without, which curves show."""
    plain = F.cross_entropy(logits.float(), batch.targets)
    if not smoothing:
        return plain, plain
    return F.cross_entropy(logits.float(), batch.targets, label_smoothing=smoothing), plain


def classifier_output(
    loss: Tensor, logits: Tensor, batch: ImageBatch, **sums: Tensor
) -> StepOutput:
    """Return a step's output, with the number of correct predictions added to its sums."""
    correct = (logits.argmax(1) == batch.targets).sum()
    return StepOutput(loss, len(batch.targets), {"accuracy": correct, **sums})


@torch.inference_mode()
def evaluate_classifier(model: nn.Module, batches: Batches, runtime: Runtime) -> ClassifierScores:
    """Evaluate on every image, in eval mode; the model's own modes are restored.

    Args:
        model: Images → logits (B, classes).
        batches: Unvaried images. Each of several ranks evaluates its share, and all get the scores of the full set.
        runtime: Device and precision.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=runtime.device)  # loss, correct, images
    with eval_mode(model):
        for batch in batches.epoch(0):
            if not len(batch.targets):
                continue  # the last batch may have fewer images than there are ranks
            images, targets = runtime.to_device(batch.images), runtime.to_device(batch.targets)
            with runtime.autocast():
                logits = model(images).float()
            sums[0] += F.cross_entropy(logits, targets, reduction="sum")
            sums[1] += (logits.argmax(1) == targets).sum()
            sums[2] += len(targets)
    loss, correct, images = runtime.ranks.all_reduce(sums).tolist()
    return ClassifierScores(loss / images, correct / images)
