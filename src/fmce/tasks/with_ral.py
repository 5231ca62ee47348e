"""FMCE-Net++: the task's loss beside the frozen FMCE-Net's (Representation Auxiliary Loss, Eq. 4–5)."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.data.batch import ImageBatch
from fmce.engine.loop import StepOutput
from fmce.losses.ral import feature_matching_loss, fmcs_loss, representation_auxiliary_loss
from fmce.tasks.classify import classifier_output


class CapturedMaps(Protocol):
    """Maps of the model's latest call: an open `FeatureMaps`, or a `CompiledModel`."""

    def single(self, name: str) -> Tensor:
        """Return the maps (B,C,h,w) of a submodule."""
        ...


def ral_step(
    model: nn.Module,
    maps: CapturedMaps,
    tap: str,
    oracle: nn.Module,
    *,
    raf: float,
    target_phase: int | None = None,
) -> Callable[[ImageBatch], StepOutput]:
    """Return FMCE-Net++'s training step.

    Args:
        model: the classifier; its maps at `tap` get the oracle's gradient.
        maps: an open capture of `model` at `tap` that keeps gradients.
        tap: submodule that gives the feature map.
        oracle: frozen FMCE-Net in eval mode: maps (B,C,h,w) → phase logits (B,K).
        raf: weight of the task's loss, 0 to 1.
        target_phase: phase every map is pulled to; None is the last.
    """

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        base = F.cross_entropy(logits.float(), batch.targets)
        phase_logits = oracle(maps.single(tap))
        loss = representation_auxiliary_loss(base, phase_logits, raf, target_phase)
        # The curve stays the task's, so that CQI and phases mean the same with and without RAL.
        sums = _sums(base, fmcs_loss(phase_logits.detach(), target_phase), batch)
        return classifier_output(loss, logits, batch, **sums)

    return step


def feature_matching_step(
    model: nn.Module,
    maps: CapturedMaps,
    tap: str,
    teacher_maps: Callable[[Tensor], Tensor],
    *,
    raf: float,
) -> Callable[[ImageBatch], StepOutput]:
    """Return the control that pulls maps to those of a checkpoint instead of to a phase.

    Args:
        model: the classifier.
        maps: an open capture of `model` at `tap` that keeps gradients.
        tap: submodule that gives the feature map.
        teacher_maps: images → the checkpoint's maps on the same view.
        raf: weight of the task's loss, 0 to 1.
    """

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        base = F.cross_entropy(logits.float(), batch.targets)
        with torch.no_grad():
            wanted = teacher_maps(batch.images)
        matching = feature_matching_loss(maps.single(tap), wanted)
        loss = raf * base + (1 - raf) * matching
        return classifier_output(loss, logits, batch, **_sums(base, matching, batch))

    return step


def _sums(base: Tensor, auxiliary: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
    count = len(batch.targets)
    return {"task_loss": base.detach() * count, "auxiliary_loss": auxiliary.detach() * count}
