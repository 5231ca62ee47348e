"""Function matching: a student imitates a teacher's outputs on the very same view; labels are not used.

Beyer et al., CVPR 2022, and the driving-scene slides of 2022. A task says what a network's output is
and what it costs to differ; the loop that trains knows nothing of which task it is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.batch import PoolBatch
from fmce.engine.loop import Batches, StepOutput
from fmce.engine.runtime import Runtime
from fmce.losses.distillation import (
    IGNORE_INDEX,
    kl_distillation,
    segmentation_cross_entropy,
)
from fmce.metrics.agreement import Agreement, agreement_compute, empty_agreement
from fmce.metrics.segmentation import SegmentationScores, confusion, segmentation_scores
from fmce.models.features import eval_mode
from fmce.models.pspnet import segmentation_output


class DistillationTask(Protocol):
    """What function matching needs to know of a task."""

    score_name: str
    """Name of the one number that says how good a network is, 0 to 1."""
    agreement_name: str
    """Name, in `agreement`, of the one number that says how alike student and teacher are, 0 to 1."""

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return the task's own loss."""
        ...

    def outputs(self, model: nn.Module, images: Tensor) -> Any:
        """Return the outputs that are matched."""
        ...

    def distillation_loss(self, student: Any, teacher: Any, temperature: float) -> StepOutput:
        """Return what it costs that the student's outputs are not the teacher's, and its parts."""
        ...

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Evaluate against labels; holds `score_name`."""
        ...

    def agreement(
        self, student: nn.Module, teacher: nn.Module, batches: Batches, runtime: Runtime
    ) -> Mapping[str, Any]:
        """Measure how alike both answer, without labels; holds `agreement_name` and "mean_kl"."""
        ...


class LogitsTask:
    """What classification and segmentation share: one softmax a position, compared by KL."""

    agreement_name = "argmax_agreement"
    num_classes: int

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (B,C) or (B,C,H,W)."""
        raise NotImplementedError

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.logits(model, images)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> StepOutput:
        """Return KL(teacher‖student), a mean over positions, at a temperature."""
        return StepOutput(kl_distillation(student, teacher, temperature), len(student), {})

    def agreement(
        self, student: nn.Module, teacher: nn.Module, batches: Batches, runtime: Runtime
    ) -> Mapping[str, Any]:
        """See `agreement` of this module."""
        return agreement(self, self.num_classes, student, teacher, batches, runtime)


class ClassificationTask(LogitsTask):
    """Classification: logits (B,C), scored by accuracy."""

    score_name = "accuracy"

    def __init__(self, num_classes: int) -> None:
        """Keep the number of classes."""
        self.num_classes = num_classes

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return cross-entropy."""
        return StepOutput(F.cross_entropy(model(images).float(), targets), len(images), {})

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the classifier's logits (B,C)."""
        logits: Tensor = model(images)
        return logits

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Return the accuracy."""
        counts = torch.zeros(2, dtype=torch.int64, device=runtime.device)  # correct, and all
        for targets, logits in _predictions(self, model, batches, runtime):
            counts[0] += (logits.argmax(1) == targets).sum()
            counts[1] += len(logits)
        correct, total = runtime.ranks.all_reduce(counts).tolist()
        return {"accuracy": correct / total}


class SegmentationTask(LogitsTask):
    """Segmentation: logits (B,C,H,W) at the image's size, scored by mIoU."""

    score_name = "miou"

    def __init__(self, num_classes: int, class_names: tuple[str, ...]) -> None:
        """Keep the classes."""
        self.num_classes, self.class_names = num_classes, class_names

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return cross-entropy with the auxiliary head's at 0.4 where the model has one."""
        output = segmentation_output(model(images), images)
        loss = segmentation_cross_entropy(output.logits, targets, output.auxiliary_logits)
        return StepOutput(loss, len(images), {}, (targets != IGNORE_INDEX).sum())

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return full-resolution logits (B,C,H,W)."""
        return segmentation_output(model(images), images).logits

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Return mIoU, pixel accuracy and the IoU of each class."""
        return self.segmentation_scores(model, batches, runtime).to_dict(self.class_names)

    def segmentation_scores(
        self, model: nn.Module, batches: Batches, runtime: Runtime
    ) -> SegmentationScores:
        """Return the scores with their int64 counts behind them."""
        size, device = (self.num_classes, self.num_classes), runtime.device
        counts = torch.zeros(size, dtype=torch.int64, device=device)
        for targets, logits in _predictions(self, model, batches, runtime):
            counts += confusion(logits.argmax(1), targets, self.num_classes)
        return segmentation_scores(runtime.ranks.all_reduce(counts).cpu())


def supervised_step(
    task: DistillationTask, student: nn.Module
) -> Callable[[PoolBatch], StepOutput]:
    """Return the step of the supervised arm, and of the teacher."""

    def step(batch: PoolBatch) -> StepOutput:
        if batch.targets is None:
            raise ValueError("the supervised arm needs labelled images; this pool has no targets")
        return task.supervised_loss(student, batch.images, batch.targets)

    return step


def distillation_step(
    task: DistillationTask,
    student: nn.Module,
    teacher_outputs: Callable[[Tensor], Any],
    *,
    temperature: float = 1.0,
    mix: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[PoolBatch], StepOutput]:
    """Return the step of the distilled arms: student against teacher on the very same view.

    Args:
        task: Defines outputs and loss.
        student: The network that is trained.
        teacher_outputs: Images (B,3,H,W) → the frozen teacher's outputs, without gradients.
        temperature: T; the loss carries T².
        mix: Applied to the images once, before either network sees them.
    """

    def step(batch: PoolBatch) -> StepOutput:
        images = batch.images if mix is None else mix(batch.images)
        wanted = teacher_outputs(images)
        return task.distillation_loss(task.outputs(student, images), wanted, temperature)

    return step


@torch.inference_mode()
def agreement(
    task: LogitsTask,
    num_classes: int,
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    runtime: Runtime,
) -> Mapping[str, Any]:
    """Measure how alike student and teacher answer on unvaried images; no label is used.

    Returns:
        Argmax agreement, mean KL in nats, mIoU with the teacher's labels as truth, positions.
    """
    total = Agreement(num_classes)
    with eval_mode(student), eval_mode(teacher):
        for batch in batches.epoch(0):
            images = runtime.to_device(batch.images)
            with runtime.autocast():
                total.update(
                    task.logits(student, images).float(), task.logits(teacher, images).float()
                )
    states = runtime.ranks.all_gather_objects(total.state)
    return agreement_compute(sum(states, empty_agreement(num_classes))).to_dict()


class _Prediction(NamedTuple):
    targets: Tensor
    logits: Tensor


def _predictions(
    task: LogitsTask, model: nn.Module, batches: Batches, runtime: Runtime
) -> Iterator[_Prediction]:
    with torch.inference_mode(), eval_mode(model):
        for batch in batches.epoch(0):
            if batch.targets is None:
                raise ValueError("scores need labelled images; these have no targets")
            with runtime.autocast():
                logits = task.logits(model, runtime.to_device(batch.images)).float()
            yield _Prediction(runtime.to_device(batch.targets), logits)
