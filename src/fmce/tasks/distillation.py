"""Function matching: a student imitates its teacher's outputs on the very same view; no label is used.

Beyer et al., CVPR 2022, and the driving-scene slides of 2022. A task defines a network's outputs, their losses and
their scores; the training loop knows nothing of which task it is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.batch import PoolBatch
from fmce.engine.loop import Batches, StepOutput
from fmce.engine.runtime import Runtime
from fmce.losses.distillation import IGNORE_INDEX, kl_distillation, segmentation_cross_entropy
from fmce.metrics.agreement import Agreement
from fmce.metrics.segmentation import confusion, segmentation_scores
from fmce.models.features import eval_mode
from fmce.models.pspnet import segmentation_output


class DistillationTask(Protocol):
    """What function matching needs of a task.

    `outputs` must give student and teacher tensors of one shape for the same images (B,3,H,W). Of several ranks each
    evaluates its share of the batches, and all get the scores of the complete set.
    """

    score_name: str
    """Name of the one number in `scores` that ranks networks, 0 to 1."""
    agreement_name: str
    """Name of the one number in `agreement` for how alike student and teacher answer, 0 to 1."""

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return the task's own loss on labelled images."""

    def outputs(self, model: nn.Module, images: Tensor) -> Any:
        """Return the outputs that the student imitates."""

    def distillation_loss(self, student: Any, teacher: Any, temperature: float) -> StepOutput:
        """Return the distance of the student's outputs from the teacher's, and its parts."""

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Evaluate against labels; the result holds `score_name`."""

    def agreement(
        self, student: nn.Module, teacher: nn.Module, batches: Batches, runtime: Runtime
    ) -> Mapping[str, Any]:
        """Compare both networks' answers, without labels; the result holds `agreement_name` and "mean_kl"."""


class LogitsTask:
    """What classification and segmentation share: one softmax per position, compared by KL."""

    agreement_name = "argmax_agreement"
    num_classes: int

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (B,C) or (B,C,H,W)."""
        raise NotImplementedError

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> StepOutput:
        """Return the mean KL(teacher‖student) over positions, at a temperature."""
        return StepOutput(kl_distillation(student, teacher, temperature), len(student), {})

    @torch.inference_mode()
    def agreement(
        self, student: nn.Module, teacher: nn.Module, batches: Batches, runtime: Runtime
    ) -> Mapping[str, Any]:
        """Return argmax agreement, mean KL in nats, mIoU with the teacher's classes as truth, and positions."""
        total = Agreement(self.num_classes)
        with eval_mode(student), eval_mode(teacher):
            for batch in batches.epoch(0):
                images = runtime.to_device(batch.images)
                with runtime.autocast():
                    ours, theirs = (self.outputs(net, images).float() for net in (student, teacher))
                    total.update(ours, theirs)
        everywhere = runtime.ranks.all_gather_objects(total)
        return sum(everywhere, Agreement(self.num_classes)).compute().to_dict()

    def _predictions(
        self, model: nn.Module, batches: Batches, runtime: Runtime
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield targets and logits of each batch."""
        with torch.inference_mode(), eval_mode(model):
            for batch in batches.epoch(0):
                if batch.targets is None:
                    raise ValueError("scores need labelled images; these have no targets")
                with runtime.autocast():
                    logits = self.outputs(model, runtime.to_device(batch.images)).float()
                yield runtime.to_device(batch.targets), logits


class ClassificationTask(LogitsTask):
    """Classification: logits (B,C), scored by accuracy."""

    score_name = "accuracy"

    def __init__(self, num_classes: int) -> None:
        """Keep the number of classes."""
        self.num_classes = num_classes

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return the cross-entropy."""
        return StepOutput(F.cross_entropy(model(images).float(), targets), len(images), {})

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the classifier's logits (B,C)."""
        logits: Tensor = model(images)
        return logits

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Return the accuracy."""
        counts = torch.zeros(2, dtype=torch.int64, device=runtime.device)  # correct, and all
        for targets, logits in self._predictions(model, batches, runtime):
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
        """Return the cross-entropy, plus 0.4 times the auxiliary head's where the model has one."""
        output = segmentation_output(model(images), images)
        loss = segmentation_cross_entropy(output.logits, targets, output.auxiliary_logits)
        return StepOutput(loss, len(images), {}, (targets != IGNORE_INDEX).sum())

    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return full-resolution logits (B,C,H,W)."""
        return segmentation_output(model(images), images).logits

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Return mIoU, pixel accuracy and the IoU of each class."""
        classes = self.num_classes
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=runtime.device)
        for targets, logits in self._predictions(model, batches, runtime):
            counts += confusion(logits.argmax(1), targets, classes)
        total = runtime.ranks.all_reduce(counts).cpu()
        return segmentation_scores(total).to_dict(self.class_names)


def supervised_step(task: DistillationTask, model: nn.Module) -> Callable[[PoolBatch], StepOutput]:
    """Return the step of the supervised arm, and of the teacher."""

    def step(batch: PoolBatch) -> StepOutput:
        if batch.targets is None:
            raise ValueError("the supervised arm needs labelled images; this pool has no targets")
        return task.supervised_loss(model, batch.images, batch.targets)

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
