"""Detection with raw FCOS outputs: supervised losses, function matching, COCO scores, agreement."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fmce.data.batch import PoolBatch
from fmce.data.detection.boxes import to_labels, unpack_boxes
from fmce.engine.loop import Batches, StepOutput
from fmce.engine.runtime import Runtime
from fmce.losses.detection import detection_distillation, fcos_losses
from fmce.metrics.detection import DetectionAgreement, detection_scores
from fmce.models.detection import DetectionOutput, detection_output, detections
from fmce.models.features import eval_mode


class DetectionTask:
    """Detection: raw outputs at every location, scored by COCO's AP."""

    score_name = "ap"
    agreement_name = "ap_to_teacher"

    def __init__(self, num_classes: int, class_names: tuple[str, ...]) -> None:
        """Keep the classes."""
        self.num_classes, self.class_names = num_classes, class_names

    def outputs(self, model: nn.Module, images: Tensor) -> DetectionOutput:
        """Return the checked raw outputs of images (B,3,H,W)."""
        return detection_output(model(images), images, self.num_classes)

    def supervised_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> StepOutput:
        """Return the sum of torchvision's three FCOS losses; targets are packed boxes (B, M, 6)."""
        losses = fcos_losses(self.outputs(model, images), *to_labels(targets))
        return StepOutput(losses.total(), len(images), {}, losses.divisor)

    def distillation_loss(
        self, student: DetectionOutput, teacher: DetectionOutput, temperature: float
    ) -> StepOutput:
        """Return the sum of `detection_distillation` as loss, and its three parts."""
        del temperature  # the config allows 1 alone
        losses = detection_distillation(student, teacher)
        parts = {f"loss_{name}": value for name, value in losses.parts().items()}
        return StepOutput(losses.total(), len(student.class_logits), {}, losses.divisor, parts)

    def scores(self, model: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, Any]:
        """Return COCO's scores and the AP of each class."""
        truth, predictions = [], []
        for batch, output in self._run(model, batches, runtime):
            if batch.targets is None:
                raise ValueError("scores need labelled images; these have no targets")
            truth += unpack_boxes(batch.targets.cpu())
            predictions += _detect(output, batch)
        gather = runtime.ranks.all_gather_objects
        truth, predictions = (list(chain(*gather(own))) for own in (truth, predictions))
        return detection_scores(truth, predictions, self.num_classes).to_dict(self.class_names)

    def agreement(
        self, student: nn.Module, teacher: nn.Module, batches: Batches, runtime: Runtime
    ) -> Mapping[str, Any]:
        """Return AP with the teacher's boxes (score ≥ 0.3) as truth, and the mean class KL in nats."""
        total, none = DetectionAgreement(self.num_classes), DetectionAgreement(self.num_classes)
        both = (self._run(network, batches, runtime) for network in (student, teacher))
        for (batch, ours), (_, theirs) in zip(*both, strict=True):
            found = (_detect(ours, batch), _detect(theirs, batch))
            total.update(*found, ours.class_logits, theirs.class_logits)
        return sum(runtime.ranks.all_gather_objects(total), none).compute()

    def predict(
        self, model: nn.Module, batches: Batches, runtime: Runtime
    ) -> list[dict[str, Tensor]]:
        """Return the boxes detected in each image, on the CPU."""
        run = self._run(model, batches, runtime)
        return [image for batch, output in run for image in _detect(output, batch)]

    @torch.inference_mode()
    def _run(
        self, model: nn.Module, batches: Batches, runtime: Runtime
    ) -> Iterator[tuple[PoolBatch, DetectionOutput]]:
        with eval_mode(model):
            for batch in batches.epoch(0):
                with runtime.autocast():
                    yield batch, self.outputs(model, runtime.to_device(batch.images))


def _detect(output: DetectionOutput, batch: PoolBatch) -> list[dict[str, Tensor]]:
    height, width = batch.images.shape[2:]
    found = detections(output, (height, width))
    return [{name: value.cpu() for name, value in image.items()} for image in found]
